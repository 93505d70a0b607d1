"""A CA as the certificates under it see it: its name, its key, its limits.

Rule: an Issuer that exists is a CA certificate with an EC key of ours, allowed to sign certificates and CRLs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from meshca.errors import InvalidInputError
from meshca.spiffe.id import IdentityError, SpiffeId, TrustDomain
from meshca.x509.publickey import Curve, ca_id, curve_of
from meshca.x509.unreadable import UNREADABLE

__all__ = ["Issuer", "IssuerError", "ca_id"]


class IssuerError(InvalidInputError):
    """The certificate is not one of a CA that meshca can issue under."""


@dataclass(frozen=True, slots=True)
class Issuer:
    """A CA certificate, taken apart once."""

    id: str
    certificate: bytes = field(repr=False)
    subject: bytes = field(repr=False, compare=False)
    key_identifier: bytes = field(repr=False, compare=False)
    public_key: ec.EllipticCurvePublicKey = field(repr=False, compare=False)
    not_before: datetime = field(compare=False)
    not_after: datetime = field(compare=False)
    spki: bytes = field(repr=False, compare=False)
    curve: Curve = field(repr=False, compare=False)
    trust_domain: TrustDomain | None = field(compare=False)
    path_length: int | None = field(compare=False)

    @classmethod
    def from_der(cls, id: str, der: bytes) -> Issuer:  # noqa: A002 (the word of the ledger's column)
        """Take a CA certificate apart.

        Raises:
            IssuerError: it is no CA certificate that we can issue under, or not the one that ``id`` names.
        """
        try:
            certificate = x509.load_der_x509_certificate(der)
            return cls._of(id, certificate, der)
        except IssuerError:
            raise
        except (IdentityError, *UNREADABLE) as error:
            raise IssuerError(f"not a CA certificate: {error}", field=f"CA {id}") from error

    @classmethod
    def _of(cls, id: str, certificate: x509.Certificate, der: bytes) -> Issuer:  # noqa: A002
        key = certificate.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise IssuerError("a CA of meshca has an EC key, P-256 or P-384", field=f"CA {id}")
        spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        curve = curve_of(spki)
        if curve is None:
            raise IssuerError("a CA of meshca has an EC key, P-256 or P-384", field=f"CA {id}")
        if id != ca_id(spki):
            raise IssuerError(f"this certificate belongs to the CA {ca_id(spki)}", field=f"CA {id}")
        extensions = certificate.extensions
        return cls(
            id=id,
            certificate=der,
            subject=certificate.subject.public_bytes(),
            key_identifier=extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest,
            public_key=key,
            not_before=certificate.not_valid_before_utc,
            not_after=certificate.not_valid_after_utc,
            spki=spki,
            curve=curve,
            trust_domain=_trust_domain(extensions),
            path_length=_require_ca(id, extensions),
        )


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
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    return SpiffeId.parse(uris[0]).trust_domain if len(uris) == 1 else None
