"""The two kinds of public key that meshca certifies: P-256 and P-384, uncompressed, named curve (RFC 5480 §2).

A `subjectPublicKeyInfo` of these has exactly one encoding, so it is recognised by its first bytes; that the point lies
on its curve is checked by the equation (SP 800-56A rev. 3 §5.6.2.3.3; both curves have cofactor 1, so that suffices).
Nothing here is secret, hence no need for constant time.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from meshca.x509 import der


@dataclass(frozen=True, slots=True)
class Curve:
    """A curve with the signature algorithm that goes with its size (RFC 5758 §3.2)."""

    name: str
    key_type: str  # its name in configurations
    spki_prefix: bytes
    size: int
    prime: int
    b: int
    ecdsa: ec.ECDSA
    signature_algorithm: bytes


_ID_EC_PUBLIC_KEY = "06072a8648ce3d0201"
_P256 = Curve(
    name="P-256",
    key_type="ec-p256",
    spki_prefix=bytes.fromhex(f"30593013{_ID_EC_PUBLIC_KEY}06082a8648ce3d03010703420004"),
    size=32,
    prime=2**256 - 2**224 + 2**192 + 2**96 - 1,
    b=0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B,
    ecdsa=ec.ECDSA(hashes.SHA256()),
    signature_algorithm=der.sequence(bytes.fromhex("06082a8648ce3d040302")),
)
_P384 = Curve(
    name="P-384",
    key_type="ec-p384",
    spki_prefix=bytes.fromhex(f"30763010{_ID_EC_PUBLIC_KEY}06052b8104002203620004"),
    size=48,
    prime=2**384 - 2**128 - 2**96 + 2**32 - 1,
    b=0xB3312FA7E23EE7E4988E056BE3F82D19181D9C6EFE8141120314088F5013875AC656398D8A2ED19D2A85C8EDD3EC2AEF,
    ecdsa=ec.ECDSA(hashes.SHA384()),
    signature_algorithm=der.sequence(bytes.fromhex("06082a8648ce3d040303")),
)
CURVES = (_P256, _P384)


# A key from a request is looked at when the request is checked, and again when its certificate is.
@lru_cache(maxsize=1024)
def curve_of(spki: bytes) -> Curve | None:
    """Return the curve of a key that we certify, None for any other key and for a point off its curve."""
    for curve in CURVES:
        if spki.startswith(curve.spki_prefix) and len(spki) == len(curve.spki_prefix) + 2 * curve.size:
            return curve if _on_curve(spki, curve) else None
    return None


# Small: encoding and reading back ask for the same key, one after the other.
@lru_cache(maxsize=64)
def key_identifier(spki: bytes) -> bytes:
    """Return the key identifier of one of our keys (RFC 7093 §2 method 1: 160 bits of SHA-256 over the point)."""
    return sha256(spki[-_point_size(spki) :]).digest()[:20]


def ca_id(spki: bytes) -> str:
    """Return the stable name of a CA: lower-case hex of the first 10 bytes of SHA-256 over its SPKI."""
    return sha256(spki).hexdigest()[:20]


def _point_size(spki: bytes) -> int:
    return 1 + 2 * (_P256.size if spki.startswith(_P256.spki_prefix) else _P384.size)


def _on_curve(spki: bytes, curve: Curve) -> bool:
    x = int.from_bytes(spki[-2 * curve.size : -curve.size], "big")
    y = int.from_bytes(spki[-curve.size :], "big")
    return x < curve.prime and y < curve.prime and (x * x * x - 3 * x + curve.b - y * y) % curve.prime == 0
