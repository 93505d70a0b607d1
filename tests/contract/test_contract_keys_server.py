"""A server whose key store fails: a clear error, what was issued goes on being served, nothing is half-changed.

All with the real parts: a whole server, OpenBao, SoftHSM.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from fakes.key_stores import PIN, LastingOpenBao, SoftHsm, door_to, lasting_openbao, softhsm
from fakes.server_world import (
    FRONT,
    PASSPHRASE,
    Admin,
    Envoy,
    leaf_of,
    server,
    shop_with,
    signing_request,
    temporary_home,
)

from meshca.authority.records import CertificateFilter
from meshca.client.values import Issued
from meshca.errors import MeshcaError, UnavailableError
from meshca.keys.files import KeyFolder
from meshca.keys.pkcs11 import library
from meshca.keys.proof import key_type_of
from meshca.keys.rewrap import rewrap
from meshca.keys.rows import name_of
from meshca.keys.sealed import DamagedKeyError, WrongPassphraseError
from meshca.server.config import Config
from meshca.server.home import Home
from meshca.server.house import open_house
from meshca.server.parts import Parts
from meshca.store.engine import open_store
from meshca.store.sealed import SealedKeys

POLICY = 'path "transit/*" { capabilities = ["create", "read", "update"] }'
WRONG = "wr0ng-secret"


@pytest.fixture(scope="module")
def running_bao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LastingOpenBao]:
    with lasting_openbao(tmp_path_factory.mktemp("bao")) as running:
        yield running


@pytest.fixture
def bao(running_bao: LastingOpenBao, monkeypatch: pytest.MonkeyPatch) -> LastingOpenBao:
    for name, value in running_bao.environ.items():
        monkeypatch.setenv(name, value)
    return running_bao


@pytest.fixture
def hsm(tmp_path: Path) -> Iterator[SoftHsm]:
    with softhsm(tmp_path) as token:
        yield token
        with suppress(library().PKCS11Error):
            library().lib(token.module).finalize()


@dataclass
class Served:
    """A server with one Envoy, to whom its leaf has been delivered."""

    parts: Parts
    admin: Admin
    envoy: Envoy
    leaf: bytes
    hidden: tuple[str, ...]

    async def issue(self) -> Issued | MeshcaError:
        """Ask for one more certificate."""
        (answer,) = await self.admin.issue([signing_request(FRONT)])
        found: Issued | MeshcaError = answer
        return found

    def issued(self) -> int:
        """Count what the ledger calls issued."""
        wanted = CertificateFilter(at=datetime.now(UTC), status="valid")
        return len(self.parts.house.ledger.certificates(wanted))

    async def outage(self, *words: str) -> None:
        """Check that the failure is told, and that it touches nothing that was there."""
        before = self.issued()
        error = await self.issue()
        assert isinstance(error, UnavailableError), error
        warnings = (await self.admin.status()).warnings
        for text in (str(error), *warnings):
            assert not [secret for secret in self.hidden if secret in text]
        assert [word for word in words if word not in str(error)] == []
        assert any("does not sign" in warning and words[0] in warning for warning in warnings)
        assert self.issued() == before
        assert not self.parts.house.ledger.certificates(CertificateFilter(at=datetime.now(UTC), status="pending"))
        async with Envoy(self.parts.house.home.mesh_socket, FRONT) as another:
            await another.ask("default", "ROOTCA")
            assert leaf_of((await another.secrets())["default"]) == self.leaf
        self.parts.house.authority.trust.require_sound(datetime.now(UTC))

    async def recovery(self) -> None:
        """Check that it is over."""
        await asyncio.to_thread(self.parts.house.keys.tend)
        assert isinstance(await self.issue(), Issued)
        assert not [w for w in (await self.admin.status()).warnings if "does not sign" in w]


@asynccontextmanager
async def served(home: Home, *hidden: str) -> AsyncIterator[Served]:
    async with AsyncExitStack() as stack:
        parts, admin = await stack.enter_async_context(server(home))
        await shop_with(admin, FRONT)
        envoy = await stack.enter_async_context(Envoy(home.mesh_socket, FRONT))
        await envoy.ask("default", "ROOTCA")
        found = Served(parts, admin, envoy, leaf_of((await envoy.secrets())["default"]), hidden)
        assert isinstance(await found.issue(), Issued)
        yield found


def in_openbao() -> dict[str, Any]:
    name = secrets.token_hex(4)
    return {"root_key": f"openbao:transit/root-{name}", "issuing_key": f"openbao:transit/{name}"}


async def test_openbao_sealed_killed_and_restarted(bao: LastingOpenBao) -> None:
    with temporary_home(**in_openbao()) as home:
        async with served(home, bao.token) as world:
            bao.seal()
            await world.outage("sealed", "bao operator unseal")
            bao.unseal()
            await world.recovery()
            bao.stop()
            await world.outage("cannot be reached")
            bao.start()
            await world.outage("sealed")
            bao.unseal()
            await world.recovery()


async def test_openbao_slow(bao: LastingOpenBao) -> None:
    with temporary_home(**in_openbao()) as home:
        async with served(home, bao.token) as world:
            with bao.paused():
                await world.outage("did not answer within")
            await asyncio.sleep(1.1)
            await world.recovery()


async def test_openbao_answering_500(bao: LastingOpenBao, monkeypatch: pytest.MonkeyPatch) -> None:
    with door_to(bao.address) as door:
        monkeypatch.setenv("BAO_ADDR", door.address)
        with temporary_home(**in_openbao()) as home:
            async with served(home, bao.token) as world:
                door.broken = True
                await world.outage("internal error: disk on fire", "log")
                door.broken = False
                await world.recovery()


async def test_openbao_losing_the_key(bao: LastingOpenBao) -> None:
    places = in_openbao()
    name = places["issuing_key"].rpartition("/")[2]
    with temporary_home(**places) as home:
        async with served(home, bao.token) as world:
            with bao.client() as client:
                client.secrets.transit.update_key_configuration(name, deletion_allowed=True)
                client.secrets.transit.delete_key(name)
            await world.outage("lost", "backup")
            with bao.client() as client:
                client.secrets.transit.create_key(name, key_type="ecdsa-p256")
            error = await world.issue()  # it signs again, with a key that is not the CA's
            assert isinstance(error, MeshcaError)
            await asyncio.to_thread(world.parts.house.keys.tend)
            await world.outage("another key than the CA's")


async def test_an_approle_secret_that_is_wrong(
    bao: LastingOpenBao, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("meshca.keys.openbao_client._AFTER_REFUSAL", 0.2)
    secret = tmp_path / "secret-id"
    with bao.client() as client:
        client.sys.create_or_update_policy("signing", POLICY)
        client.sys.enable_auth_method("approle")
        client.auth.approle.create_or_update_approle("meshca", token_policies=["signing"])
        role = client.auth.approle.read_role_id("meshca")["data"]["role_id"]
        right = client.auth.approle.generate_secret_id("meshca")["data"]["secret_id"]
    secret.write_text(f"{right}\n")
    monkeypatch.delenv("BAO_TOKEN")
    monkeypatch.setenv("BAO_ROLE_ID", role)
    monkeypatch.setenv("BAO_SECRET_ID_FILE", str(secret))
    with temporary_home(**in_openbao()) as home:
        async with served(home, right, WRONG) as world:
            secret.write_text(WRONG)
            with bao.client() as client:
                client.auth.token.revoke(world.parts.house.keys._bao._client.token)  # type: ignore[union-attr]
            await asyncio.sleep(0.3)
            await world.outage("AppRole login", "BAO_SECRET_ID")
            secret.write_text(right)
            await asyncio.sleep(0.3)
            await world.recovery()
        secret.write_text(WRONG)
        async with server(home) as (_, admin):  # a server that cannot log in starts, and says so
            assert [w for w in (await admin.status()).warnings if "AppRole login" in w]


async def test_an_hsm_that_vanishes(hsm: SoftHsm) -> None:
    with temporary_home(root_key=hsm.uri("root"), issuing_key=hsm.uri("issuing")) as home:
        async with served(home, PIN) as world:
            away = hsm.tokens.with_name("away")
            hsm.tokens.rename(away)
            hsm.tokens.mkdir()
            library().lib(hsm.module).finalize()  # SoftHSM keeps in memory what it has read; hardware would not
            await world.outage("no such token")
            hsm.tokens.rmdir()
            away.rename(hsm.tokens)
            library().lib(hsm.module).finalize()  # a tick may have made it read that there is no token
            await world.recovery()


@pytest.mark.parametrize(
    ("places", "kind"),
    [
        (lambda hsm: {"root_key": hsm.uri("r"), "issuing_key": "openbao:transit/i384"}, "ec-p384"),
        (lambda hsm: {"root_key": "openbao:transit/r", "issuing_key": hsm.uri("i")}, "ec-p256"),
        (lambda _: {"root_key": "store", "issuing_key": "file"}, "ec-p384"),
        (lambda hsm: {"root_key": hsm.uri("r2"), "issuing_key": "store"}, "ec-p384"),
    ],
    ids=["hsm-openbao", "openbao-hsm", "store-file", "hsm-store"],
)
async def test_root_and_issuing_key_are_placed_independently(
    bao: LastingOpenBao, hsm: SoftHsm, places: Callable[[SoftHsm], dict[str, Any]], kind: str
) -> None:
    with temporary_home(key_type=kind, **places(hsm)) as home:
        async with served(home, bao.token, PIN) as world:
            trust = world.parts.house.authority.trust
            assert {key_type_of(issuer.spki, issuer.id) for issuer in trust.authorities} == {kind}
        async with server(home) as (_, admin):
            (answer,) = await admin.issue([signing_request(FRONT)])
            assert isinstance(answer, Issued)


async def test_a_passphrase_changes_under_a_running_server() -> None:
    with temporary_home() as home:
        async with served(home, PASSPHRASE.decode()) as world:
            with sealed_rows(home) as rows:
                rewrap(KeyFolder(home.keys), rows, PASSPHRASE, b"another")
            assert isinstance(await world.issue(), Issued)
        with pytest.raises(WrongPassphraseError):
            await asyncio.to_thread(open_house, home, Config(), PASSPHRASE)
        async with server(home, b"another") as (parts, admin):
            assert (await admin.audit_verify()).intact
            actions = [record.action for record in await admin.audit_tail(50)]
            assert "rewrap" in actions
            assert not parts.house.keys.troubles


async def test_a_sealed_key_in_the_row_of_another_is_an_error_at_start() -> None:
    with temporary_home(root_key="store") as home:
        with sealed_rows(home) as rows:
            first, second = (known := rows.all())
            rows.replace(known, {first: known[second], second: known[first]})
        with pytest.raises(DamagedKeyError, match="another place") as caught:
            await asyncio.to_thread(open_house, home, Config(), PASSPHRASE)
        assert caught.value.field in {name_of(first), name_of(second)}
        with sealed_rows(home) as rows:
            rows.replace(rows.all(), known)
        async with served(home):
            pass


async def test_a_sealed_key_in_the_file_of_another_is_an_error_at_start() -> None:
    with temporary_home(issuing_key="file") as home:
        first, second = home.keys.iterdir()
        kept = first.read_bytes()
        first.write_bytes(second.read_bytes())
        with pytest.raises(DamagedKeyError, match="another place"):
            await asyncio.to_thread(open_house, home, Config(), PASSPHRASE)
        first.write_bytes(kept)
        async with served(home) as world:
            first.unlink()  # open keys stay open
            assert isinstance(await world.issue(), Issued)


@contextmanager
def sealed_rows(home: Home) -> Iterator[SealedKeys]:
    with open_store(f"sqlite:///{home.database}") as store:
        yield SealedKeys(store, lambda: datetime.now(UTC))
