"""JWK sets of JWT-SVID signing keys: ours as others read them, and others' as we do (RFC 7517, RFC 7518 §6).

Rules kept here (SPIFFE Trust Domain and Bundle §4.2): a key without ``kid``, for another use, or of a type that
JWT-SVIDs don't have is skipped, as the specification asks; a set that isn't one, or has an id twice, is refused whole.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key

from meshca.errors import InvalidInputError
from meshca.spiffe.bundle import key_members
from meshca.spiffe.jws import PublicKey, algorithm_of

JWT_SVID = "jwt-svid"
_MOST_BYTES, _MOST_KEYS = 1 << 20, 256
_CURVES: dict[str, ec.EllipticCurve] = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1()}
_MOST_RSA_BITS = 8192


class JwksError(InvalidInputError):
    """Not a set of keys."""


def public_key(spki: bytes) -> PublicKey:
    """Return a public key that was given as DER.

    Raises:
        JwksError: It is none that signs tokens.
    """
    key = load_der_public_key(spki)
    if not isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey):
        raise JwksError("neither an EC nor an RSA key", field="key")
    return key


def members(keys: Iterable[tuple[str, bytes]]) -> list[dict[str, Any]]:
    """Return the JWKs of signing keys, given as ``kid`` and DER, as a SPIFFE bundle holds them."""
    return [{"use": JWT_SVID, "kid": kid, **key_members(public_key(spki))} for kid, spki in keys]


def oidc_members(keys: Iterable[tuple[str, bytes]]) -> list[dict[str, Any]]:
    """Return the same as a reader of OpenID Connect expects them: the use is ``sig``, the algorithm is named."""
    return [
        {"use": "sig", "alg": algorithm_of(key), "kid": kid, **key_members(key)}
        for kid, key in ((kid, public_key(spki)) for kid, spki in keys)
    ]


def document(jwks: Iterable[Mapping[str, Any]]) -> bytes:
    """Return a JWK set."""
    return json.dumps({"keys": list(jwks)}, separators=(",", ":")).encode()


def parse(raw: bytes) -> dict[str, PublicKey]:
    """Return the JWT-SVID keys of a set, by ``kid``.

    Raises:
        JwksError: It is no JWK set, or an id stands twice.
    """
    found: dict[str, PublicKey] = {}
    for jwk in _keys(raw):
        kid = jwk.get("kid")
        if jwk.get("use") != JWT_SVID or not isinstance(kid, str) or not kid:
            continue
        if kid in found:
            raise JwksError("an id stands twice", field="kid", value=kid)
        if (key := _key(jwk)) is not None:
            found[kid] = key
    return found


def _keys(raw: bytes) -> list[dict[str, Any]]:
    if len(raw) > _MOST_BYTES:
        raise JwksError(f"larger than {_MOST_BYTES} bytes", field="keys")
    try:
        keys = json.loads(raw)["keys"]
    except (ValueError, LookupError, TypeError, RecursionError):
        raise JwksError("not a JWK set (RFC 7517 §5)", field="keys") from None
    if not isinstance(keys, list) or len(keys) > _MOST_KEYS or not all(isinstance(jwk, dict) for jwk in keys):
        raise JwksError(f"not a list of at most {_MOST_KEYS} keys", field="keys")
    return keys


def _key(jwk: Mapping[str, Any]) -> PublicKey | None:
    try:
        match jwk.get("kty"):
            case "EC" if jwk["crv"] in _CURVES:
                numbers = ec.EllipticCurvePublicNumbers(_number(jwk["x"]), _number(jwk["y"]), _CURVES[jwk["crv"]])
                return numbers.public_key()
            case "RSA" if len(jwk["n"]) * 6 <= _MOST_RSA_BITS + 16:
                return rsa.RSAPublicNumbers(_number(jwk["e"]), _number(jwk["n"])).public_key()
    except (ValueError, LookupError, TypeError, AttributeError):
        raise JwksError("a key that cannot be read", field="kid", value=str(jwk.get("kid"))) from None
    return None


def _number(text: str) -> int:
    return int.from_bytes(base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True), "big")
