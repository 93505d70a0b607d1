"""A new key, and the request for its certificate: for those who have theirs made where it is used."""

from __future__ import annotations

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

_CURVES = {"ec-p256": ec.SECP256R1, "ec-p384": ec.SECP384R1}
_REQUEST = x509.CertificateSigningRequestBuilder(x509.Name([]))


def new_request(key_type: str = "ec-p256") -> tuple[bytes, bytes]:
    """Return a new private key (PEM, PKCS#8) and a CSR (DER) that asks for no name: the server knows whose it is."""
    key = ec.generate_private_key(_CURVES[key_type]())
    csr = _REQUEST.sign(key, hashes.SHA256())
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return pem, csr.public_bytes(Encoding.DER)
