"""A CA key with a certificate, enough to sign and check audit checkpoints."""

from __future__ import annotations

from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat


class CaSigner:
    """Implements authority.ports.Signer with a key in memory."""

    def __init__(self, key_id: str, curve: ec.EllipticCurve | None = None) -> None:
        self.key_id = self.key_ref = key_id
        self._key = ec.generate_private_key(curve or ec.SECP256R1())
        self._hash = SHA384() if self._key.key_size == 384 else SHA256()
        name = x509.Name([])
        builder = x509.CertificateBuilder(name, name, self._key.public_key(), 1)
        lived = builder.not_valid_before(datetime(2026, 1, 1, tzinfo=UTC)).not_valid_after(
            datetime(2036, 1, 1, tzinfo=UTC)
        )
        self.certificate = lived.sign(self._key, SHA256()).public_bytes(Encoding.DER)

    @property
    def spki(self) -> bytes:
        """The public key."""
        return self._key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    def sign(self, data: bytes) -> bytes:
        """Sign."""
        return self._key.sign(data, ec.ECDSA(self._hash))
