"""How key stores fail: each failure says what and the remedy, shows no secret, and ends when its cause does."""

from __future__ import annotations

import json
import secrets
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from fakes.ca_records import record_of
from fakes.key_stores import (
    PIN,
    TOKEN,
    OpenBao,
    SoftHsm,
    answering,
    free_port,
    openbao,
    openbao_over_tls,
    service_account_token,
    softhsm,
)

from meshca.authority.ports import KeyUnavailableError
from meshca.errors import InvalidInputError
from meshca.keys.openbao import TransitSigner, create_transit_key, open_transit_key
from meshca.keys.openbao_client import Bao
from meshca.keys.openbao_login import read_settings
from meshca.keys.pkcs11 import Pkcs11Key, create_pkcs11_key, library
from meshca.keys.place import Pkcs11Place, TransitPlace, parse_place
from meshca.keys.proof import require_own_key
from meshca.keys.sealed import SealedSigner, spki_of

WRONG = "wr0ng-secret"
POLICY = 'path "transit/*" { capabilities = ["create", "read", "update"] }'


@dataclass
class Ticking:
    """A monotonic clock that is moved by hand."""

    at: float = 1000.0

    def __call__(self) -> float:
        return self.at


@pytest.fixture(scope="module")
def bao() -> Iterator[OpenBao]:
    with openbao() as server:
        with server.client() as client:
            client.sys.create_or_update_policy("signing", POLICY)
            client.sys.enable_auth_method("approle")
            lives = {"token_ttl": "60s", "token_max_ttl": "90s"}
            client.auth.approle.create_or_update_approle("meshca", token_policies=["signing"], **lives)
        yield server


@pytest.fixture(scope="module")
def hsm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SoftHsm]:
    with softhsm(tmp_path_factory.mktemp("hsm")) as token:
        yield token
        with suppress(library().PKCS11Error):
            library().lib(token.module).finalize()


@contextmanager
def connected(environ: dict[str, str], clock: Ticking | None = None, limit: float = 5.0) -> Iterator[Bao]:
    connection = Bao(read_settings(environ), monotonic=clock or Ticking(), time_limit=limit)
    try:
        yield connection
    finally:
        connection.close()


def new_key(connection: Bao) -> TransitSigner:
    return create_transit_key(connection, TransitPlace("transit", f"k{secrets.token_hex(4)}"), None, fresh=False)


def approle(server: OpenBao) -> dict[str, str]:
    with server.client() as client:
        role = client.auth.approle.read_role_id("meshca")["data"]["role_id"]
        secret = client.auth.approle.generate_secret_id("meshca")["data"]["secret_id"]
    return {"BAO_ADDR": server.address, "BAO_ROLE_ID": role, "BAO_SECRET_ID": secret}


def failure(signer: Any, *hidden: str) -> str:
    """Return how signing fails, once it is sure that neither the error nor what caused it shows a secret."""
    with pytest.raises(KeyUnavailableError) as caught:
        signer.sign(b"data")
    assert caught.value.remedy
    chain: list[BaseException] = [caught.value]
    while link := chain[-1].__cause__ or (None if chain[-1].__suppress_context__ else chain[-1].__context__):
        chain.append(link)
    told = " ".join(f"{error} {error!r}" for error in chain)
    assert not [secret for secret in (TOKEN, PIN, *hidden) if secret in told]
    return str(caught.value)


# ---- OpenBao


def test_a_stopped_openbao_is_named_and_a_restarted_one_is_found_again() -> None:
    with openbao() as server, connected(server.environ) as connection:
        signer = new_key(connection)
        server.stop()
        assert "cannot be reached" in failure(signer)
        server.start()
        assert "backup" in failure(signer)  # the -dev server forgot its keys
        require_own_key(create_transit_key(connection, TransitPlace("transit", "again"), None, fresh=False))


def test_a_sealed_openbao_is_named() -> None:
    with openbao() as server, connected(server.environ) as connection:
        signer = new_key(connection)
        with server.client() as client:
            client.sys.seal()
        assert "sealed" in failure(signer)


def test_a_silent_openbao_is_waited_for_once() -> None:
    released, clock = threading.Event(), Ticking()
    with (
        answering(200, delay=released) as address,
        connected({"BAO_ADDR": address, "BAO_TOKEN": TOKEN}, clock, 0.2) as connection,
    ):
        spki = _any_spki()
        signer = TransitSigner(connection, TransitPlace("transit", "k", 1), spki)
        assert "did not answer within 0.2 s" in failure(signer)
        released.set()
        assert "did not answer" in failure(signer)  # at once: the clock stands
        clock.at += 2
        assert "not as OpenBao does" in failure(signer)


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (500, b'{"errors": ["disk on fire"]}', "internal error: disk on fire"),
        (500, f'{{"errors": ["token {TOKEN} is odd"]}}'.encode(), "internal error"),
        (502, b"<html>", "cannot reach"),
        (503, b"{}", "sealed"),
        (501, b"{}", "not initialised"),
        (429, b"{}", "limits our rate"),
        (418, b"{}", "failed"),
        (200, b"<html>", "not as OpenBao does"),
        (200, b'{"data": {"signature": "nonsense"}}', "not as OpenBao does"),
        (204, b"", "not as OpenBao does"),
    ],
)
def test_what_openbao_answers_is_explained(status: int, body: bytes, words: str) -> None:
    with answering(status, body) as address, connected({"BAO_ADDR": address, "BAO_TOKEN": TOKEN}) as connection:
        assert words in failure(TransitSigner(connection, TransitPlace("transit", "k", 1), _any_spki()))


def test_a_wrong_approle_secret_is_refused_and_not_repeated(bao: OpenBao) -> None:
    clock = Ticking()
    with connected({**approle(bao), "BAO_SECRET_ID": WRONG}, clock) as connection:
        signer = TransitSigner(connection, TransitPlace("transit", "k", 1), _any_spki())
        for _ in range(20):  # OpenBao locks a role out after 5
            words = failure(signer, WRONG)
        assert "AppRole login" in words
        assert "BAO_SECRET_ID" in words
    with connected(approle(bao)) as connection:
        require_own_key(new_key(connection))


def test_a_token_is_renewed_at_half_its_life_and_replaced_near_its_end(bao: OpenBao) -> None:
    clock = Ticking()
    with connected(approle(bao), clock) as connection:
        new_key(connection)
        first = connection._client.token
        clock.at += 29
        connection.tend()
        assert connection._renew_at == 1030.0
        clock.at += 2
        connection.tend()
        assert connection._client.token == first
        assert (connection._renew_at or 0) > 1050.0
        with bao.client() as client:
            client.auth.token.revoke(first)
        clock.at += 60
        connection.tend()
        assert connection._client.token != first
        require_own_key(new_key(connection))


def test_a_token_that_ended_is_replaced_by_the_call_that_meets_it(bao: OpenBao) -> None:
    clock = Ticking()
    with connected(approle(bao), clock) as connection:
        signer = new_key(connection)
        with bao.client() as client:
            client.auth.token.revoke(connection._client.token)
        assert "does not allow" in failure(signer)  # so soon after a login this is taken for a matter of policy
        clock.at += 11
        require_own_key(signer)


def test_a_token_file_is_read_again(bao: OpenBao, tmp_path: Path) -> None:
    file, clock = tmp_path / "token", Ticking()
    file.write_text(f"{WRONG}\n")
    with connected({"BAO_ADDR": bao.address, "BAO_TOKEN_FILE": str(file)}, clock) as connection:
        with pytest.raises(KeyUnavailableError, match="does not allow"):
            new_key(connection)
        file.write_text(f"{TOKEN}\n")
        clock.at += 11
        require_own_key(new_key(connection))
        connection.tend()


def test_kubernetes_login_sends_the_service_accounts_token(tmp_path: Path) -> None:
    (tmp_path / "jwt").write_text("aaa.bbb.ccc")
    environ = {"BAO_KUBERNETES_ROLE": "meshca", "BAO_KUBERNETES_TOKEN_FILE": str(tmp_path / "jwt")}
    body = b'{"auth": {"client_token": "t", "lease_duration": 60, "renewable": true}}'
    with answering(200, body) as address, connected({"VAULT_ADDR": address, **environ}) as connection:
        assert connection.call("x", lambda client: client.token) == "t"
    with (
        answering(403, b'{"errors": ["aaa.bbb.ccc"]}') as address,
        connected({"BAO_ADDR": address, **environ}) as connection,
    ):
        signer = TransitSigner(connection, TransitPlace("transit", "k", 1), _any_spki())
        assert "Kubernetes login" in failure(signer, "aaa.bbb.ccc")


def test_a_key_that_may_not_be_made_says_who_can(bao: OpenBao) -> None:
    with bao.client() as client:
        client.sys.create_or_update_policy("reading", 'path "transit/keys/*" { capabilities = ["read"] }')
        token = client.auth.token.create(policies=["reading"])["auth"]["client_token"]
    with connected({"BAO_ADDR": bao.address, "BAO_TOKEN": token}) as connection:
        with pytest.raises(KeyUnavailableError, match="bao write -f transit/keys/mine type=ecdsa-p256") as caught:
            create_transit_key(connection, TransitPlace("transit", "mine"), None, fresh=False)
        assert token not in str(caught.value)
    missing = pytest.raises(KeyUnavailableError, match="bao secrets enable -path=nowhere transit")
    with connected(bao.environ) as connection, missing:
        create_transit_key(connection, TransitPlace("nowhere", "mine"), None, fresh=False)


def test_the_policy_of_the_manual_is_enough(bao: OpenBao) -> None:
    manual = Path(__file__).parents[2] / "docs/keys.md"
    policy = manual.read_text().partition("```hcl\n")[2].partition("```")[0]
    with bao.client() as client:
        client.sys.create_or_update_policy("manual", policy)
        token = client.auth.token.create(policies=["manual"], no_default_policy=True)["auth"]["client_token"]
    with connected({"BAO_ADDR": bao.address, "BAO_TOKEN": token}) as connection:
        place = TransitPlace("transit", "meshca-issuing")
        first = create_transit_key(connection, place, None, fresh=False)
        second = create_transit_key(connection, place, None, fresh=True)
        assert first.spki != second.spki
        for signer in (first, second):
            require_own_key(signer)
        with pytest.raises(KeyUnavailableError, match="does not allow"):
            new_key(connection)


def test_another_kind_of_key_is_no_ca_key(bao: OpenBao) -> None:
    with bao.client() as client:
        client.secrets.transit.create_key("rsa", key_type="rsa-2048")
    with connected(bao.environ) as connection, pytest.raises(KeyUnavailableError, match="rsa-2048"):
        create_transit_key(connection, TransitPlace("transit", "rsa"), None, fresh=False)


def test_a_key_rotated_by_somebody_else_signs_as_before(bao: OpenBao) -> None:
    with connected(bao.environ) as connection:
        signer = new_key(connection)
        with bao.client() as client:
            client.secrets.transit.rotate_key(signer.key_ref.rpartition("/")[2].partition("@")[0])
        require_own_key(signer)


def test_a_namespace_has_keys_of_its_own(bao: OpenBao) -> None:
    with bao.client() as client:
        client.adapter.request("post", "/v1/sys/namespaces/team")
        client.adapter.request("post", "/v1/sys/mounts/transit", json={"type": "transit"}, headers=_IN_TEAM)
    with connected({**bao.environ, "BAO_NAMESPACE": "team"}) as inside, connected(bao.environ) as outside:
        signer = new_key(inside)
        require_own_key(signer)
        place = parse_place(signer.key_ref)
        assert isinstance(place, TransitPlace)
        with pytest.raises(KeyUnavailableError, match="no such key"):
            open_transit_key(outside, place)


def test_tls_is_trusted_by_the_ca_file_and_by_nothing_else(tmp_path: Path) -> None:
    with openbao_over_tls(tmp_path) as (environ, ca_file):
        with connected({**environ, "BAO_CACERT": str(ca_file)}) as connection:
            require_own_key(new_key(connection))
        with (
            connected(environ) as connection,
            pytest.raises(KeyUnavailableError, match="no trusted TLS connection") as caught,
        ):
            new_key(connection)
        assert "BAO_CACERT" in caught.value.remedy


def test_kubernetes_login_is_taken_by_openbao(bao: OpenBao, tmp_path: Path) -> None:
    claims = {"name": "meshca", "uid": "u-1"}
    token = service_account_token(claims)
    (tmp_path / "jwt").write_text(f"{token}\n")
    review = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenReview",
        "status": {
            "authenticated": True,
            "user": {"username": "system:serviceaccount:mesh:meshca", "uid": "u-1", "groups": ["system:authenticated"]},
        },
    }
    with answering(201, json.dumps(review).encode()) as cluster, bao.client() as client:
        client.sys.enable_auth_method("kubernetes")
        client.auth.kubernetes.configure(
            cluster, kubernetes_ca_cert=any_certificate(), token_reviewer_jwt=token, disable_local_ca_jwt=True
        )
        client.auth.kubernetes.create_role("meshca", ["meshca"], ["mesh"], policies=["signing"])
        environ = {"BAO_KUBERNETES_ROLE": "meshca", "BAO_KUBERNETES_TOKEN_FILE": str(tmp_path / "jwt")}
        with connected({"BAO_ADDR": bao.address, **environ}) as connection:
            require_own_key(new_key(connection))
        environ["BAO_KUBERNETES_ROLE"] = "other"
        with connected({"BAO_ADDR": bao.address, **environ}) as connection:
            signer = TransitSigner(connection, TransitPlace("transit", "k", 1), _any_spki())
            assert "Kubernetes login" in failure(signer, token)


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"BAO_ADDR": "http://h:1"},
        {"BAO_ADDR": "ftp://h", "BAO_TOKEN": "t"},
        {"BAO_ADDR": f"https://user:{WRONG}@h", "BAO_TOKEN": "t"},
        {"BAO_ADDR": "https://h:port", "BAO_TOKEN": "t"},
        {"BAO_ADDR": "https://h", "BAO_TOKEN": "t", "BAO_CLIENT_CERT": "c"},
    ],
)
def test_what_is_not_configured_is_named(environ: dict[str, str]) -> None:
    with pytest.raises(InvalidInputError, match="BAO_") as caught:
        read_settings(environ)
    assert WRONG not in str(caught.value)


def test_an_authority_that_is_not_trusted_is_a_matter_of_the_ca_file(tmp_path: Path) -> None:
    environ = {"BAO_ADDR": f"https://127.0.0.1:{free_port()}", "BAO_TOKEN": TOKEN, "BAO_CACERT": "/ca.pem"}
    with connected(environ) as connection:
        assert connection._client._adapter._kwargs["verify"] == "/ca.pem"


# ---- PKCS #11


def hsm_key(
    hsm: SoftHsm, label: str = "", environ: dict[str, str] | None = None, changes: dict[str, str] | None = None
) -> Pkcs11Key:
    uri = hsm.uri(label or f"k{secrets.token_hex(4)}")
    for old, new in (changes or {}).items():
        uri = uri.replace(old, new)
    place = parse_place(uri)
    assert isinstance(place, Pkcs11Place)
    return Pkcs11Key.at(place, environ or {})


def test_an_hsm_that_vanishes_is_named_and_found_again(hsm: SoftHsm) -> None:
    signer = create_pkcs11_key(hsm_key(hsm), None)
    away = hsm.tokens.with_name("away")
    hsm.tokens.rename(away)
    hsm.tokens.mkdir()
    signer._key._give_up()  # SoftHSM keeps in memory what it has read; hardware would not
    try:
        assert "no such token" in failure(signer)
    finally:
        hsm.tokens.rmdir()
        away.rename(hsm.tokens)
    require_own_key(signer)


def test_a_lost_session_is_opened_again_within_the_call(hsm: SoftHsm) -> None:
    signer = create_pkcs11_key(hsm_key(hsm), None)
    library().lib(hsm.module).finalize()
    require_own_key(signer)
    session = next(iter(signer._key.module.sessions.values()))
    session.close()
    require_own_key(signer)


def test_a_wrong_pin_is_tried_once(hsm: SoftHsm, tmp_path: Path) -> None:
    known = create_pkcs11_key(hsm_key(hsm, "pinned"), None)
    known._key._give_up()
    (hsm.folder / "pin").write_text("wrong-4711")
    try:
        for _ in range(5):
            words = failure(known, "wrong-4711")
        assert "not tried again" in words
    finally:
        (hsm.folder / "pin").write_text(f"{PIN}\n")
    require_own_key(known)


def test_a_pin_may_come_from_the_environment_and_must_come_from_somewhere(hsm: SoftHsm) -> None:
    without = {f"&pin-source={hsm.folder}/pin": ""}
    create_pkcs11_key(hsm_key(hsm, "from-env"), None)._key._give_up()
    with pytest.raises(KeyUnavailableError, match="MESHCA_PKCS11_PIN"):
        create_pkcs11_key(hsm_key(hsm, "from-env", changes=without), None)
    key = hsm_key(hsm, "from-env", {"MESHCA_PKCS11_PIN": PIN}, without)
    assert PIN not in repr(key)
    require_own_key(create_pkcs11_key(key, None))


def test_a_pin_file_that_cannot_be_used_is_named(hsm: SoftHsm, tmp_path: Path) -> None:
    create_pkcs11_key(hsm_key(hsm, "x"), None)._key._give_up()
    for content in (b"\n", b"\xff"):
        (tmp_path / "pin").write_bytes(content)
        with pytest.raises(KeyUnavailableError, match=str(tmp_path / "pin")):
            create_pkcs11_key(hsm_key(hsm, "x", changes={f"{hsm.folder}/pin": f"{tmp_path}/pin"}), None)
    with pytest.raises(KeyUnavailableError, match="No such file"):
        create_pkcs11_key(hsm_key(hsm, "x", changes={f"{hsm.folder}/pin": f"{tmp_path}/none"}), None)


def test_a_library_that_is_none_is_named(tmp_path: Path, hsm: SoftHsm) -> None:
    (tmp_path / "lib.so").write_text("no library")
    for path in (tmp_path / "lib.so", tmp_path / "none.so"):
        with pytest.raises(KeyUnavailableError, match="cannot be loaded"):
            create_pkcs11_key(hsm_key(hsm, "x", changes={hsm.module: str(path)}), None)


def test_a_token_that_is_not_there_is_named(hsm: SoftHsm) -> None:
    with pytest.raises(KeyUnavailableError, match="no such token"):
        create_pkcs11_key(hsm_key(hsm, "x", changes={"meshca%20test": "other"}), None)


def test_a_hanging_hsm_holds_nobody_for_ever(hsm: SoftHsm, monkeypatch: pytest.MonkeyPatch) -> None:
    signer = create_pkcs11_key(hsm_key(hsm), None)
    monkeypatch.setattr("meshca.keys.pkcs11._PATIENCE", 0.05)
    with signer._key.module.lock:
        assert "has not answered" in failure(signer)
    require_own_key(signer)


def test_the_private_key_cannot_leave(hsm: SoftHsm) -> None:
    key = hsm_key(hsm, "guarded")
    create_pkcs11_key(key, None)
    pkcs11 = library()

    def flags(session: Any) -> tuple[bool, ...]:
        wanted = {pkcs11.Attribute.LABEL: "guarded", pkcs11.Attribute.CLASS: pkcs11.ObjectClass.PRIVATE_KEY}
        found = next(iter(session.get_objects(wanted)))
        kinds = (pkcs11.Attribute.SENSITIVE, pkcs11.Attribute.EXTRACTABLE, pkcs11.Attribute.NEVER_EXTRACTABLE)
        return tuple(found[kind] for kind in kinds)

    assert key.use(flags) == (True, False, True)


def test_without_python_pkcs11_the_remedy_is_the_extra(monkeypatch: pytest.MonkeyPatch, hsm: SoftHsm) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pkcs11", None)
    with pytest.raises(InvalidInputError, match=r"meshca\[pkcs11\]"):
        hsm_key(hsm)


_IN_TEAM = {"X-Vault-Namespace": "team"}


def any_certificate() -> str:
    """Return a certificate as PEM."""
    return ssl.DER_cert_to_PEM_cert(record_of(SealedSigner(ec.generate_private_key(ec.SECP256R1()))).certificate)


def _any_spki() -> bytes:
    return spki_of(ec.generate_private_key(ec.SECP256R1()))
