"""Trust bundles in the forms that others read: PEM, JWKS, and the SPIFFE bundle (SPIFFE Trust Domain and Bundle §4).

Rules kept here (X509-SVID §6.1): one JWK per CA certificate, ``use`` is ``x509-svid``, ``kid`` is not set, ``x5c``
holds exactly that certificate. The keys of JWT-SVIDs follow (jwks.py). The same content gives the same bytes.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from meshca.errors import InvalidInputError

_CURVES = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}


def pem(ders: Iterable[bytes]) -> bytes:
    """Return the certificates as PEM blocks, in the order given."""
    return b"".join(_pem_block(der) for der in ders)


def jwks(ders: Iterable[bytes], jwt_keys: Iterable[Mapping[str, Any]] = ()) -> bytes:
    """Return the certificates, then the keys of JWT-SVIDs, as a plain JWK Set."""
    return _json({"keys": [*map(_jwk, ders), *jwt_keys]})


def spiffe_jwks(
    ders: Iterable[bytes], sequence: int, refresh_hint: int, jwt_keys: Iterable[Mapping[str, Any]] = ()
) -> bytes:
    """Return the SPIFFE bundle; ``sequence`` grows with every change, ``refresh_hint`` is in seconds."""
    document = {
        "keys": [*map(_jwk, ders), *jwt_keys],
        "spiffe_sequence": sequence,
        "spiffe_refresh_hint": refresh_hint,
    }
    return _json(document)


def _pem_block(der: bytes) -> bytes:
    text = base64.b64encode(der)
    lines = b"\n".join(text[at : at + 64] for at in range(0, len(text), 64))
    return b"-----BEGIN CERTIFICATE-----\n" + lines + b"\n-----END CERTIFICATE-----\n"


def _json(document: dict[str, Any]) -> bytes:
    return json.dumps(document, indent=2).encode() + b"\n"


def _jwk(der: bytes) -> dict[str, Any]:
    key = x509.load_der_x509_certificate(der).public_key()
    return {"use": "x509-svid", **key_members(key), "x5c": [base64.b64encode(der).decode()]}


def key_members(key: object) -> dict[str, str]:
    """Return the members of RFC 7518 §6.2 (EC) or §6.3 (RSA, which an upstream root may have)."""
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _CURVES:
        numbers, size = key.public_numbers(), (key.curve.key_size + 7) // 8
        return {
            "kty": "EC",
            "crv": _CURVES[key.curve.name],
            "x": _base64url(numbers.x.to_bytes(size, "big")),
            "y": _base64url(numbers.y.to_bytes(size, "big")),
        }
    if isinstance(key, rsa.RSAPublicKey):
        public = key.public_numbers()
        modulus, exponent = (n.to_bytes((n.bit_length() + 7) // 8, "big") for n in (public.n, public.e))
        return {"kty": "RSA", "n": _base64url(modulus), "e": _base64url(exponent)}
    raise InvalidInputError("a bundle holds CA certificates with EC (P-256, P-384, P-521) or RSA keys", field="bundle")


def _base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
