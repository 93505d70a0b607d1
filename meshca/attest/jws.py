"""Signed tokens of others (JWS compact, RFC 7515) checked against their published keys (JWKS, RFC 7517).

Rules this module keeps:
- The algorithm is one of a list of asymmetric ones, and fits the key; `none` and HMAC aren't in it (RFC 8725 §3.1).
- The key is one of those configured, found by `kid`; a key or address in the token's header is never used.
- A critical extension is refused, for none is understood (RFC 7515 §4.1.11).
- A token has one spelling: canonical base64url, JSON objects without a name twice, a bounded length.
- Nothing of a token is in an error: it may still be good elsewhere.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from meshca.errors import InvalidInputError, UnauthenticatedError

MOST_TOKEN_BYTES = 16 * 1024
_MOST_JWKS_BYTES = 256 * 1024
_MOST_KEYS = 64
_SMALLEST_RSA = 2048
_LARGEST_RSA = 8192

_PART = re.compile(r"[A-Za-z0-9_-]+")
_HASHES: Mapping[str, hashes.HashAlgorithm] = {
    "256": hashes.SHA256(),
    "384": hashes.SHA384(),
    "512": hashes.SHA512(),
}
_CURVES: Mapping[str, ec.EllipticCurve] = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1()}
_CURVE_OF = {"ES256": "secp256r1", "ES384": "secp384r1", "ES512": "secp521r1"}
ALGORITHMS = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", *_CURVE_OF})

PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey


class TokenError(UnauthenticatedError):
    """A token that is not understood, or that none of the keys has signed."""


class JwksError(InvalidInputError):
    """A set of keys that is not understood."""


@dataclass(frozen=True, slots=True)
class Key:
    """A public key; ``algorithm`` is empty where the set leaves it open."""

    kid: str
    algorithm: str
    public_key: PublicKey


@dataclass(frozen=True, slots=True)
class Jwks:
    """The keys of one issuer, by their `kid`."""

    keys: Mapping[str, Key]


@dataclass(frozen=True, slots=True)
class Token:
    """A token in its parts; nothing in it is to be believed before ``verify``."""

    header: Mapping[str, Any]
    claims: Mapping[str, Any] = field(repr=False)
    signed: bytes = field(repr=False)
    signature: bytes = field(repr=False)


def parse_jwks(raw: bytes) -> Jwks:
    """Return the keys of a JWKS that we can use; those of other kinds are left out.

    Raises:
        JwksError: it is none, two keys have one `kid`, or none can be used.
    """
    if len(raw) > _MOST_JWKS_BYTES:
        raise JwksError(f"a JWKS has at most {_MOST_JWKS_BYTES} bytes", field="jwks")
    try:
        document = _object(raw)
    except ValueError as error:
        raise JwksError("a JWKS is a JSON object", field="jwks") from error
    entries = document.get("keys")
    if not isinstance(entries, list) or len(entries) > _MOST_KEYS:
        raise JwksError(f"a JWKS has a list of keys, of at most {_MOST_KEYS}", field="jwks.keys")
    found = [key for entry in entries if isinstance(entry, dict) and (key := _key(entry))]
    keys = {key.kid: key for key in found}
    if not keys or len(keys) != len(found):
        raise JwksError(
            "a JWKS has at least one RSA (2048 bits or more) or P-256, P-384, P-521 key, each with a kid of its own",
            field="jwks.keys",
        )
    return Jwks(keys)


def parse_token(text: str) -> Token:
    """Return the parts of a token.

    Raises:
        TokenError: it is none.
    """
    if len(text) > MOST_TOKEN_BYTES:
        raise TokenError(f"a token has at most {MOST_TOKEN_BYTES} bytes")
    parts = text.split(".")
    if len(parts) != 3:
        raise TokenError(f"a signed token has 3 parts, this one {len(parts)}")
    try:
        header, claims, signature = (_decode(part) for part in parts)
        return Token(_object(header), _object(claims), f"{parts[0]}.{parts[1]}".encode(), signature)
    except ValueError:
        # Without its cause: that one quotes the token.
        raise TokenError("the token is no JSON object in base64url, signed") from None


def verify(token: Token, keys: Jwks) -> Mapping[str, Any]:
    """Return the claims of a token that one of the keys has signed.

    Raises:
        TokenError: none has, or it wants to be checked in a way that isn't ours.
    """
    algorithm, kid = token.header.get("alg"), token.header.get("kid")
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        raise TokenError(f"the token's algorithm is none of {', '.join(sorted(ALGORITHMS))}")
    if "crit" in token.header:
        raise TokenError("the token has a critical extension, and none is understood")
    key = keys.keys.get(kid) if isinstance(kid, str) else None
    if key is None:
        raise TokenError("the token is signed by no key that is known", remedy="has the issuer changed its keys?")
    if key.algorithm not in {"", algorithm} or not _fits(algorithm, key.public_key):
        raise TokenError("the token's algorithm is not that of its key")
    try:
        _verify(algorithm, key.public_key, token)
    except (InvalidSignature, ValueError):
        raise TokenError("the token's signature is wrong") from None
    return token.claims


def _key(entry: Mapping[str, Any]) -> Key | None:
    kid, algorithm = entry.get("kid"), entry.get("alg", "")
    if not isinstance(kid, str) or not kid or entry.get("use", "sig") != "sig" or not isinstance(algorithm, str):
        return None
    try:
        public_key = _public_key(entry)
    except (KeyError, TypeError, ValueError):
        return None
    return Key(kid, algorithm, public_key) if public_key is not None else None


def _public_key(entry: Mapping[str, Any]) -> PublicKey | None:
    if entry.get("kty") == "RSA":
        modulus, exponent = (int.from_bytes(_decode(entry[name])) for name in ("n", "e"))
        if not _SMALLEST_RSA <= modulus.bit_length() <= _LARGEST_RSA:
            return None
        return rsa.RSAPublicNumbers(exponent, modulus).public_key()
    if entry.get("kty") == "EC":
        x, y = (int.from_bytes(_decode(entry[name])) for name in ("x", "y"))
        return ec.EllipticCurvePublicNumbers(x, y, _CURVES[entry["crv"]]).public_key()
    return None


def _fits(algorithm: str, key: PublicKey) -> bool:
    if isinstance(key, rsa.RSAPublicKey):
        return algorithm[:2] in {"RS", "PS"}
    return _CURVE_OF.get(algorithm) == key.curve.name


def _verify(algorithm: str, key: PublicKey, token: Token) -> None:
    digest = _HASHES[algorithm[2:]]
    if isinstance(key, rsa.RSAPublicKey):
        of_rsa = (
            padding.PKCS1v15() if algorithm.startswith("RS") else padding.PSS(padding.MGF1(digest), digest.digest_size)
        )
        key.verify(token.signature, token.signed, of_rsa, digest)
        return
    size = (key.curve.key_size + 7) // 8
    if len(token.signature) != 2 * size:
        raise InvalidSignature
    r, s = int.from_bytes(token.signature[:size]), int.from_bytes(token.signature[size:])
    key.verify(encode_dss_signature(r, s), token.signed, ec.ECDSA(digest))


def _decode(text: str) -> bytes:
    if not _PART.fullmatch(text):
        raise ValueError("no base64url")
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except binascii.Error as error:
        raise ValueError("no base64url") from error
    if base64.urlsafe_b64encode(raw).rstrip(b"=").decode() != text:
        raise ValueError("not the canonical base64url")
    return raw


def _object(raw: bytes) -> dict[str, Any]:
    try:
        found = json.loads(raw.decode(), object_pairs_hook=_without_twins, parse_constant=_no_constant)
    except RecursionError as error:
        raise ValueError("too deep") from error
    if not isinstance(found, dict):
        raise ValueError("no object")  # noqa: TRY004 - what is wrong is a text, not a type of ours
    return found


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name twice")
    return found


def _no_constant(name: str) -> None:
    raise ValueError(name)
