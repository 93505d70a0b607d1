"""A CA as the certificates under it see it: its name, its key, its limits.

Rules: a CaCertificate that exists is a CA certificate, allowed to sign certificates and CRLs, with a key that is strong
enough (EC P-256 or P-384, or RSA: an upstream's). An Issuer is one with an EC key of ours.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from meshca.errors import InvalidInputError
from meshca.spiffe.id import IdentityError, SpiffeId, TrustDomain
from meshca.x509.publickey import Curve, ca_id, curve_of
from meshca.x509.unreadable import UNREADABLE

__all__ = ["CaCertificate", "CaKey", "Issuer", "IssuerError", "ca_id", "foreign_id", "strong_key"]

# Less is weak (SP 800-57 part 1 §5.6.1); more is what BoringSSL, and so Envoy, does not verify.
_RSA_BITS = range(2048, 8192 + 1)

CaKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey


class IssuerError(InvalidInputError):
    """The certificate is not one of a CA that meshca can issue under."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CaCertificate:
    """A CA certificate, ours or an upstream's, taken apart once."""

    id: str
    certificate: bytes = field(repr=False)
    subject: bytes = field(repr=False, compare=False)
    public_key: CaKey = field(repr=False, compare=False)
    not_before: datetime = field(compare=False)
    not_after: datetime = field(compare=False)
    spki: bytes = field(repr=False, compare=False)
    trust_domain: TrustDomain | None = field(compare=False)
    path_length: int | None = field(compare=False)
    name_constrained: bool = field(default=False, compare=False)

    @classmethod
    def foreign(cls, der: bytes) -> CaCertificate:
        """Take an upstream's CA certificate apart.

        Raises:
            IssuerError: It is no CA certificate, or its key is weak.
        """
        name = foreign_id(der)
        try:
            return CaCertificate(**_fields(name, x509.load_der_x509_certificate(der), der))
        except IssuerError:
            raise
        except (IdentityError, *UNREADABLE) as error:
            raise _unusable(name, error) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Issuer(CaCertificate):
    """A CA certificate whose EC key is ours."""

    public_key: ec.EllipticCurvePublicKey = field(repr=False, compare=False)
    key_identifier: bytes = field(repr=False, compare=False)
    curve: Curve = field(repr=False, compare=False)

    @classmethod
    def from_der(cls, id: str, der: bytes) -> Issuer:  # noqa: A002 (the word of the ledger's column)
        """Take a CA certificate of ours apart.

        Raises:
            IssuerError: it is no CA certificate that we can issue under, or not the one that ``id`` names.
        """
        try:
            return _issuer(id, x509.load_der_x509_certificate(der), der)
        except IssuerError:
            raise
        except (IdentityError, *UNREADABLE) as error:
            raise _unusable(id, error) from error


def foreign_id(der: bytes) -> str:
    """Return the stable name of an upstream's CA: lower-case hex of the first 10 bytes of its certificate's SHA-256.

    Not of its key, as ours: an upstream may renew the certificate of a key, and both are in use for a while.
    """
    return sha256(der).hexdigest()[:20]


def strong_key(key: object) -> bool:
    """Whether a CA's key is one whose signatures we, and Envoy, accept."""
    if isinstance(key, rsa.RSAPublicKey):
        return key.key_size in _RSA_BITS
    return isinstance(key, ec.EllipticCurvePublicKey) and curve_of(_spki(key)) is not None


def _issuer(id: str, certificate: x509.Certificate, der: bytes) -> Issuer:  # noqa: A002
    key = certificate.public_key()
    curve = curve_of(_spki(key)) if isinstance(key, ec.EllipticCurvePublicKey) else None
    if not isinstance(key, ec.EllipticCurvePublicKey) or curve is None:
        raise IssuerError("a CA of meshca has an EC key, P-256 or P-384", field=f"CA {id}")
    spki = _spki(key)
    if id != ca_id(spki):
        raise IssuerError(f"this certificate belongs to the CA {ca_id(spki)}", field=f"CA {id}")
    own_key = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    return Issuer(**_fields(id, certificate, der), key_identifier=own_key, curve=curve)


def _fields(id: str, certificate: x509.Certificate, der: bytes) -> dict[str, Any]:  # noqa: A002
    key, extensions = certificate.public_key(), certificate.extensions
    if not strong_key(key):
        raise IssuerError("a CA has an EC key, P-256 or P-384, or an RSA key of 2048 to 8192 bits", field=f"CA {id}")
    return {
        "id": id,
        "certificate": der,
        "subject": certificate.subject.public_bytes(),
        "public_key": key,
        "not_before": certificate.not_valid_before_utc,
        "not_after": certificate.not_valid_after_utc,
        "spki": _spki(key),
        "trust_domain": _trust_domain(extensions),
        "path_length": _require_ca(id, extensions),
        "name_constrained": any(isinstance(extension.value, x509.NameConstraints) for extension in extensions),
    }


def _spki(key: Any) -> bytes:
    encoded: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return encoded


def _unusable(id: str, error: Exception) -> IssuerError:  # noqa: A002
    return IssuerError(f"not a CA certificate: {error}", field=f"CA {id}")


def _require_ca(id: str, extensions: x509.Extensions) -> int | None:  # noqa: A002
    """Return the path length, or raise unless the certificate is a CA's (RFC 5280 §4.2.1.3, §4.2.1.9)."""
    constraints = extensions.get_extension_for_class(x509.BasicConstraints).value
    usage = extensions.get_extension_for_class(x509.KeyUsage).value
    if not (constraints.ca and usage.key_cert_sign and usage.crl_sign):
        raise IssuerError("its certificate does not allow it to sign certificates and CRLs", field=f"CA {id}")
    return constraints.path_length


def _trust_domain(extensions: x509.Extensions) -> TrustDomain | None:
    """Return the trust domain that the CA names as its own (X509-SVID §3.2); one above ours may name none."""
    try:
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return None
    uris = [uri for uri in names.get_values_for_type(x509.UniformResourceIdentifier) if uri.startswith("spiffe:")]
    return SpiffeId.parse(uris[0]).trust_domain if len(uris) == 1 else None
