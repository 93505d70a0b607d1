from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshca.attest.process import Process
from meshca.delivery.leaves import Holder, Leaves, renewal_time
from meshca.delivery.ports import Leaf
from meshca.errors import RefusedError, UnavailableError
from meshca.spiffe.id import SpiffeId
from meshca.x509.plan import BACKDATING

T0 = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
IDENTITY = SpiffeId.parse("spiffe://t.test/mesh/m/virtualNode/a")
HOLDER = Holder(Process(7, 1000, 1000, frozenset(), 42), "node", IDENTITY)
OTHER = Holder(Process(8, 1000, 1000, frozenset(), 43), "node", IDENTITY)


def leaf_of(serial: str, signed_at: datetime, life: timedelta = HOUR, key: bytes = b"", issuer: str = "old") -> Leaf:
    """A leaf that is back-dated, as ours are."""
    return Leaf(serial, IDENTITY, signed_at - BACKDATING, signed_at + life, signed_at, b"chain", key, issuer)


class World:
    """A clock, an issuer, and the leaves between them."""

    def __init__(self) -> None:
        self.time = T0
        self.made = 0
        self.issuer = "old"
        self.error: Exception | None = None
        self.gate: asyncio.Event | None = None
        self.known: dict[str, Leaf] = {}
        self.told: list[str] = []
        self.leaves = Leaves(self, self, lambda: 0.5)

    def now(self) -> datetime:
        return self.time

    async def leaf(self, spiffe_id: SpiffeId, holder: str, requested_by: str) -> Leaf:
        if self.gate:
            await self.gate.wait()
        if self.error:
            raise self.error
        self.made += 1
        assert (spiffe_id, requested_by) == (IDENTITY, "uid:1000")
        return leaf_of(f"{self.made:02x}", self.time, HOUR, b"key", self.issuer)

    async def held(self, serial: str, spiffe_id: SpiffeId, holder: str) -> Leaf | None:
        return self.known.get(serial)

    def teller(self, name: str) -> Callable[[], None]:
        return lambda: self.told.append(name)


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.fixture
async def world() -> World:
    return World()


@given(st.floats(0, 1, exclude_max=True), st.timedeltas(timedelta(seconds=2), timedelta(days=30)))
def test_renewal_is_at_half_life_give_or_take_a_tenth(chance: float, life: timedelta) -> None:
    """However short the life: it counts from the signature, not from the back-dated start."""
    leaf = leaf_of("01", T0, life)
    assert T0 + 0.4 * life <= renewal_time(leaf, chance) <= T0 + 0.6 * life


async def test_streams_of_one_process_share_a_leaf_and_two_processes_do_not(world: World) -> None:
    both = await asyncio.gather(world.leaves.get(HOLDER), world.leaves.get(HOLDER), world.leaves.get(OTHER))
    assert [leaf.serial for leaf in both] == ["01", "01", "02"]
    await world.leaves.close()


async def test_a_leaf_past_its_renewal_time_is_not_given_out_as_new(world: World) -> None:
    await world.leaves.get(HOLDER)
    world.time += 0.51 * HOUR
    assert (await world.leaves.get(HOLDER)).serial == "02"
    await world.leaves.close()


async def test_a_tick_renews_what_is_due_and_tells_its_streams(world: World) -> None:
    world.leaves.attach(HOLDER, world.teller("one"))
    await world.leaves.get(HOLDER)
    world.leaves.tick()
    await settle()
    assert (world.made, world.told) == (1, [])
    world.time += 0.5 * HOUR
    world.leaves.tick()
    await settle()
    assert (world.made, world.told) == (2, ["one"])
    await world.leaves.close()


async def test_a_failing_renewal_leaves_the_old_leaf_in_service_until_it_expires(world: World) -> None:
    world.leaves.attach(HOLDER, world.teller("one"))
    await world.leaves.get(HOLDER)
    world.error = UnavailableError("no disk")
    world.time += 0.5 * HOUR
    world.leaves.tick()
    await settle()
    assert (await world.leaves.get(HOLDER)).serial == "01"
    assert world.told == []
    world.time += HOUR
    with pytest.raises(UnavailableError):
        await world.leaves.get(HOLDER)
    await world.leaves.close()


async def test_a_revoked_leaf_is_replaced_and_pushed_at_once(world: World) -> None:
    world.leaves.attach(HOLDER, world.teller("one"))
    await world.leaves.get(HOLDER)
    world.leaves.revoked({"01"}, suspended=False)
    await settle()
    assert world.told == ["one"]
    assert (await world.leaves.get(HOLDER)).serial == "02"
    await world.leaves.close()


async def test_a_leaf_that_is_revoked_while_it_arrives_is_not_given_out(world: World) -> None:
    world.gate = asyncio.Event()
    waiting = asyncio.create_task(world.leaves.get(HOLDER))
    await settle()
    world.leaves.revoked({"01"}, suspended=False)
    world.gate.set()
    assert (await waiting).serial == "02"
    await world.leaves.close()


async def test_for_a_suspended_identity_no_leaf_is_made_until_somebody_asks(world: World) -> None:
    world.leaves.attach(HOLDER, world.teller("one"))
    await world.leaves.get(HOLDER)
    world.error = RefusedError("suspended")
    world.leaves.revoked({"01"}, suspended=True)
    await settle()
    assert (world.made, world.told) == (1, [])
    with pytest.raises(RefusedError):
        await world.leaves.get(HOLDER)
    world.error = None
    assert (await world.leaves.get(HOLDER)).serial == "02"
    await world.leaves.close()


async def test_a_held_leaf_that_is_good_costs_no_new_one_but_cannot_be_sent_again(world: World) -> None:
    world.known["aa"] = leaf_of("aa", T0)
    assert (await world.leaves.get(HOLDER, "aa")).serial == "aa"
    assert (await world.leaves.get(HOLDER)).serial == "01"
    await world.leaves.close()


async def test_a_held_leaf_past_half_life_is_replaced(world: World) -> None:
    world.known["aa"] = leaf_of("aa", T0 - 0.5 * HOUR)
    assert (await world.leaves.get(HOLDER, "aa")).serial == "01"
    await world.leaves.close()


async def test_a_held_leaf_past_half_life_serves_on_while_none_is_issued(world: World) -> None:
    """As after a restart of a server whose issuance is frozen."""
    world.known["aa"] = leaf_of("aa", T0 - 0.5 * HOUR)
    world.error = RefusedError("issuance is frozen")
    assert (await world.leaves.get(HOLDER, "aa")).serial == "aa"
    with pytest.raises(RefusedError):
        await world.leaves.get(OTHER)
    world.time = T0 + 0.5 * HOUR
    with pytest.raises(RefusedError):
        await world.leaves.get(HOLDER, "aa")
    await world.leaves.close()


async def test_a_stream_that_goes_away_does_not_take_the_leaf_from_the_others(world: World) -> None:
    world.gate = asyncio.Event()
    going, staying = (asyncio.create_task(world.leaves.get(HOLDER)) for _ in range(2))
    await settle()
    going.cancel()
    await settle()
    world.gate.set()
    assert (await staying).serial == "01"
    await world.leaves.close()


async def test_an_idle_leaf_is_forgotten_after_a_minute(world: World) -> None:
    told = world.teller("one")
    world.leaves.attach(HOLDER, told)
    await world.leaves.get(HOLDER)
    world.leaves.detach(HOLDER, told)
    world.leaves.tick()
    assert (await world.leaves.get(HOLDER)).serial == "01"
    world.time += timedelta(minutes=1)
    world.leaves.tick()
    assert (await world.leaves.get(HOLDER)).serial == "02"
    await world.leaves.close()


async def test_rotating_gives_every_live_holder_a_new_leaf(world: World) -> None:
    world.leaves.attach(HOLDER, world.teller("one"))
    world.leaves.attach(OTHER, world.teller("two"))
    await world.leaves.get(HOLDER)
    await world.leaves.get(OTHER)
    assert world.leaves.rotate(IDENTITY) == 2
    await settle()
    assert sorted(world.told) == ["one", "two"]
    await world.leaves.close()


def holder(number: int) -> Holder:
    return Holder(Process(number, 1000, 1000, frozenset(), number), "node", IDENTITY)


async def hold(world: World, count: int) -> None:
    for number in range(count):
        world.leaves.attach(holder(number), world.teller(str(number)))
        await world.leaves.get(holder(number))


async def test_after_a_jump_of_the_clock_leaves_that_still_serve_are_renewed_over_some_ticks(world: World) -> None:
    await hold(world, 120)
    world.time += HOUR * 0.7
    for renewed in (50, 100, 120, 120):
        world.leaves.tick()
        await settle()
        assert world.made == 120 + renewed


async def test_leaves_that_have_expired_are_renewed_at_once(world: World) -> None:
    await hold(world, 120)
    world.time += 2 * HOUR
    world.leaves.tick()
    await settle()
    assert world.made == 240


async def test_leaves_of_a_tainted_ca_are_replaced_so_many_at_a_time(world: World) -> None:
    await hold(world, 5)
    world.issuer, world.gate = "new", asyncio.Event()
    for _ in range(2):  # while two are being made, no others are begun
        world.leaves.replace({"old"}, 2)
        await settle()
    world.gate.set()
    await settle()
    assert (world.made, sorted(world.told)) == (7, ["0", "1"])
    for _ in range(3):
        world.leaves.replace({"old"}, 2)
        await settle()
    assert (world.made, sorted(world.told)) == (10, ["0", "1", "2", "3", "4"])


async def test_who_is_given_a_new_leaf_after_a_revocation_is_told(world: World) -> None:
    await hold(world, 2)
    assert world.leaves.revoked({"01"}, suspended=False) == {holder(0): "01"}
    assert world.leaves.revoked({"02"}, suspended=True) == {}
