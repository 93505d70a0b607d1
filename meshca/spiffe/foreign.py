"""The bundle of another trust domain, read strictly: it comes from people whom we believe about their own names only.

Rules kept here (SPIFFE Trust Domain and Bundle §4, X509-SVID §6.1):
- One document, at most 1 MiB: a JSON object, each member once, with a list of at most 256 keys.
- ``x509-svid``: exactly one certificate in ``x5c``, of a CA, whose public key is the one that the JWK says; a SPIFFE ID
  in it is that of the trust domain. ``jwt-svid``: as jwks.py has it. Keys of another use are skipped, as §4.2 asks.
- Only what was understood goes on: what else a document holds reaches nobody.
- Bundles are never merged: each one stands under its own trust domain.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from meshca.errors import InvalidInputError
from meshca.spiffe import bundle, jwks
from meshca.spiffe.id import IdentityError, SpiffeId, TrustDomain

MAX_BUNDLE_BYTES = 1 << 20
_MOST_KEYS = 256
_MOST_ROOTS = 64
_LARGEST_CERTIFICATE = 16 << 10
_LARGEST_NUMBER = (1 << 63) - 1
_KEY_MEMBERS = ("kty", "crv", "x", "y", "n", "e")


class BundleError(InvalidInputError):
    """A bundle that is not to be believed."""


@dataclass(frozen=True, slots=True)
class ForeignBundle:
    """Whom to believe about the identities of another trust domain, and about no others."""

    trust_domain: TrustDomain
    roots: tuple[bytes, ...] = field(repr=False)
    """In DER."""
    jwt_keys: bytes = field(repr=False)
    """A JWK set of the keys that verify its tokens."""
    sequence: int | None = None
    refresh_hint: int | None = None

    @property
    def jwt_key_count(self) -> int:
        """Return how many keys verify its tokens."""
        return len(jwks.parse(self.jwt_keys))

    @property
    def pem(self) -> bytes:
        """Return the roots as PEM."""
        return bundle.pem(self.roots)


def parse(raw: bytes, trust_domain: TrustDomain) -> ForeignBundle:
    """Read the SPIFFE bundle of a trust domain.

    Raises:
        BundleError: It breaks a rule.
    """
    document = _document(raw)
    keys = document.get("keys")
    if not isinstance(keys, list) or len(keys) > _MOST_KEYS or not all(isinstance(key, dict) for key in keys):
        raise BundleError(f"not a list of at most {_MOST_KEYS} keys", field="keys")
    for jwk in keys:
        if not isinstance(jwk.get("kty"), str):
            raise BundleError("a key without its type (RFC 7517 §4.1)", field="kty")
    roots = tuple(dict.fromkeys(_root(jwk, trust_domain) for jwk in keys if jwk.get("use") == "x509-svid"))
    if len(roots) > _MOST_ROOTS:
        raise BundleError(f"more than {_MOST_ROOTS} CA certificates", field="keys", value=str(len(roots)))
    return ForeignBundle(
        trust_domain,
        roots,
        _jwt_keys(raw),
        _number(document, "spiffe_sequence"),
        _number(document, "spiffe_refresh_hint"),
    )


def _document(raw: bytes) -> dict[str, Any]:
    if len(raw) > MAX_BUNDLE_BYTES:
        raise BundleError(f"larger than {MAX_BUNDLE_BYTES} bytes", field="bundle")
    try:
        found = json.loads(raw.decode(), object_pairs_hook=_members, parse_constant=_refused)
    except (ValueError, RecursionError) as error:
        if isinstance(error, BundleError):
            raise
        raise BundleError("not JSON in UTF-8", field="bundle", remedy="a SPIFFE bundle is a JWK set") from None
    if not isinstance(found, dict):
        raise BundleError("not a JSON object", field="bundle", remedy="a SPIFFE bundle is a JWK set")
    return found


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise BundleError("a member stands twice", field="bundle")
    return found


def _refused(text: str) -> Any:
    raise BundleError("not a number of JSON", field="bundle", value=text)


def _number(document: Mapping[str, Any], name: str) -> int | None:
    found = document.get(name)
    if found is None:
        return None
    if isinstance(found, bool) or not isinstance(found, int) or not 0 <= found <= _LARGEST_NUMBER:
        raise BundleError("not a whole number of at most 63 bits", field=name, value=str(found)[:32])
    return found


def _root(jwk: Mapping[str, Any], trust_domain: TrustDomain) -> bytes:
    der = _certificate(jwk.get("x5c"))
    try:
        certificate = x509.load_der_x509_certificate(der)
        members = bundle.key_members(certificate.public_key())
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        names = _uris(certificate)
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.ExtensionNotFound, x509.DuplicateExtension) as error:
        raise BundleError(f"not the certificate of a CA: {error}", field="x5c") from None
    if not constraints.ca:
        raise BundleError("not the certificate of a CA (X509-SVID §6.1)", field="x5c")
    if any(jwk.get(name) != members.get(name) for name in _KEY_MEMBERS):
        raise BundleError("its key is another than that of its certificate", field="x5c")
    _require_own_name(names, trust_domain)
    return der


def _certificate(chain: Any) -> bytes:
    if not isinstance(chain, list) or len(chain) != 1 or not isinstance(chain[0], str):
        raise BundleError("holds exactly one certificate (X509-SVID §6.1)", field="x5c")
    try:
        der = base64.b64decode(chain[0], validate=True)
    except (ValueError, binascii.Error):
        raise BundleError("not base64", field="x5c") from None
    if len(der) > _LARGEST_CERTIFICATE:
        raise BundleError(f"a certificate of more than {_LARGEST_CERTIFICATE} bytes", field="x5c")
    return der


def _uris(certificate: x509.Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return names.get_values_for_type(x509.UniformResourceIdentifier)


def _require_own_name(uris: list[str], trust_domain: TrustDomain) -> None:
    """A CA that says whose it is says that it is this trust domain's (X509-SVID §3.1)."""
    for uri in uris:
        try:
            named = SpiffeId.parse(uri).trust_domain
        except IdentityError:
            named = None
        if named != trust_domain:
            raise BundleError("a CA of another trust domain", field="x5c", value=uri)


def _jwt_keys(raw: bytes) -> bytes:
    try:
        found = jwks.parse(raw)
        return jwks.document(
            {"use": jwks.JWT_SVID, "kid": kid, **bundle.key_members(key)} for kid, key in sorted(found.items())
        )
    except InvalidInputError as error:
        raise BundleError(str(error), field="keys") from None
