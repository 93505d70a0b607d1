"""What one generation consists of, and the check that its parts belong together.

The rules this module keeps:
- Key, chain, bundle and CRLs are put in place together or not at all, and only after ``require_matching``: a consumer
  never reads a key of one leaf with the chain of another, or a leaf that the CRL beside it revokes.
- The private key is in no repr and in no error.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from meshca.errors import MeshcaError
from meshca.x509.chain import crls_of, verify_svid

CERTIFICATE_FILE = "svid.pem"
KEY_FILE = "svid_key.pem"
BUNDLE_FILE = "bundle.pem"
CRL_FILE = "crl.pem"

_PEM_CRL_END = b"-----END X509 CRL-----"


class MismatchError(MeshcaError):
    """Key, chain, bundle and CRLs do not belong together; nothing was put in place."""


@dataclass(frozen=True, slots=True)
class Material:
    """One generation: PEM, chain is leaf then issuing CA, key is PKCS#8."""

    chain: bytes
    key: bytes = field(repr=False)
    bundle: bytes = field(repr=False)
    crl: bytes = field(repr=False)
    trust: str = field(compare=False)  # which trust this is, in words
    leaf_crl_only: bool = False  # some CA of an upstream has no usable CRL

    @property
    def leaf(self) -> x509.Certificate:
        """The leaf, parsed."""
        return _certificates(self.chain, "chain")[0]

    @property
    def serial(self) -> str:
        """The leaf's serial as the ledger writes it."""
        return serial_text(self.leaf)

    def files(self) -> dict[str, bytes]:
        """Return what goes into the folder, by file name."""
        return {CERTIFICATE_FILE: self.chain, KEY_FILE: self.key, BUNDLE_FILE: self.bundle, CRL_FILE: self.crl}

    def require_matching(self, at: datetime) -> str:
        """Return the SPIFFE ID, after checking that all parts belong together at that time.

        Raises:
            MismatchError: the key is another leaf's, or the leaf is not good under this bundle and these CRLs.
        """
        leaf, *intermediates = _certificates(self.chain, "chain")
        if _public(self.key) != leaf.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo):
            raise MismatchError(f"the private key is not the one of certificate {self.serial}")
        crls = crl_ders(self.crl)
        if not crls:
            # Without any, verify_svid would check nothing for revocation, and so would the consumer.
            raise MismatchError(f"there is no CRL in trust {self.trust}")
        try:
            identity = verify_svid(
                leaf.public_bytes(Encoding.DER),
                [certificate.public_bytes(Encoding.DER) for certificate in intermediates],
                certificate_ders(self.bundle),
                crls_of(crls, leaf_crl_only=self.leaf_crl_only),
                at,
            )
        except MeshcaError as error:
            raise MismatchError(f"certificate {self.serial} is not good under trust {self.trust}: {error}") from error
        return str(identity)


def serial_text(certificate: x509.Certificate) -> str:
    """Return a serial as lower-case hex, two digits a byte, no sign byte."""
    number = certificate.serial_number
    return number.to_bytes((number.bit_length() + 7) // 8 or 1, "big").hex()


def crl_ders(pem: bytes) -> list[bytes]:
    """Return each CRL of a PEM text in DER.

    Raises:
        MismatchError: one of them is none.
    """
    try:
        return [
            x509.load_pem_x509_crl(block + _PEM_CRL_END).public_bytes(Encoding.DER)
            for block in pem.split(_PEM_CRL_END)[:-1]
        ]
    except ValueError as error:
        raise MismatchError("the CRLs are not PEM") from error


def certificate_ders(pem: bytes) -> list[bytes]:
    """Return each certificate of a PEM text in DER.

    Raises:
        MismatchError: there is none.
    """
    return [certificate.public_bytes(Encoding.DER) for certificate in _certificates(pem, "bundle")]


def pkcs8(key: bytes) -> bytes:
    """Return a PEM private key as PKCS#8.

    Raises:
        MismatchError: it is no private key.
    """
    try:
        return load_pem_private_key(key, None).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    except (ValueError, TypeError):
        raise MismatchError("the private key is not PEM") from None


def _certificates(pem: bytes, what: str) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise MismatchError(f"the {what} is no PEM certificate") from error


def _public(key: bytes) -> bytes:
    try:
        return (
            load_pem_private_key(key, None).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        )
    except (ValueError, TypeError):
        # Without the cause: an error about a key never quotes it.
        raise MismatchError("the private key is not PEM") from None
