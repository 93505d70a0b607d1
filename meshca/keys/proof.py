"""What signers whose key lies elsewhere have in common: the hash they hand over, and the proof that it is their key."""

from __future__ import annotations

from hashlib import sha256, sha384

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key

from meshca.authority.ports import KeyUnavailableError, Signer
from meshca.keys.place import KeyType
from meshca.x509.publickey import curve_of

_TYPES: dict[str, KeyType] = {"P-256": "ec-p256", "P-384": "ec-p384"}
_PROBE = b"meshca proves that this is the key it believes it to be"  # no DER, so never taken for a certificate


class WrongKeyError(KeyUnavailableError):
    """A key store holds another key than the CA's under that name."""


def key_type_of(spki: bytes, where: str) -> KeyType:
    """Return the type of a CA key.

    Raises:
        WrongKeyError: CAs do not have such keys.
    """
    curve = curve_of(spki)
    if curve is None:
        raise WrongKeyError("neither a P-256 nor a P-384 key", field=where, remedy="name another key, or a new one")
    return _TYPES[curve.name]


def digest_of(data: bytes, spki: bytes) -> bytes:
    """Return the hash that a signature of this key is over."""
    curve = curve_of(spki)
    return sha384(data).digest() if curve is not None and curve.size == 48 else sha256(data).digest()


def require_own_key(signer: Signer) -> None:
    """Let a signer sign, and check that its public key verifies it.

    Raises:
        WrongKeyError: It signs with another key.
        KeyUnavailableError: It does not sign.
    """
    require_signature(signer, _PROBE, signer.sign(_PROBE))


def require_signature(signer: Signer, data: bytes, signature: bytes) -> None:
    """Check that this is the signer's signature over the data.

    Raises:
        WrongKeyError: It is another key's.
    """
    if not _verifies(signer.spki, data, signature):
        raise WrongKeyError(
            "the key store signs with another key than the CA's",
            field=signer.key_ref,
            remedy="restore the key that the CA was made with",
        )


def _verifies(spki: bytes, data: bytes, signature: bytes) -> bool:
    public, curve = load_der_public_key(spki), curve_of(spki)
    if curve is None or not isinstance(public, ec.EllipticCurvePublicKey):
        return False
    try:
        public.verify(signature, data, curve.ecdsa)
    except InvalidSignature:
        return False
    return True
