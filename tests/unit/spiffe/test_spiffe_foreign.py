"""The bundle of another trust domain: what is believed of it, and what is refused."""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from harness.strangers import Stranger
from hypothesis import given
from hypothesis import strategies as st

from meshca.spiffe import bundle, foreign, jwks
from meshca.spiffe.foreign import BundleError
from meshca.spiffe.id import TrustDomain

TD = TrustDomain("e.test")
STRANGER = Stranger("e.test")
JWT = {"use": "jwt-svid", "kid": "k1", **bundle.key_members(ec.generate_private_key(ec.SECP256R1()).public_key())}


def _document(**changed: Any) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(STRANGER.bundle)
    document["keys"].append(JWT)
    return {**document, **changed}


def _raw(document: Any) -> bytes:
    return json.dumps(document).encode()


def test_roots_jwt_keys_sequence_and_hint_are_read() -> None:
    found = foreign.parse(_raw(_document()), TD)
    assert found.roots == (STRANGER.root.public_bytes(Encoding.DER),)
    assert list(jwks.parse(found.jwt_keys)) == ["k1"]
    assert (found.sequence, found.refresh_hint, found.jwt_key_count) == (1, 300, 1)
    assert found.pem == STRANGER.root.public_bytes(Encoding.PEM)


def test_our_own_bundles_are_read_by_others() -> None:
    written = bundle.spiffe_jwks([STRANGER.root.public_bytes(Encoding.DER)], 7, 60, [JWT])
    assert foreign.parse(written, TD).sequence == 7


def test_a_bundle_without_keys_vouches_for_nobody() -> None:
    assert foreign.parse(_raw({"keys": []}), TD) == foreign.ForeignBundle(TD, (), b'{"keys":[]}')


def test_keys_of_other_uses_are_skipped_and_nothing_else_goes_on() -> None:
    strange = {"kty": "OKP", "use": "of-2040", "x5c": ["?"]}
    private = {**JWT, "kid": "k2", "d": "c2VjcmV0"}
    document = _document(keys=[strange, {"kty": "EC"}, private], more="of the same")
    found = foreign.parse(_raw(document), TD)
    assert found.roots == ()
    assert b"c2VjcmV0" not in found.jwt_keys


def _with_root(change: Callable[[dict[str, Any]], Any]) -> bytes:
    document = _document()
    change(document["keys"][0])
    return _raw(document)


def _x5c(*chain: Any) -> bytes:
    return _with_root(lambda jwk: jwk.update(x5c=list(chain)))


LEAF = Stranger("e.test").minted("spiffe://e.test/x").partition(b"-----BEGIN PRIVATE")[0]
LEAF_64 = base64.b64encode(base64.b64decode(b"".join(LEAF.splitlines()[1:-1]))).decode()
ROOT_64 = base64.b64encode(STRANGER.root.public_bytes(Encoding.DER)).decode()
OTHERS_64 = base64.b64encode(Stranger("m.test").root.public_bytes(Encoding.DER)).decode()


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"", "not JSON"),
        (b"\xff{}", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "not a JSON object"),
        (b"{}", "not a list"),
        (b'{"keys": [], "keys": []}', "stands twice"),
        (b'{"keys": [], "spiffe_sequence": NaN}', "not a number"),
        (b'{"keys": [], "spiffe_sequence": ' + b"9" * 5000 + b"}", "not JSON"),
        (_raw(_document(keys=[1])), "not a list"),
        (_raw(_document(keys=[JWT] * 257)), "at most 256"),
        (_raw(_document(keys=[JWT, JWT])), "stands twice"),
        (_raw(_document(keys=[{"use": "x509-svid"}])), "without its type"),
        (_raw(_document(spiffe_sequence=-1)), "63 bits"),
        (_raw(_document(spiffe_sequence=1 << 63)), "63 bits"),
        (_raw(_document(spiffe_sequence=True)), "63 bits"),
        (_raw(_document(spiffe_sequence="1")), "63 bits"),
        (_raw(_document(spiffe_refresh_hint=1.5)), "63 bits"),
        (_raw(_document()) + b" " * (1 << 20), "larger than"),
        (_x5c(), "exactly one"),
        (_x5c(ROOT_64, ROOT_64), "exactly one"),
        (_x5c(1), "exactly one"),
        (_x5c(ROOT_64[:-4] + "-_=="), "not base64"),
        (_x5c("AAAA"), "not the certificate of a CA"),
        (_x5c(LEAF_64), "not the certificate of a CA"),
        (_x5c(base64.b64encode(b"x" * 20_000).decode()), "more than"),
        (_x5c(OTHERS_64), "another than that of its certificate"),
        (_with_root(lambda jwk: jwk.pop("x5c")), "exactly one"),
        (_with_root(lambda jwk: jwk.update(x="AAAA")), "another than that of its certificate"),
    ],
)
def test_what_breaks_a_rule_is_refused_whole(raw: bytes, why: str) -> None:
    with pytest.raises(BundleError, match=why):
        foreign.parse(raw, TD)


def test_a_ca_that_says_it_is_anothers_is_refused() -> None:
    with pytest.raises(BundleError, match="another trust domain"):
        foreign.parse(Stranger("m.test").bundle, TD)


MEMBERS = st.sampled_from(["keys", "use", "kty", "x5c", "kid", "spiffe_sequence"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(MEMBERS, inner),
)


@given(st.binary(max_size=200) | JSON.map(_raw))
def test_nothing_else_happens_to_hostile_input(raw: bytes) -> None:
    with contextlib.suppress(BundleError):
        foreign.parse(raw, TD)
