"""Two servers on one database: what is done at one is in force at the other, at once; one of them leads."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from fakes.server_world import (
    BACK,
    BACK_ID,
    FRONT,
    FRONT_ID,
    PASSPHRASE,
    Admin,
    Envoy,
    leaf_of,
    sans,
    server,
    shop,
    shop_with,
    signing_request,
    temporary_home,
)
from sqlalchemy import select, text

from meshca.authority.audit import AuditEntry
from meshca.authority.ports import TrustChange
from meshca.errors import ConflictError, InvalidInputError, MeshcaError
from meshca.keys.passphrase import Passphrase
from meshca.server.config import Config, read_config
from meshca.server.home import Home
from meshca.server.join import Joined, JoinOptions, join
from meshca.server.parts import Parts
from meshca.spiffe.id import TrustDomain
from meshca.store.engine import Transaction
from meshca.store.leases import Leases
from meshca.store.ledger import SqlLedger
from meshca.store.schema import SEALED_KEYS

SOON = 1.0  # 0.2 is the aim, measured at 0.01 to 0.1; what else runs on the machine must not fail a test


def joining(home: Home, url: str, passphrase: bytes = PASSPHRASE, **options: Any) -> Joined:
    wanted = JoinOptions(Config(store_url=url), lambda _: Passphrase(passphrase, "test"), **options)
    return join(home, wanted)


@dataclass
class Replica:
    parts: Parts
    admin: Admin
    home: Home


@dataclass
class Pair:
    """Two running replicas."""

    one: Replica
    two: Replica
    took: dict[str, float] = field(default_factory=dict)

    async def heard(self, what: str, act: Awaitable[object], seen: Awaitable[Any]) -> Any:
        """Return what is seen at two after an act at one, and note how long after its end."""
        seeing = asyncio.ensure_future(seen)
        await act
        done = time.monotonic()
        found = await asyncio.wait_for(seeing, 10)
        self.took[what] = time.monotonic() - done
        return found


@pytest.fixture
def homes(empty_database: str) -> Iterator[tuple[Home, Home, str]]:
    with temporary_home(database=empty_database, root_key="store") as first:
        second = Home.at(first.path.parent / "second")
        assert joining(second, empty_database, name="second").warnings == ()
        yield first, second, empty_database


@asynccontextmanager
async def running_pair(homes: tuple[Home, Home, str]) -> AsyncIterator[Pair]:
    first, second, url = homes
    async with (
        server(first, store_url=url) as (one, admin),
        server(second, store_url=url, replica="second") as (two, other),
    ):
        yield Pair(Replica(one, admin, first), Replica(two, other, second))


async def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.002)


def test_a_joined_home_is_configured_like_the_first_and_says_what_is_missing(empty_database: str) -> None:
    with temporary_home(database=empty_database) as first:
        home = Home.at(first.path.parent / "second")

        joined = joining(home, empty_database, trust_domain=TrustDomain("shop.test"))

        config = read_config(home.config)
        assert (config.store_url, config.replica) == (empty_database, joined.replica)
        assert joined.trust_domain == TrustDomain("shop.test")
        (warning,) = joined.warnings  # the root's key is a file of the first home
        assert str(first.keys) not in warning
        assert not any(home.keys.iterdir())


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"passphrase": b"wrong"}, MeshcaError),
        ({"trust_domain": TrustDomain("other.test")}, ConflictError),
        ({"name": "Not A Name"}, InvalidInputError),
        ({"name": "server"}, ConflictError),
    ],
    ids=["passphrase", "trust domain", "name", "name taken"],
)
def test_who_does_not_fit_is_refused_and_nothing_is_left(
    empty_database: str, options: dict[str, Any], error: type[MeshcaError]
) -> None:
    with temporary_home(database=empty_database) as first:
        home = Home.at(first.path.parent / "second")
        with pytest.raises(error):
            joining(home, empty_database, **options)
        assert not home.path.exists()


def test_a_database_is_needed_and_has_to_hold_a_trust_domain(tmp_path: Path, database: str) -> None:
    with pytest.raises(InvalidInputError, match="--database"):
        joining(Home.at(tmp_path / "h"), "")
    with pytest.raises(MeshcaError, match="no certificate authority"):
        joining(Home.at(tmp_path / "h"), database)


async def test_what_is_done_at_one_replica_is_in_force_at_the_other(homes: tuple[Home, Home, str]) -> None:
    async with running_pair(homes) as pair:
        admin, there = pair.one.admin, pair.two
        state = there.parts.state
        await pair.heard("apply", admin.apply(shop()), until(lambda: state.snapshot.mesh.revision == 1))
        await shop_with(admin, FRONT, BACK)
        await until(lambda: len(state.snapshot.registrations) == 2)
        async with Envoy(there.home.mesh_socket, BACK) as envoy:
            await envoy.ask(BACK_ID)
            first = (await envoy.secrets())[BACK_ID]
            fresh = await pair.heard("rotate leaf", admin.rotate_leaf(BACK), envoy.secrets())
            assert leaf_of(fresh[BACK_ID]) != leaf_of(first)
        async with Envoy(there.home.mesh_socket, BACK) as envoy:
            await envoy.ask("clients:8080", "ROOTCA")
            assert sans((await envoy.secrets())["clients:8080"]) == [FRONT_ID]
            await pair.heard("suspend", admin.revoke(node=FRONT), until(lambda: bool(state.snapshot.suspended)))
            while sans((await envoy.secrets()).get("clients:8080")) == [FRONT_ID]:
                pass
        generation = state.snapshot.trust.generation
        assert generation == pair.one.parts.state.snapshot.trust.generation  # the CRL came with it
        await pair.heard("resume", admin.resume(FRONT), until(lambda: not state.snapshot.suspended))
        await pair.heard("freeze", admin.freeze("test"), until(lambda: state.snapshot.frozen is not None))
        await pair.heard("unfreeze", admin.unfreeze(), until(lambda: state.snapshot.frozen is None))
        await pair.heard(
            "rotate", admin.rotate_authority("issuing"), until(lambda: len(state.snapshot.trust.issuing) == 2)
        )
        assert max(pair.took.values()) < SOON, pair.took


async def test_a_holder_that_moves_is_one_holder_and_what_it_has_refused_is_known_there(
    homes: tuple[Home, Home, str],
) -> None:
    async with running_pair(homes) as pair:
        await shop_with(pair.one.admin, FRONT, BACK)
        there = pair.two.parts
        await until(lambda: len(there.state.snapshot.registrations) == 2)
        for replica in (pair.one, pair.two):
            async with Envoy(replica.home.mesh_socket, BACK) as envoy:
                await envoy.ask(BACK_ID)
                await envoy.secrets()
                acknowledged = replica.parts.house.acknowledgements
                await replica.parts.journal.stored()
                assert acknowledged.holders(replica.parts.house.clock.now()) == 1
        async with Envoy(pair.one.home.mesh_socket, BACK) as envoy:
            await envoy.ask("ROOTCA")
            await envoy.reject("not today")
            here = pair.one.parts.desk.rejections
            await until(lambda: bool(here._nodes))
        await until(lambda: there.desk.rejections._nodes == here._nodes)


async def test_replicas_apply_at_once_and_nothing_is_lost(homes: tuple[Home, Home, str]) -> None:
    async with running_pair(homes) as pair:
        await pair.one.admin.apply(shop())

        def node(name: str) -> list[dict[str, Any]]:
            return [{"kind": "virtualNode", "meshName": "shop", "virtualNodeName": name, "spec": {}}]

        await asyncio.gather(
            *(
                replica.admin.apply(node(f"n{number}-{at}"))
                for number in range(3)
                for at, replica in enumerate((pair.one, pair.two))
            )
        )

        for replica in (pair.one, pair.two):
            state = replica.parts.state
            await until(lambda state=state: state.snapshot.mesh.revision == 7)  # type: ignore[misc]
            names = {key.name for key in state.snapshot.mesh.mesh_set.objects}
            assert {f"n{number}-{at}" for number in range(3) for at in range(2)} <= names


async def test_one_replica_leads_and_the_other_follows_when_it_goes(homes: tuple[Home, Home, str]) -> None:
    first, second, url = homes
    async with server(second, store_url=url, replica="second") as (two, _):
        async with server(first, store_url=url) as (one, __):
            assert two.leading.leads
            assert not one.leading.leads
            await asyncio.to_thread(two.leading.release)
            await asyncio.to_thread(one.leading.tick)
            assert one.leading.leads
        await asyncio.to_thread(two.leading.tick)  # which was given back, so that nobody waits
        assert two.leading.leads


async def test_a_leader_that_was_taken_over_while_it_worked_writes_nothing(homes: tuple[Home, Home, str]) -> None:
    async with running_pair(homes) as pair:
        one, two = pair.one.parts, pair.two.parts
        (leader, other) = (one, two) if one.leading.leads else (two, one)
        leases = Leases(other.house.store)
        ran: list[object] = []

        def work() -> None:  # the leader is stopped here for a while, and another takes over
            taken = leases.take("schedule", leases.read("schedule"), other.house.clock.now())
            ran.append(taken)
            leader.house.acknowledgements.forget(leader.house.clock.now(), leader.house.clock.now())
            ran.append("written")

        await asyncio.to_thread(leader.leading.run, work)

        assert ran != []
        assert "written" not in ran
        assert not leader.leading.leads


async def test_a_rotation_that_others_overtake_goes_on_with_one_key_which_opens_later(
    homes: tuple[Home, Home, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _, url = homes
    async with running_pair(homes) as pair:
        await shop_with(pair.one.admin, BACK)
        ledger, other = pair.one.parts.house.ledger, pair.two.parts.house.ledger
        change_trust, overtaken = ledger.change_trust, list[int]()

        def too_late(change: TrustChange, audit: Sequence[AuditEntry]) -> None:
            if len(overtaken) < 3:
                overtaken.append(change.generation)
                other.store_crls([], change.generation, [])
            change_trust(change, audit)

        monkeypatch.setattr(SqlLedger, "change_trust", lambda _, change, audit: too_late(change, audit))
        before = sealed(pair.one.parts)
        successor = await pair.one.admin.rotate_authority("issuing")
        assert len(overtaken) == 3
        assert len(sealed(pair.one.parts)) == len(before) + 1
    monkeypatch.undo()
    async with server(first, store_url=url) as (parts, admin):
        assert parts.house.authority.trust.active.id == successor  # nobody was waited for
        (issued,) = await admin.issue([signing_request(BACK)])
        assert issued.serial


def sealed(parts: Parts) -> list[Any]:
    with parts.house.store.read() as connection:
        return list(connection.execute(select(SEALED_KEYS.c.key_id)))


# SQLite has no connection that could be lost.
@pytest.mark.parametrize("empty_database", ["postgresql"], indirect=True)
async def test_what_was_missed_while_the_connection_was_lost_is_heard_later(homes: tuple[Home, Home, str]) -> None:
    async with running_pair(homes) as pair:
        await pair.one.admin.apply(shop())
        state = pair.two.parts.state
        await until(lambda: state.snapshot.mesh.revision == 1)

        def cut(transaction: Transaction) -> None:
            transaction.connection.execute(
                text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN meshca%'")
            )

        pair.one.parts.house.store.write(cut)
        await pair.one.admin.register(FRONT, ["unix:uid:1"])

        await until(lambda: len(state.snapshot.registrations) == 1)
