"""CRLs that an upstream has made, as far as they can be handed on.

Rules kept here: one that Envoy would refuse every handshake with, or that says less than all (a delta, a part), is not
used; nothing is taken for a CRL of a CA that its key has not signed.
"""

from __future__ import annotations

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from meshca.errors import InvalidInputError
from meshca.x509.crl import Crl
from meshca.x509.foreign import STRONG_HASHES, ForeignChainError, pem_blocks
from meshca.x509.issuer import CaCertificate
from meshca.x509.unreadable import UNREADABLE

LARGEST_CRL = 1 << 20  # it goes into every context of every Envoy
MOST_CRLS = 16
_LARGEST_NUMBER = (1 << 63) - 1  # what a database's integer holds

_OF_PARTS = (x509.DeltaCRLIndicator, x509.IssuingDistributionPoint)


class ForeignCrlError(InvalidInputError):
    """The CRL cannot be handed on; the message says why."""

    def __init__(self, message: str, ca_id: str = "", *, remedy: str = "") -> None:
        super().__init__(message, field=f"CRL of CA {ca_id}" if ca_id else "CRL", remedy=remedy)


def read_crls(content: bytes) -> tuple[bytes, ...]:
    """Return the CRLs of a file in DER: PEM blocks of them and nothing else, or one in DER.

    Raises:
        ForeignCrlError: It is neither, or too large.
    """
    if len(content) > LARGEST_CRL * 2:
        raise ForeignCrlError(f"{len(content)} bytes, more than {LARGEST_CRL * 2}")
    try:
        if not content.lstrip().startswith(b"-----BEGIN"):
            return (_der(x509.load_der_x509_crl(content)),)
        blocks = pem_blocks(content, b"X509 CRL", MOST_CRLS, largest=LARGEST_CRL * 2)
        return tuple(_der(x509.load_pem_x509_crl(block)) for block in blocks)
    except ForeignChainError as error:
        raise ForeignCrlError(error.message, remedy=error.remedy) from error
    except UNREADABLE as error:
        raise ForeignCrlError(f"cannot be read: {error}") from error


def is_signed_by(der: bytes, ca: CaCertificate) -> bool:
    """Whether the CA's name and key are those that issued this CRL."""
    try:
        parsed = x509.load_der_x509_crl(der)
        return parsed.issuer.public_bytes() == ca.subject and parsed.is_signature_valid(ca.public_key)
    except (TypeError, *UNREADABLE):
        return False


def foreign_crl(der: bytes, ca: CaCertificate) -> Crl:
    """Return the CRL of an upstream's CA, whose key has signed it.

    Raises:
        ForeignCrlError: It lacks what makes a CRL useful, or is not whole.
    """
    if len(der) > LARGEST_CRL:
        raise ForeignCrlError(f"{len(der)} bytes, more than {LARGEST_CRL}: it would go to every Envoy", ca.id)
    if not is_signed_by(der, ca):
        raise ForeignCrlError("it is not signed by this CA", ca.id)
    try:
        parsed = x509.load_der_x509_crl(der)
        _require_whole(parsed, ca.id)
        number = parsed.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    except x509.ExtensionNotFound as error:
        remedy = "let the CA number its CRLs (openssl ca: crlnumber, and crl_extensions with authorityKeyIdentifier)"
        raise ForeignCrlError("it has no CRL number (RFC 5280 §5.2.3)", ca.id, remedy=remedy) from error
    except UNREADABLE as error:
        raise ForeignCrlError(f"cannot be read: {error}", ca.id) from error
    if not 0 <= number <= _LARGEST_NUMBER:
        raise ForeignCrlError("its number has more than 63 bits", ca.id)
    if parsed.next_update_utc is None:
        raise ForeignCrlError("it has no nextUpdate (RFC 5280 §5.1.2.5)", ca.id)
    return Crl(der, number, parsed.last_update_utc, parsed.next_update_utc, ca.id)


def _require_whole(parsed: x509.CertificateRevocationList, ca_id: str) -> None:
    """Raise for a weak signature, and for an indirect, partial or delta CRL (RFC 5280 §5.2).

    These say so by a critical extension. Some CAs leave the bit out, and verifiers look at what the extension is; of
    entries, one critical extension that is not known makes a verifier refuse the CRL.
    """
    if not isinstance(parsed.signature_hash_algorithm, STRONG_HASHES):
        raise ForeignCrlError("it is signed with a weak or unknown hash", ca_id)
    found = [each.oid.dotted_string for each in parsed.extensions if each.critical or isinstance(each.value, _OF_PARTS)]
    if found:
        raise ForeignCrlError(f"it has extensions of one that is no whole CRL: {', '.join(found)}", ca_id)
    if any(each.critical for entry in parsed for each in entry.extensions):
        raise ForeignCrlError("an entry has a critical extension, for which verifiers refuse the whole of it", ca_id)


def _der(parsed: x509.CertificateRevocationList) -> bytes:
    return parsed.public_bytes(Encoding.DER)
