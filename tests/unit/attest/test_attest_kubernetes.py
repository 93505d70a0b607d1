"""Service-account tokens: the good one, and each that differs from it by one thing."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hmac import HMAC
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from unit.mesh.mesh_objects import examples

from meshca.attest.jws import Jwks, JwksError, TokenError, parse_jwks, parse_token, verify
from meshca.attest.kubernetes import (
    ClusterError,
    Expected,
    KubernetesCaller,
    NotAllowedError,
    check_token,
    issuer_of,
)

NOW = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
SECONDS = int(NOW.timestamp())
ISSUER, AUDIENCE = "https://kubernetes.default.svc.cluster.local", "spiffe://example.org/meshca/server"
POD_UID = "0f3b8a52-7a1c-4b60-9d3e-1c2d3e4f5a6b"
EXPECTED = Expected("prod", ISSUER, AUDIENCE, frozenset({("meshca", "agent")}))
CALLER = KubernetesCaller("prod", "meshca", "agent", "agent-x7k2p", POD_UID, "ip-10-0-0-1.ec2.internal")

RSA = rsa.generate_private_key(65537, 2048)
CURVES = {
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "ES384": ec.generate_private_key(ec.SECP384R1()),
    "ES512": ec.generate_private_key(ec.SECP521R1()),
}
HASHES: dict[str, hashes.HashAlgorithm] = {"256": hashes.SHA256(), "384": hashes.SHA384(), "512": hashes.SHA512()}
NAMES = {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521"}


def encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def number(value: int, size: int = 0) -> str:
    return encode(value.to_bytes(size or (value.bit_length() + 7) // 8))


def sign(algorithm: str, data: bytes) -> bytes:
    digest = HASHES[algorithm[2:]]
    if algorithm in CURVES:
        size = (CURVES[algorithm].key_size + 7) // 8
        r, s = decode_dss_signature(CURVES[algorithm].sign(data, ec.ECDSA(digest)))
        return r.to_bytes(size) + s.to_bytes(size)
    pss = padding.PSS(padding.MGF1(digest), digest.digest_size)
    return RSA.sign(data, padding.PKCS1v15() if algorithm.startswith("RS") else pss, digest)


def jwk_of_rsa(kid: str, key: rsa.RSAPrivateKey = RSA, **more: Any) -> dict[str, Any]:
    numbers = key.public_key().public_numbers()
    return {"kty": "RSA", "kid": kid, "use": "sig", "n": number(numbers.n), "e": number(numbers.e), **more}


def jwk_of_curve(kid: str, algorithm: str, **more: Any) -> dict[str, Any]:
    numbers, size = CURVES[algorithm].public_key().public_numbers(), (CURVES[algorithm].key_size + 7) // 8
    return {
        "kty": "EC", "kid": kid, "crv": NAMES[algorithm], "x": number(numbers.x, size), "y": number(numbers.y, size),
        **more,
    }  # fmt: skip


def jwks(*entries: dict[str, Any]) -> Jwks:
    return parse_jwks(json.dumps({"keys": entries}).encode())


KEYS = jwks(jwk_of_rsa("rsa"), *(jwk_of_curve(name, name) for name in CURVES))


def claims(**changed: Any) -> dict[str, Any]:
    private = {
        "namespace": "meshca",
        "node": {"name": CALLER.node, "uid": "1f3b8a52-7a1c-4b60-9d3e-1c2d3e4f5a6b"},
        "pod": {"name": CALLER.pod, "uid": POD_UID},
        "serviceaccount": {"name": "agent", "uid": "2f3b8a52-7a1c-4b60-9d3e-1c2d3e4f5a6b"},
        "warnafter": SECONDS + 3000,
    }
    found = {
        "aud": [AUDIENCE], "exp": SECONDS + 600, "iat": SECONDS, "iss": ISSUER, "jti": "x", "nbf": SECONDS,
        "sub": "system:serviceaccount:meshca:agent", "kubernetes.io": private | changed.pop("private", {}), **changed,
    }  # fmt: skip
    return {name: value for name, value in found.items() if value is not None}


def token(body: dict[str, Any] | None = None, algorithm: str = "RS256", **header: Any) -> str:
    head = {"alg": algorithm, "kid": algorithm if algorithm in CURVES else "rsa", **header}
    parts = [encode(json.dumps(part).encode()) for part in (head, claims() if body is None else body)]
    return ".".join([*parts, encode(sign(algorithm, ".".join(parts).encode()))])


def check(text: str, keys: Jwks = KEYS, expected: Expected = EXPECTED, now: datetime = NOW) -> KubernetesCaller:
    return check_token(text, keys, expected, now)


# -- good ones


@pytest.mark.parametrize("algorithm", ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512"])
def test_a_good_token_says_who_brings_it(algorithm: str) -> None:
    assert check(token(algorithm=algorithm)) == CALLER


def test_a_token_made_by_another_library_is_good() -> None:
    jwt = pytest.importorskip("jwt")
    assert check(jwt.encode(claims(), RSA, "RS256", headers={"kid": "rsa"})) == CALLER
    assert check(jwt.encode(claims(), CURVES["ES512"], "ES512", headers={"kid": "ES512"})) == CALLER


def test_an_agent_is_a_node_of_a_cluster() -> None:
    assert CALLER.agent_id == "k8s.prod.ip-10-0-0-1.ec2.internal"
    assert CALLER.group == "k8s.prod"
    assert issuer_of(token()) == ISSUER


@pytest.mark.parametrize(
    "body", [claims(aud=AUDIENCE), claims(nbf=None), claims(nbf=SECONDS + 59, iat=SECONDS + 59), claims(more={"a": 1})]
)
def test_what_may_differ(body: dict[str, Any]) -> None:
    assert check(token(body)) == CALLER


# -- claims


@pytest.mark.parametrize(
    ("body", "says"),
    [
        pytest.param(claims(iss="https://other"), "not of the issuer", id="other-issuer"),
        pytest.param(claims(iss=ISSUER + "/"), "not of the issuer", id="issuer-with-a-slash"),
        pytest.param(claims(iss=[ISSUER]), "not of the issuer", id="issuer-list"),
        pytest.param(claims(aud=[ISSUER]), "audience", id="token-for-the-api-server"),
        pytest.param(claims(aud=[AUDIENCE, ISSUER]), "audience", id="audience-beside-another"),
        pytest.param(claims(aud=[]), "audience", id="no-audience"),
        pytest.param(claims(aud=None), "audience", id="audience-missing"),
        pytest.param(claims(exp=SECONDS), "has expired", id="expired"),
        pytest.param(claims(exp=None), "no exp", id="without-end"),
        pytest.param(claims(exp="9999999999"), "no exp", id="end-as-text"),
        pytest.param(claims(exp=True), "no exp", id="end-as-boolean"),
        pytest.param(claims(exp=-1), "no exp", id="end-negative"),
        pytest.param(claims(exp=2**63), "no exp", id="end-far-away"),
        pytest.param(claims(iat=None), "no iat", id="without-begin"),
        pytest.param(claims(iat=SECONDS + 61), "not valid yet", id="made-in-the-future"),
        pytest.param(claims(nbf=SECONDS + 61), "not valid yet", id="not-yet"),
        pytest.param(claims(nbf="x"), "no nbf", id="not-before-as-text"),
        pytest.param(claims(exp=SECONDS + 86401), "more than 86400 s", id="longer-than-a-day"),
        pytest.param(claims(iat=SECONDS - 86400 * 300), "more than 86400 s", id="extended-to-a-year"),
        pytest.param(claims(sub="system:serviceaccount:meshca:other"), "differ", id="other-subject"),
        pytest.param(claims(sub=None), "differ", id="no-subject"),
        pytest.param(claims(private={"namespace": "kube-system"}), "differ", id="other-namespace"),
        pytest.param(claims(private={"namespace": None}), "a namespace", id="no-namespace"),
        pytest.param(claims(private={"namespace": "a/b"}), "a namespace", id="namespace-with-a-slash"),
        pytest.param(claims(private={"pod": None}), "says no pod", id="bound-to-no-pod"),
        pytest.param(claims(private={"pod": {"name": "a", "uid": "x"}}), "pod has no uid", id="pod-uid"),
        pytest.param(claims(private={"pod": {"uid": POD_UID}}), "a name", id="pod-without-a-name"),
        pytest.param(claims(private={"node": None}), "says no node", id="bound-to-no-node"),
        pytest.param(claims(private={"node": {"name": "../x"}}), "a name", id="node-is-a-path"),
        pytest.param(claims(private={"node": {"name": "n\n"}}), "a name", id="node-with-a-newline"),
        pytest.param(claims(private={"node": {"name": "a..b"}}), "a name", id="node-with-two-dots"),
        pytest.param(claims(private={"node": {"name": "n" * 254}}), "a name", id="node-too-long"),
        pytest.param(claims(private={"serviceaccount": "agent"}), "says no serviceaccount", id="account-as-text"),
        pytest.param({"iss": ISSUER}, "audience", id="empty"),
    ],
)  # fmt: skip
def test_each_wrong_claim_is_refused_for_itself(body: dict[str, Any], says: str) -> None:
    with pytest.raises(TokenError, match=says):
        check(token(body))


def test_a_good_token_of_another_service_account_is_refused() -> None:
    other = claims(
        sub="system:serviceaccount:shop:web", private={"namespace": "shop", "serviceaccount": {"name": "web"}}
    )
    with pytest.raises(NotAllowedError, match=r"may not be an agent \(got 'shop:web'\)"):
        check(token(other))
    with pytest.raises(NotAllowedError):
        check(token(), expected=Expected("prod", ISSUER, AUDIENCE, frozenset()))


def test_a_token_lives_until_its_last_second() -> None:
    assert check(token(), now=NOW + timedelta(seconds=599.9)) == CALLER
    with pytest.raises(TokenError, match="expired"):
        check(token(), now=NOW + timedelta(seconds=600))


@pytest.mark.parametrize("name", ["", "Prod", "a.b", "a/b", "-a", "a\n", "x" * 64])
def test_a_cluster_has_a_name_that_ends_at_the_first_dot(name: str) -> None:
    with pytest.raises(ClusterError, match="DNS label"):
        Expected(name, ISSUER, AUDIENCE, frozenset())


@pytest.mark.parametrize(("issuer", "audience"), [("", AUDIENCE), (ISSUER, "")])
def test_a_cluster_without_issuer_or_audience_is_refused(issuer: str, audience: str) -> None:
    with pytest.raises(ClusterError, match="must be given"):
        Expected("prod", issuer, audience, frozenset())


# -- signatures


def unsigned(algorithm: str) -> str:
    parts = [encode(json.dumps(part).encode()) for part in ({"alg": algorithm, "kid": "rsa"}, claims())]
    return ".".join(parts)


def keyed_with_the_public_key() -> str:
    text = unsigned("HS256")
    mac = HMAC(RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), hashes.SHA256())
    mac.update(text.encode())
    return f"{text}.{encode(mac.finalize())}"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param(unsigned("none") + ".", "no JSON object", id="none"),
        pytest.param(unsigned("none") + ".AAAA", "algorithm is none of", id="none-with-bytes"),
        pytest.param(unsigned("None") + ".AAAA", "algorithm is none of", id="none-in-another-case"),
        pytest.param(keyed_with_the_public_key(), "algorithm is none of", id="hmac-with-the-public-key"),
        pytest.param(token(alg="EdDSA"), "algorithm is none of", id="algorithm-not-listed"),
        pytest.param(token(alg=None), "algorithm is none of", id="no-algorithm"),
        pytest.param(token(alg=["RS256"]), "algorithm is none of", id="algorithm-list"),
        pytest.param(token(alg="RS512"), "signature is wrong", id="another-hash"),
        pytest.param(token(alg="PS256"), "signature is wrong", id="another-padding"),
        pytest.param(token(alg="ES256"), "not that of its key", id="curve-with-an-rsa-key"),
        pytest.param(token(algorithm="ES256", alg="ES384"), "not that of its key", id="another-curve"),
        pytest.param(token(algorithm="ES256", alg="RS256"), "not that of its key", id="rsa-with-a-curve"),
        pytest.param(token(kid="other"), "no key that is known", id="unknown-key"),
        pytest.param(token(kid=None), "no key that is known", id="no-key"),
        pytest.param(token(kid=["rsa"]), "no key that is known", id="key-list"),
        pytest.param(token(kid="evil", jwk=jwk_of_rsa("evil")), "no key that is known", id="key-in-the-header"),
        pytest.param(token(kid="evil", jku="https://evil"), "no key that is known", id="key-at-an-address"),
        pytest.param(token(crit=["exp"], exp=1), "critical", id="critical-extension"),
        pytest.param(token(crit=[]), "critical", id="critical-and-empty"),
        pytest.param(token()[:-4] + "AAAA", "signature is wrong", id="changed-signature"),
        pytest.param(f"{unsigned('ES256')}.{encode(bytes(64))}", "not that of its key", id="zeros"),
    ],
)
def test_each_wrong_signature_is_refused_for_itself(text: str, says: str) -> None:
    with pytest.raises(TokenError, match=says) as caught:
        check(text)
    assert text.split(".")[1] not in str(caught.value)


def test_a_null_signature_of_a_curve_is_refused() -> None:
    parts = token(algorithm="ES256").split(".")
    for signature in (bytes(64), bytes(63), b"\xff" * 64, CURVES["ES256"].sign(b"x", ec.ECDSA(hashes.SHA256()))):
        with pytest.raises(TokenError, match="signature is wrong"):
            check(".".join([*parts[:2], encode(signature)]))


def test_a_good_signature_in_another_spelling_is_refused() -> None:
    text = token(algorithm="ES256")
    *parts, last = text.split(".")
    signature = base64.urlsafe_b64decode(last + "==")
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    same_bytes = last[:-1] + alphabet[alphabet.index(last[-1]) + 1]
    assert base64.urlsafe_b64decode(same_bytes + "==") == signature
    for other in (same_bytes, encode(signature[:32] + b"\0" + signature[32:]), last + "=="):
        with pytest.raises(TokenError):
            check(".".join([*parts, other]))


def test_another_claim_under_the_same_signature_is_refused() -> None:
    parts = token().split(".")
    parts[1] = encode(json.dumps(claims(private={"node": {"name": "other"}})).encode())
    with pytest.raises(TokenError, match="signature is wrong"):
        check(".".join(parts))


def test_a_key_that_says_its_algorithm_is_used_for_that_alone() -> None:
    keys = jwks(jwk_of_rsa("rsa", alg="RS256"))
    assert check(token(), keys) == CALLER
    with pytest.raises(TokenError, match="not that of its key"):
        check(token(algorithm="RS512"), keys)


@pytest.mark.parametrize(
    "text",
    ["", ".", "..", "...", "a.b", "a.b.c.d", "e30.e30.e30=", "e30.e30. e30", "e30.e30.e30\n", "bnVsbA.e30.AA",
     "e30.W10.AA", f"{encode(b'{')}.e30.AA", f"{encode(bytes([255]))}.e30.AA", f"e30.{encode(b'[' * 9000)}.AA",
     "e31.e30.AA",
     f"e30.{encode(json.dumps({'a': 1}).encode()[:-1] + b', chr(34)}')}.AA", "é.e30.AA", "x" * 16385],
)  # fmt: skip
def test_what_is_no_token_is_refused(text: str) -> None:
    with pytest.raises(TokenError):
        check(text)


def test_a_name_twice_is_refused() -> None:
    body = json.dumps(claims()).encode()
    twice = body[:-1] + b', "iss": "' + ISSUER.encode() + b'"}'
    for raw in (twice, body[:-1] + b', "a": NaN}'):
        parts = [encode(b'{"alg":"RS256","kid":"rsa"}'), encode(raw)]
        with pytest.raises(TokenError, match="no JSON object"):
            check(".".join([*parts, encode(sign("RS256", ".".join(parts).encode()))]))


@examples(100)
@given(st.text(max_size=200) | st.text(alphabet="e30AZ._-{}", max_size=200))
def test_any_text_is_refused_in_our_words(text: str) -> None:
    with pytest.raises(TokenError):
        check(text)


@examples(100)
@given(st.integers(0, len(token()) - 1), st.characters(codec="ascii"))
def test_no_character_of_a_token_can_be_changed(position: int, character: str) -> None:
    text = token(algorithm="ES256")
    position %= len(text)
    changed = text[:position] + character + text[position + 1 :]
    if changed != text:
        with pytest.raises(TokenError):
            check(changed)


_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["name", "uid", "x"]), inner),
    max_leaves=4,
)


@examples(100)
@given(st.sampled_from([*claims(), *claims()["kubernetes.io"]]), _json)
def test_any_signed_claim_is_refused_in_our_words_or_means_the_same(name: str, value: Any) -> None:
    body = claims(**{name: value}) if name in claims() else claims(private={name: value})
    try:
        found = check(token(body, "ES256"))
    except (TokenError, NotAllowedError):
        return
    assert (found.cluster, found.namespace, found.service_account) == ("prod", "meshca", "agent")
    assert name in {"jti", "warnafter", "exp", "nbf", "iat", "node", "pod"}


# -- sets of keys


def test_keys_of_other_kinds_are_left_out() -> None:
    small = rsa.generate_private_key(65537, 1024)  # noqa: S505 - it must be refused
    found = jwks(
        jwk_of_rsa("rsa"),
        jwk_of_rsa("small", small),
        jwk_of_rsa("for-encryption", use="enc"),
        jwk_of_rsa(""),
        {"kty": "oct", "kid": "secret", "k": "AAAA"},
        {"kty": "EC", "kid": "no-point", "crv": "P-256", "x": "AAAA", "y": "AAAA"},
        {"kty": "EC", "kid": "curve", "crv": "secp256k1", "x": "AAAA", "y": "AAAA"},
        {"kty": "RSA", "kid": "numbers", "n": 5, "e": 3},
        {"kty": "RSA", "kid": "none"},
        jwk_of_curve("curve-with-enc", "ES256", use="enc"),
    )
    assert set(found.keys) == {"rsa"}


@pytest.mark.parametrize(
    "raw",
    [b"", b"[]", b"{}", b'{"keys":{}}', b'{"keys":[]}', b'{"keys":[1]}', b"\xff", b"[" * 100_000,
     b'{"keys":[],"keys":[]}',
     json.dumps({"keys": [jwk_of_rsa("a"), jwk_of_curve("a", "ES256")]}).encode(),
     json.dumps({"keys": [jwk_of_curve(str(index), "ES256") for index in range(65)]}).encode(),
     json.dumps({"keys": [jwk_of_rsa("a")], "x": "x" * 262144}).encode()],
)  # fmt: skip
def test_what_is_no_set_of_keys_is_refused(raw: bytes) -> None:
    with pytest.raises(JwksError):
        parse_jwks(raw)


def test_nothing_of_a_token_is_in_its_repr() -> None:
    found = parse_token(token())
    assert "meshca" not in repr(found)
    assert verify(found, KEYS)["iss"] == ISSUER
