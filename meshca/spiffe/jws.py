"""Signed tokens in JWS compact serialisation (RFC 7515 §3.1), as far as JWT-SVIDs use it, read strictly.

Rules kept here (JWT-SVID §2, §4; RFC 8725):
- J1 Nothing is believed of a token before its signature was verified but which key that would take.
- J2 The header holds ``alg``, ``kid`` and ``typ`` and nothing else: no key, and no address of one, comes with a token.
- J3 ``alg`` is one of the nine asymmetric ones, and one that the key itself is for; the key decides, not the token.
- J4 A token has one spelling: base64url without padding or spare bits, UTF-8, each member once, finite numbers.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from meshca.errors import InvalidInputError

PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey

MAX_TOKEN_BYTES = 16 * 1024
_DEEPEST = 16
_LONGEST_INTEGER = 19  # digits: 63 bits, and a number that any reader can hold
_LEAST_RSA_BITS = 2048
_PART = re.compile(r"[A-Za-z0-9_-]+")
_HEADERS = {"alg", "kid", "typ"}
_TYPES = (None, "JWT", "JOSE")
_HASHES: dict[str, hashes.HashAlgorithm] = {"256": hashes.SHA256(), "384": hashes.SHA384(), "512": hashes.SHA512()}
_CURVES = {"ES256": "secp256r1", "ES384": "secp384r1", "ES512": "secp521r1"}
ALGORITHMS = tuple(kind + size for kind in ("ES", "RS", "PS") for size in _HASHES)


class TokenError(InvalidInputError):
    """A token that is not to be believed."""


@dataclass(frozen=True, slots=True)
class Token:
    """A token as it was read; its signature has not been verified."""

    alg: str
    kid: str
    claims: Mapping[str, object] = field(repr=False)
    signed: bytes = field(repr=False)
    signature: bytes = field(repr=False)


def parse(text: str) -> Token:
    """Read a token.

    Raises:
        TokenError: It breaks a rule.
    """
    if len(text) > MAX_TOKEN_BYTES:
        raise TokenError(f"longer than {MAX_TOKEN_BYTES} bytes", field="token")
    parts = text.split(".")
    if len(parts) != 3 or not all(map(_PART.fullmatch, parts)):
        raise TokenError("not three parts of base64url (RFC 7515 §3.1)", field="token")
    header, claims = _object(parts[0], "header"), _object(parts[1], "payload")
    if unknown := header.keys() - _HEADERS:
        raise TokenError("a header that JWT-SVIDs don't have (JWT-SVID §2)", field="token", value=min(unknown))
    alg, kid, kind = header.get("alg"), header.get("kid"), header.get("typ")
    if not isinstance(alg, str) or alg not in ALGORITHMS:
        raise TokenError("not an algorithm of JWT-SVIDs (JWT-SVID §2.1)", field="token", value=f"alg {alg}")
    if kind not in _TYPES:
        raise TokenError("typ is JWT or JOSE (JWT-SVID §2.3)", field="token", value=f"typ {kind}")
    if not isinstance(kid, str) or not kid:
        raise TokenError("it names no key (kid)", field="token")
    return Token(alg, kid, claims, f"{parts[0]}.{parts[1]}".encode(), _decoded(parts[2]))


def verify(token: Token, key: PublicKey) -> None:
    """Check the signature.

    Raises:
        TokenError: The key has not made it, or is not for this algorithm.
    """
    check = _ec_check(token, key) if isinstance(key, ec.EllipticCurvePublicKey) else _rsa_check(token, key)
    if check is None:
        raise TokenError("the key is not for this algorithm", field="token", value=f"alg {token.alg}")
    try:
        check()
    except (InvalidSignature, ValueError):
        raise TokenError("the signature is not the key's", field="token") from None


def signing_input(alg: str, kid: str, claims: Mapping[str, object]) -> bytes:
    """Return what a key signs."""
    header = {"alg": alg, "kid": kid, "typ": "JWT"}
    return b".".join(_encoded(_json(document)) for document in (header, claims))


def compact(signed: bytes, alg: str, der_signature: bytes) -> str:
    """Return the token made of what was signed and an ECDSA signature in DER (RFC 7518 §3.4: r and s, fixed size)."""
    size = _size(alg)
    raw = b"".join(number.to_bytes(size, "big") for number in decode_dss_signature(der_signature))
    return b".".join((signed, _encoded(raw))).decode()


def algorithm_of(key: PublicKey) -> str:
    """Return the algorithm that we sign with by such a key.

    Raises:
        InvalidInputError: We don't.
    """
    for alg, curve in _CURVES.items():
        if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name == curve:
            return alg
    raise InvalidInputError("tokens are signed by EC keys (P-256, P-384)", field="key")


def _ec_check(token: Token, key: ec.EllipticCurvePublicKey) -> Callable[[], None] | None:
    if _CURVES.get(token.alg) != key.curve.name:
        return None
    size, raw = _size(token.alg), token.signature
    if len(raw) != 2 * size:
        raise TokenError("the signature is not the key's", field="token")
    signature = encode_dss_signature(int.from_bytes(raw[:size], "big"), int.from_bytes(raw[size:], "big"))
    return lambda: key.verify(signature, token.signed, ec.ECDSA(_HASHES[token.alg[2:]]))


def _rsa_check(token: Token, key: rsa.RSAPublicKey) -> Callable[[], None] | None:
    used = _HASHES[token.alg[2:]]
    scheme: padding.AsymmetricPadding
    match token.alg[:2]:
        case "RS":
            scheme = padding.PKCS1v15()
        case "PS":
            scheme = padding.PSS(padding.MGF1(used), used.digest_size)
        case _:
            return None
    if key.key_size < _LEAST_RSA_BITS:
        raise TokenError(f"the key is shorter than {_LEAST_RSA_BITS} bits", field="token")
    return lambda: key.verify(token.signature, token.signed, scheme, used)


def _size(alg: str) -> int:
    return {"ES256": 32, "ES384": 48, "ES512": 66}[alg]


def _object(part: str, name: str) -> dict[str, object]:
    try:
        found = json.loads(
            _decoded(part).decode(),
            object_pairs_hook=_members,
            parse_constant=_refused,
            parse_float=_finite,
            parse_int=_bounded,
        )
        _require_shallow(found)
        json.dumps(found, ensure_ascii=False).encode()  # a lone surrogate is no text
    except (ValueError, RecursionError):
        raise TokenError(f"the {name} is no JSON of the strict kind", field="token") from None
    if not isinstance(found, dict):
        raise TokenError(f"the {name} is no JSON object", field="token")
    return found


def _members(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a member stands twice")
    return found


def _refused(_: str) -> object:
    raise ValueError("no number of JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("too large a number")
    return number


def _bounded(text: str) -> int:
    if len(text.removeprefix("-")) > _LONGEST_INTEGER:
        raise ValueError("too large a number")
    return int(text)


def _require_shallow(found: Any) -> None:
    level = [found]
    for _ in range(_DEEPEST):
        level = [inner for each in level if isinstance(each, dict | list) for inner in _inside(each)]
        if not level:
            return
    raise ValueError("too deep")


def _inside(each: dict[str, Any] | list[Any]) -> list[Any]:
    return list(each.values()) if isinstance(each, dict) else each


def _decoded(part: str) -> bytes:
    try:
        raw = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
    except ValueError:
        raw = b""
    if _encoded(raw).decode() != part:  # spare bits that are not zero: a second spelling of the same bytes
        raise TokenError("not base64url in its one spelling", field="token")
    return raw


def _encoded(raw: bytes) -> bytes:
    return base64.urlsafe_b64encode(raw).rstrip(b"=")


def _json(document: Mapping[str, object]) -> bytes:
    return json.dumps(document, separators=(",", ":"), sort_keys=True).encode()
