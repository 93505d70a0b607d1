"""An upstream's CAs for tests, made with `cryptography` alone; a test changes one thing of a good chain."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from meshca.authority.upstreams import Certification, UpstreamError
from meshca.x509.issuer import CaCertificate

DAY = timedelta(days=1)
_NO_USAGE = dict.fromkeys(
    (
        "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
        "encipher_only", "decipher_only",
    ),
    False,
)  # fmt: skip


@dataclass(frozen=True)
class Profile:
    """What a certificate of the upstream says."""

    name: str = "corp root"
    ca: bool = True
    path_length: int | None = None
    cert_sign: bool = True
    crl_sign: bool = True
    not_before: timedelta = -DAY  # from now
    life: timedelta = 365 * DAY
    algorithm: Any = field(default_factory=hashes.SHA256)
    uri: str = ""
    extensions: tuple[tuple[x509.ExtensionType, bool], ...] = ()
    key_identifier: bool = True


@dataclass(frozen=True)
class ForeignCa:
    """A CA of the upstream."""

    key: Any = field(repr=False)
    certificate: x509.Certificate
    now: datetime

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)

    def sign(self, public_key: Any, profile: Profile) -> x509.Certificate:
        return _certificate(public_key, profile, self.now, (self.key, self.certificate.subject))

    def below(self, profile: Profile, key: Any = None) -> ForeignCa:
        key = key or new_key()
        return ForeignCa(key, self.sign(key.public_key(), profile), self.now)

    def crl(
        self, number: int | None = 1, *revoked: int, since: timedelta = -DAY, until: timedelta = 3 * DAY, **extra: Any
    ) -> bytes:
        """Return a CRL in DER."""
        builder = x509.CertificateRevocationListBuilder().issuer_name(self.certificate.subject)
        builder = builder.last_update(self.now + since).next_update(self.now + until)
        if number is not None:
            builder = builder.add_extension(x509.CRLNumber(number), critical=False)
        for value, critical in extra.get("extensions", ()):
            builder = builder.add_extension(value, critical)
        for serial in revoked:
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(self.now + since)
            for value, critical in extra.get("of_entries", ()):
                entry = entry.add_extension(value, critical)
            builder = builder.add_revoked_certificate(entry.build())
        return builder.sign(self.key, extra.get("algorithm", hashes.SHA256())).public_bytes(Encoding.DER)


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def foreign_root(now: datetime, profile: Profile | None = None, key: Any = None) -> ForeignCa:
    key, profile = key or new_key(), profile or Profile()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, profile.name)])
    return ForeignCa(key, _certificate(key.public_key(), profile, now, (key, name)), now)


def rsa_key(bits: int = 2048) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, bits)


ISSUING = Profile(name="meshca issuing of the test", path_length=0, life=90 * DAY, uri="spiffe://m.test")


def _certificate(public_key: Any, profile: Profile, now: datetime, signer: tuple[Any, x509.Name]) -> x509.Certificate:
    key, issuer = signer
    subject = [x509.NameAttribute(NameOID.COMMON_NAME, profile.name)] if profile.name else []
    start = now + profile.not_before
    builder = x509.CertificateBuilder().subject_name(x509.Name(subject)).issuer_name(issuer).public_key(public_key)
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(start)
    builder = builder.not_valid_after(start + profile.life)
    usage = x509.KeyUsage(key_cert_sign=profile.cert_sign, crl_sign=profile.crl_sign, **_NO_USAGE)
    limits = x509.BasicConstraints(profile.ca, profile.path_length)
    found: list[tuple[x509.ExtensionType, bool]] = [(limits, True), (usage, True), *profile.extensions]
    if profile.key_identifier:
        found.append((x509.SubjectKeyIdentifier.from_public_key(public_key), False))
    if profile.uri:
        found.append((x509.SubjectAlternativeName([x509.UniformResourceIdentifier(profile.uri)]), False))
    for value, critical in found:
        builder = builder.add_extension(value, critical)
    return builder.sign(key, profile.algorithm)


@dataclass
class FakeUpstream:
    """An upstream in memory: ``issuer`` signs, ``above`` stand over it; ``failing`` is what it raises."""

    issuer: ForeignCa
    above: tuple[ForeignCa, ...] = ()
    profile: Profile = ISSUING
    failing: Exception | None = None
    known_crls: list[bytes] = field(default_factory=list)
    asked: list[Certification] = field(default_factory=list)
    other_key: bool = False

    def require_ready(self) -> None:
        if self.failing is not None:
            raise self.failing

    def certify(self, wanted: Certification) -> tuple[bytes, ...]:
        self.require_ready()
        self.asked.append(wanted)
        key = new_key().public_key() if self.other_key else x509.load_der_x509_csr(wanted.csr).public_key()
        profile = replace(self.profile, name=wanted.common_name, life=min(self.profile.life, wanted.life + DAY))
        issuer = replace(self.issuer, now=wanted.now)
        return (
            issuer.sign(key, profile).public_bytes(Encoding.DER),
            self.issuer.der,
            *(one.der for one in self.above),
        )

    def crls(self, cas: Any) -> tuple[bytes, ...]:
        assert all(isinstance(ca, CaCertificate) for ca in cas)
        self.require_ready()
        return tuple(self.known_crls)


AWAY = UpstreamError("the upstream does not answer")
