"""A root, an issuing CA, their CRLs and leaves, made with `cryptography` alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

T0 = datetime(2026, 11, 25, 12, 0, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def pem(made: x509.Certificate | x509.CertificateRevocationList) -> bytes:
    return made.public_bytes(serialization.Encoding.PEM)


@dataclass
class Authority:
    """A CA at one moment."""

    name: str
    at: datetime = T0
    issuer: Authority | None = None
    key: ec.EllipticCurvePrivateKey = field(default_factory=new_key, repr=False)
    certificate: x509.Certificate = field(init=False)

    def __post_init__(self) -> None:
        signer = self.issuer or self
        builder = (
            x509.CertificateBuilder()
            .subject_name(self.subject)
            .issuer_name(signer.subject)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(self.at - HOUR)
            .not_valid_after(self.at + 24 * HOUR)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self.key.public_key()), critical=False)
        )
        self.certificate = builder.sign(signer.key, hashes.SHA256())

    @property
    def subject(self) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.name)])

    def crl(self, this_update: datetime | None = None, next_update: datetime | None = None, entries: int = 0) -> bytes:
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.subject)
            .last_update(this_update or self.at - HOUR)
            .next_update(next_update or self.at + 24 * HOUR)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
        )
        for serial in range(1, entries + 1):
            revoked = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(self.at).build()
            builder = builder.add_revoked_certificate(revoked)
        return pem(builder.sign(self.key, hashes.SHA256()))

    def leaf(
        self,
        key: ec.EllipticCurvePrivateKey,
        *uris: str,
        not_before: datetime | None = None,
        not_after: datetime | None = None,
    ) -> bytes:
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(not_before or self.at - HOUR)
            .not_valid_after(not_after or self.at + HOUR)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                critical=False,
            )
        )
        if uris:
            names = [x509.UniformResourceIdentifier(uri) for uri in uris]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=True)
        return pem(builder.sign(self.key, hashes.SHA256()))


@dataclass
class Pki:
    """Root and issuing CA with empty CRLs."""

    at: datetime = T0
    root: Authority = field(init=False)
    issuing: Authority = field(init=False)

    def __post_init__(self) -> None:
        self.root = Authority("root", self.at)
        self.issuing = Authority("issuing", self.at, self.root)

    @property
    def bundle(self) -> bytes:
        return pem(self.root.certificate)

    @property
    def crls(self) -> bytes:
        return self.root.crl() + self.issuing.crl()

    def svid(self, uri: str) -> tuple[bytes, bytes]:
        key = new_key()
        return self.issuing.leaf(key, uri) + pem(self.issuing.certificate), key_pem(key)
