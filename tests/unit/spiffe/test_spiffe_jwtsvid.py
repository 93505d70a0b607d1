"""JWT-SVIDs: ours are read by PyJWT, PyJWT's by us, and hostile ones by nobody."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from meshca.errors import MeshcaError
from meshca.spiffe import bundle, jwks, jws, jwtsvid
from meshca.spiffe.id import SpiffeId, TrustDomain
from meshca.spiffe.jws import PublicKey, TokenError
from meshca.spiffe.jwtsvid import AudienceError, Claims

NOW = datetime(2026, 11, 25, 12, 0, 0, tzinfo=UTC)
M_TEST, OTHER = TrustDomain("m.test"), TrustDomain("other.test")
WEB = SpiffeId(M_TEST, "/mesh/m/virtualNode/web")
KEY, FOREIGN = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
RSA = rsa.generate_private_key(65537, 2048)
KEYS: dict[TrustDomain, jwtsvid.Keys] = {
    M_TEST: {"k1": KEY.public_key(), "r1": RSA.public_key()},
    OTHER: {"k2": FOREIGN.public_key()},
}


def spki(key: PublicKey) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _claims(**changed: Any) -> dict[str, Any]:
    ours = Claims(WEB, ("db",), NOW, NOW + timedelta(minutes=5), "id")
    return {name: value for name, value in {**ours.members, **changed}.items() if value is not ...}


def _part(document: object) -> str:
    raw = document if isinstance(document, bytes) else json.dumps(document).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _signed(
    claims: object = None, *, header: object = None, key: ec.EllipticCurvePrivateKey = KEY, alg: str = "ES256"
) -> str:
    """Return a token whose signature is good, whatever it says."""
    header = {"alg": "ES256", "kid": "k1", "typ": "JWT"} if header is None else header
    signed = f"{_part(header)}.{_part(_claims() if claims is None else claims)}"
    return jws.compact(signed.encode(), alg, key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))


def _verify(token: str, audience: str = "db", now: datetime = NOW) -> jwtsvid.Verified:
    return jwtsvid.verify(token, audience, KEYS, now)


@pytest.mark.parametrize(
    ("curve", "alg", "used"),
    [
        pytest.param(ec.SECP256R1(), "ES256", hashes.SHA256(), id="P-256"),
        pytest.param(ec.SECP384R1(), "ES384", hashes.SHA384(), id="P-384"),
    ],
)
def test_py_jwt_reads_what_we_make(curve: ec.EllipticCurve, alg: str, used: hashes.HashAlgorithm) -> None:
    key = ec.generate_private_key(curve)
    assert jws.algorithm_of(key.public_key()) == alg
    claims = Claims(WEB, ("db", "cache"), NOW, NOW + timedelta(minutes=5), "id", "https://issuer.test").members
    signed = jws.signing_input(alg, "k", claims)
    token = jws.compact(signed, alg, key.sign(signed, ec.ECDSA(used)))
    options: Any = {"verify_exp": False, "verify_iat": False}
    assert jwt.decode(token, key.public_key(), [alg], audience="cache", options=options) == claims
    found = jwtsvid.verify(token, "db", {M_TEST: {"k": key.public_key()}}, NOW)
    assert (found.spiffe_id, dict(found.claims)) == (WEB, claims)


@pytest.mark.parametrize("alg", ["ES256", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512"])
def test_we_read_what_py_jwt_makes(alg: str) -> None:
    key, kid = (KEY, "k1") if alg == "ES256" else (RSA, "r1")
    token = jwt.encode(_claims(), key, alg, headers={"kid": kid})
    assert _verify(token).spiffe_id == WEB


def _confused() -> str:
    """Return a token signed by HMAC, with the public key as its secret."""
    import hmac
    from hashlib import sha256

    signed = f"{_part({'alg': 'HS256', 'kid': 'k1'})}.{_part(_claims())}"
    return f"{signed}.{_part(hmac.digest(spki(KEY.public_key()), signed.encode(), sha256))}"


def _respelled(token: str) -> str:
    """Return the token with a spare bit of its signature set, which lax readers ignore."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return token[:-1] + alphabet[alphabet.index(token[-1]) ^ 1]


HOSTILE: Mapping[str, tuple[Callable[[], str], str]] = {
    "alg none": (lambda: _signed(header={"alg": "none", "kid": "k1"}), "not an algorithm"),
    "alg None, another spelling": (lambda: _signed(header={"alg": "nOnE", "kid": "k1"}), "not an algorithm"),
    "no signature": (lambda: _signed().rpartition(".")[0] + ".", "not three parts"),
    "unsecured": (lambda: jwt.encode(_claims(), "", "none", headers={"kid": "k1"}), "not three parts"),
    "HMAC with the public key": (_confused, "not an algorithm"),
    "alg of another curve": (lambda: _signed(header={"alg": "ES384", "kid": "k1"}), "not for this algorithm"),
    "alg of RSA": (lambda: _signed(header={"alg": "RS256", "kid": "k1"}), "not for this algorithm"),
    "alg of EC for an RSA key": (lambda: _signed(header={"alg": "ES256", "kid": "r1"}), "not for this algorithm"),
    "alg is a list": (lambda: _signed(header={"alg": ["ES256"], "kid": "k1"}), "not an algorithm"),
    "no kid": (lambda: _signed(header={"alg": "ES256"}), "names no key"),
    "kid of nobody": (lambda: _signed(header={"alg": "ES256", "kid": "k9"}), "no key of its trust domain"),
    "kid is a path": (lambda: _signed(header={"alg": "ES256", "kid": "../../k1"}), "no key of its trust domain"),
    "kid is a list": (lambda: _signed(header={"alg": "ES256", "kid": ["k1"]}), "names no key"),
    "kid of another trust domain": (
        lambda: _signed(header={"alg": "ES256", "kid": "k2"}, key=FOREIGN),
        "no key of its trust domain",
    ),
    "a key that comes along": (
        lambda: _signed(header={"alg": "ES256", "kid": "k1", "jwk": {"kty": "EC"}}),
        "a header that JWT-SVIDs don't have",
    ),
    "an address of a key": (
        lambda: _signed(header={"alg": "ES256", "kid": "k1", "jku": "https://evil.test"}),
        "a header that JWT-SVIDs don't have",
    ),
    "critical headers": (
        lambda: _signed(header={"alg": "ES256", "kid": "k1", "crit": ["b64"], "b64": False}),
        "a header that JWT-SVIDs don't have",
    ),
    "wrong typ": (lambda: _signed(header={"alg": "ES256", "kid": "k1", "typ": "at+jwt"}), "typ is JWT or JOSE"),
    "typ is a number": (lambda: _signed(header={"alg": "ES256", "kid": "k1", "typ": 1}), "typ is JWT or JOSE"),
    "another's signature": (lambda: _signed(key=FOREIGN), "signature is not the key's"),
    "a signature in DER": (
        lambda: f"{_signed().rpartition('.')[0]}.{_part(KEY.sign(b'', ec.ECDSA(hashes.SHA256())))}",
        "signature is not the key's",
    ),
    "a signature of zeros": (
        lambda: f"{_signed().rpartition('.')[0]}.{_part(bytes(64))}",
        "signature is not the key's",
    ),
    "a second spelling": (lambda: _respelled(_signed()), "one spelling"),
    "padding": (lambda: _signed() + "==", "not three parts"),
    "a final newline": (lambda: _signed() + "\n", "not three parts"),
    "four parts": (lambda: _signed() + ".e30", "not three parts"),
    "giant": (lambda: _signed(_claims(pad="x" * jws.MAX_TOKEN_BYTES)), "longer than"),
    "deep": (lambda: _signed(b'{"a":' + b"[" * 4000 + b"]" * 4000 + b"}"), "strict kind"),
    "rather deep": (lambda: _signed(b'{"a":' + b"[" * 16 + b"]" * 16 + b"}"), "strict kind"),
    "payload is a list": (lambda: _signed([]), "no JSON object"),
    "header is text": (lambda: _signed(header="x"), "no JSON object"),
    "payload is no UTF-8": (lambda: _signed(b'{"sub":"\xff"}'), "strict kind"),
    "a lone surrogate": (lambda: _signed(b'{"sub":"\\ud800"}'), "strict kind"),
    "a claim twice": (lambda: _signed(json.dumps(_claims()).encode()[:-1] + b',"aud":"db"}'), "strict kind"),
    "a header twice": (lambda: _signed(header=b'{"alg":"none","alg":"ES256","kid":"k1"}'), "strict kind"),
    "NaN": (lambda: _signed(_claims(exp=float("nan"))), "strict kind"),
    "an integer of many digits": (lambda: _signed(_claims(exp=10**40)), "strict kind"),
    "endless": (lambda: _signed(json.dumps(_claims()).encode()[:-1] + b',"x":1e999}'), "strict kind"),
    "no sub": (lambda: _signed(_claims(sub=...)), "names no subject"),
    "sub is no SPIFFE ID": (lambda: _signed(_claims(sub="web")), "starts with spiffe"),
    "sub folded": (lambda: _signed(_claims(sub="spiffe://M.test/web")), "a-z 0-9"),
    "sub is a trust domain": (lambda: _signed(_claims(sub="spiffe://m.test")), "is a trust domain"),
    "sub of another trust domain": (lambda: _signed(_claims(sub="spiffe://other.test/web")), "no key of its trust"),
    "sub of nobody's trust domain": (lambda: _signed(_claims(sub="spiffe://else.test/web")), "no key of its trust"),
    "no exp": (lambda: _signed(_claims(exp=...)), "exp is no time"),
    "exp is text": (lambda: _signed(_claims(exp="9999999999")), "exp is no time"),
    "exp is true": (lambda: _signed(_claims(exp=True)), "exp is no time"),
    "exp is null": (lambda: _signed(_claims(exp=None)), "exp is no time"),
    "expired this second": (lambda: _signed(_claims(exp=int(NOW.timestamp()))), "it has expired"),
    "not yet": (lambda: _signed(_claims(nbf=int(NOW.timestamp()) + 61)), "nbf lies in the future"),
    "issued later": (lambda: _signed(_claims(iat=int(NOW.timestamp()) + 61)), "iat lies in the future"),
    "nbf is null": (lambda: _signed(_claims(nbf=None)), "nbf is no time"),
    "no aud": (lambda: _signed(_claims(aud=...)), "names no audience"),
    "aud is empty": (lambda: _signed(_claims(aud=[])), "names no audience"),
    "aud holds a number": (lambda: _signed(_claims(aud=["db", 1])), "names no audience"),
    "aud is an object": (lambda: _signed(_claims(aud={"db": 1})), "names no audience"),
    "aud of others": (lambda: _signed(_claims(aud=["cache", "DB", "db "])), "another audience"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_token_is_refused_by_its_own_rule(name: str) -> None:
    make, reason = HOSTILE[name]
    with pytest.raises(TokenError, match=reason):
        _verify(make())


def test_the_good_one_differs_from_each_by_one_thing() -> None:
    assert _verify(_signed()).spiffe_id == WEB
    assert _verify(_signed(_claims(aud=["cache", "db"], nbf=int(NOW.timestamp()) + 60))).spiffe_id == WEB
    assert _verify(_signed(header={"alg": "ES256", "kid": "k1"})).spiffe_id == WEB
    assert _verify(_signed(header={"alg": "ES256", "kid": "k1", "typ": "JOSE"})).spiffe_id == WEB


@pytest.mark.parametrize(
    "wanted",
    [
        pytest.param([], id="none"),
        pytest.param([""], id="empty"),
        pytest.param(["  "], id="blank"),
        pytest.param(["x" * 513], id="long"),
        pytest.param(["a\nb"], id="a-line-break"),
        pytest.param([str(number) for number in range(9)], id="many"),
    ],
)
def test_an_audience_is_required_and_bounded(wanted: list[str]) -> None:
    with pytest.raises(AudienceError):
        jwtsvid.audience_of(wanted)


def test_audiences_count_once_and_keep_their_order() -> None:
    assert jwtsvid.audience_of(["b", "a", "b"]) == ("b", "a")


@given(st.text(max_size=400) | st.binary(max_size=300).map(lambda raw: f"{_part(raw)}.{_part(raw)}.{_part(raw)}"))
def test_whatever_comes_is_refused_in_words(text: str) -> None:
    with pytest.raises(MeshcaError):
        _verify(text)


_GOOD = _signed()


@given(st.integers(0, len(_GOOD) - 1), st.sampled_from("ABCXYZabcxyz0189-_."))
def test_no_changed_character_is_overlooked(at: int, character: str) -> None:
    changed = _GOOD[:at] + character + _GOOD[at + 1 :]
    if changed == _GOOD:
        return
    with pytest.raises(MeshcaError):
        _verify(changed)


_VALUES = st.none() | st.booleans() | st.integers(-(10**18), 10**18) | st.text(max_size=5)


@given(st.dictionaries(st.text(max_size=6), _VALUES | st.lists(_VALUES, max_size=3), max_size=4))
def test_other_claims_come_through_as_they_are(extra: dict[str, Any]) -> None:
    claims = {**extra, **_claims()}
    assert dict(_verify(_signed(claims)).claims) == claims


# ---- key sets


def test_a_set_of_ours_is_read_by_py_jwt_and_by_us() -> None:
    keys = [("k1", spki(KEY.public_key())), ("r1", spki(RSA.public_key()))]
    raw = jwks.document(jwks.members(keys))
    assert [(key.key_id, key.public_key_use) for key in jwt.PyJWKSet.from_json(raw.decode()).keys] == [
        ("k1", "jwt-svid"),
        ("r1", "jwt-svid"),
    ]
    assert {kid: spki(key) for kid, key in jwks.parse(raw).items()} == dict(keys)
    (oidc,) = jwks.oidc_members(keys[:1])
    assert (oidc["use"], oidc["alg"], oidc["kid"]) == ("sig", "ES256", "k1")


def test_jwt_keys_stand_in_the_bundle_after_the_roots() -> None:
    found = json.loads(bundle.spiffe_jwks([], 7, 300, jwks.members([("k1", spki(KEY.public_key()))])))
    assert [(key["use"], key["kid"]) for key in found["keys"]] == [("jwt-svid", "k1")]
    assert (found["spiffe_sequence"], found["spiffe_refresh_hint"]) == (7, 300)


def test_keys_of_other_kinds_are_skipped() -> None:
    (good,) = jwks.members([("k1", spki(KEY.public_key()))])
    others: list[dict[str, Any]] = [
        {**good, "use": "x509-svid", "kid": "a"},
        {name: value for name, value in good.items() if name != "use"},
        {**good, "kid": ""},
        {**good, "kid": "b", "crv": "secp256k1"},
        {"kty": "oct", "k": "AAAA", "kid": "c", "use": "jwt-svid"},
        {"kty": "OKP", "crv": "Ed25519", "x": "AAAA", "kid": "d", "use": "jwt-svid"},
    ]
    assert jwks.parse(jwks.document([*others, good])).keys() == {"k1"}


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"[]", id="a-list"),
        pytest.param(b'{"keys": {}}', id="no-list"),
        pytest.param(b'{"keys": [1]}', id="no-keys"),
        pytest.param(b'{"keys": [' + b",".join([b"{}"] * 257) + b"]}", id="many"),
        pytest.param(b"[" * 100_000, id="deep"),
        pytest.param(b'{"keys":[{"use":"jwt-svid","kid":"k","kty":"EC","crv":"P-256","x":"AA","y":"AA"}]}', id="off"),
        pytest.param(b'{"keys":[{"use":"jwt-svid","kid":"k","kty":"EC","crv":"P-256","x":1,"y":2}]}', id="numbers"),
        pytest.param(b" " * (1 << 20) + b'{"keys": []}', id="large"),
    ],
)
def test_what_is_no_set_is_refused(raw: bytes) -> None:
    with pytest.raises(jwks.JwksError):
        jwks.parse(raw)


def test_an_id_that_stands_twice_is_refused() -> None:
    keys = jwks.members([("k1", spki(KEY.public_key())), ("k1", spki(FOREIGN.public_key()))])
    with pytest.raises(jwks.JwksError, match="twice"):
        jwks.parse(jwks.document(keys))
