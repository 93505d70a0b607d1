"""The desk of the Workload API: who has acknowledged what, and what a call is not given."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from functools import partial

import pytest
from fakes.delivery_world import Hall, entry, spiffe_id

from meshca.attest.process import AttestationError, Process
from meshca.authority.freezing import FrozenError
from meshca.authority.jwt_trust import JwtTrust
from meshca.authority.records import Freeze
from meshca.delivery.callers import NotEntitledError
from meshca.delivery.leaves import Holder
from meshca.delivery.ports import Leaf
from meshca.delivery.workload_call import NODE_ID, Workload
from meshca.errors import UnauthenticatedError, UnavailableError
from meshca.spiffe.id import SpiffeId

FRONT, BACK = spiffe_id("front"), spiffe_id("back")


async def _open(hall: Hall) -> Workload:
    return await hall.desk.workloads.open("us")


def _holder(hall: Hall, identity: SpiffeId = FRONT) -> tuple[str, SpiffeId]:
    return Holder(hall.process(), NODE_ID, identity).name, identity


async def _give(workload: Workload) -> None:
    workload.delivered(await workload.x509())


async def test_a_delivery_acknowledges_leaf_and_trust() -> None:
    hall = Hall(entitled=["front", "back"])
    workload = await _open(hall)
    material = await workload.x509()
    assert not hall.notes.in_force
    workload.delivered(material)
    generation = hall.desk.snapshot.trust.generation
    assert hall.notes.in_force == {_holder(hall, one): generation for one in (FRONT, BACK)}
    assert hall.notes.leaves.keys() == hall.notes.in_force.keys()


async def test_a_process_has_what_all_of_its_streams_were_given() -> None:
    hall = Hall(entitled=["front"])
    ahead, behind = await _open(hall), await _open(hall)
    for workload in (ahead, behind):
        await _give(workload)
    before = hall.desk.snapshot.trust
    hall.change(trust=replace(before, generation=before.generation + 1, bundle_pem=before.bundle_pem * 2))
    await _give(ahead)
    assert hall.notes.in_force[_holder(hall)] == before.generation
    behind.close()  # nothing is waited for of a stream that has ended
    assert hall.notes.in_force[_holder(hall)] == before.generation + 1


async def test_a_stream_of_bundles_holds_no_leaf_and_acknowledges_nothing() -> None:
    hall = Hall(entitled=["front"])
    with_leaf, bundles_only = await _open(hall), await _open(hall)
    await _give(with_leaf)
    assert await bundles_only.require_identities() == (FRONT,)
    assert hall.notes.in_force[_holder(hall)] == hall.desk.snapshot.trust.generation
    assert hall.desk.workloads.reached(1) == (1, 1)


async def test_the_holder_of_a_leaked_key_is_waited_for() -> None:
    hall = Hall(entitled=["front"])
    workload = await _open(hall)
    old = await workload.x509()
    workload.delivered(old)
    hall.desk.revoked({old.leaves[0].serial}, suspended=False)
    waiting = asyncio.create_task(hall.desk.replaced(5))
    await workload.next_change()
    new = await workload.x509()
    assert not waiting.done()
    workload.delivered(new)
    assert await waiting
    assert new.leaves[0].serial != old.leaves[0].serial


async def test_only_what_may_concern_a_call_wakes_it() -> None:
    hall = Hall(entitled=["front"])
    workload = await _open(hall)
    hall.change(trust=replace(hall.desk.snapshot.trust, generation=99))  # an activation: the same roots and CRLs
    waiting = asyncio.create_task(workload.next_change())
    await asyncio.sleep(0)
    assert not waiting.done()
    hall.change(registrations=(entry("front", os.geteuid()), entry("back", os.geteuid())))
    await waiting
    assert await workload.require_identities() == (BACK, FRONT)


async def test_what_is_suspended_while_its_leaf_is_made_is_not_given_out() -> None:
    hall = Hall(entitled=["front", "back"])
    make = hall.leaf

    async def suspending(identity: SpiffeId, holder: str, requested_by: str) -> Leaf:
        made = await make(identity, holder, requested_by)
        if identity == FRONT:
            hall.change(suspended=frozenset({FRONT}))
        return made

    hall.desk.leaves._issuing.leaf = suspending  # type: ignore[method-assign, assignment]
    material = await (await _open(hall)).x509()
    assert [leaf.spiffe_id for leaf in material.leaves] == [BACK]


async def test_a_leaf_that_cannot_be_made_does_not_look_withdrawn() -> None:
    hall = Hall(entitled=["front", "back"])
    make = hall.leaf

    async def half(identity: SpiffeId, holder: str, requested_by: str) -> Leaf:
        if identity == FRONT:
            raise UnavailableError("the key store does not answer")
        return await make(identity, holder, requested_by)

    hall.desk.leaves._issuing.leaf = half  # type: ignore[method-assign, assignment]
    with pytest.raises(UnavailableError, match="key store"):
        await (await _open(hall)).x509()


async def test_frozen_issuance_is_no_refusal() -> None:
    hall = Hall(entitled=["front"])
    frozen = Freeze(hall.world.clock.now(), "us", "")

    async def refusing(*_: object) -> Leaf:
        raise FrozenError(frozen)

    hall.desk.leaves._issuing.leaf = refusing  # type: ignore[method-assign, assignment]
    with pytest.raises(UnavailableError, match="frozen since"):
        await (await _open(hall)).x509()


async def test_a_key_is_not_released_to_a_process_that_is_another_by_now() -> None:
    hall = Hall(entitled=["front"])
    hall.callers["us"] = replace(hall.process(), start_time=1)
    with pytest.raises(AttestationError):
        await (await _open(hall)).x509()


async def test_strangers_and_the_unregistered_are_refused_and_the_latter_audited() -> None:
    hall = Hall(entitled=["front"])
    with pytest.raises(UnauthenticatedError):
        await hall.desk.workloads.open("nobody")
    hall.change(registrations=())
    with pytest.raises(NotEntitledError):
        await _open(hall)
    assert [action for _, action, _ in hall.notes.refusals] == ["attest"]


async def test_a_server_that_goes_down_ends_calls_and_takes_no_more() -> None:
    hall = Hall(entitled=["front"])
    workload = await _open(hall)
    hall.desk.drain()
    with pytest.raises(UnavailableError):
        await workload.next_change()
    with pytest.raises(UnavailableError):
        await _open(hall)


async def test_a_closed_call_leaves_nothing_behind() -> None:
    hall = Hall(entitled=["front"])
    workload = await _open(hall)
    await _give(workload)
    workload.close()
    assert hall.desk.workloads.reached(1) == (0, 0)
    assert not hall.desk.workloads._open
    assert all(not slot.told for slot in hall.desk.leaves._slots.values())


# ---- JWT-SVIDs


class Tokens:
    """Makes tokens that say who asked for what."""

    def __init__(self, made: Callable[[SpiffeId], None] = lambda _: None) -> None:
        self._made = made

    async def token(self, identity: SpiffeId, audience: tuple[str, ...], requested_by: str) -> str:
        self._made(identity)
        return f"{identity.path} {' '.join(audience)} {requested_by}"

    async def ready(self) -> None:
        return None


def _with_tokens(hall: Hall, made: Callable[[SpiffeId], None] = lambda _: None) -> Hall:
    desk = hall.desk.workloads
    desk.services = replace(desk.services, tokens=Tokens(made))
    return hall


def _jwt(hall: Hall, generation: int) -> None:
    hall.change(jwt=JwtTrust(generation))


async def test_a_caller_gets_a_token_for_each_identity_or_the_one_it_names() -> None:
    hall = _with_tokens(Hall(entitled=["front", "back"]))
    workload = await _open(hall)
    assert [one for one, _ in await workload.tokens("", ("db",))] == [BACK, FRONT]
    ((identity, text),) = await workload.tokens(str(FRONT), ("db",))
    assert (identity, text) == (FRONT, f"{FRONT.path} db uid:{os.geteuid()}")
    with pytest.raises(NotEntitledError):
        await workload.tokens(str(spiffe_id("alone")), ("db",))
    assert hall.notes.refusals[-1][1:] == ("deliver", str(spiffe_id("alone")))


async def test_a_token_made_for_whom_was_suspended_meanwhile_is_not_given_out() -> None:
    hall = Hall(entitled=["front", "back"])
    _with_tokens(hall, lambda identity: hall.change(suspended=frozenset({FRONT})) if identity == FRONT else None)
    assert [one for one, _ in await (await _open(hall)).tokens("", ("db",))] == [BACK]
    hall.change(suspended=frozenset())
    with pytest.raises(NotEntitledError):
        await (await _open(hall)).tokens(str(FRONT), ("db",))


async def test_a_token_is_not_released_to_a_process_that_is_another_by_now() -> None:
    hall = _with_tokens(Hall(entitled=["front"]))
    hall.callers["us"] = replace(hall.process(), start_time=1)
    with pytest.raises(AttestationError):
        await (await _open(hall)).tokens("", ("db",))


async def test_a_process_follows_the_bundle_as_far_as_its_slowest_stream() -> None:
    hall = _with_tokens(Hall(entitled=["front"]))
    _jwt(hall, 1)
    ahead, behind = await _open(hall), await _open(hall)
    for workload in (ahead, behind):
        workload.delivered_bundles(await workload.bundles())
    _jwt(hall, 2)
    await asyncio.gather(ahead.next_change(), behind.next_change())
    ahead.delivered_bundles(await ahead.bundles())
    assert [generation for generation, _ in hall.notes.jwt.values()] == [1]
    behind.delivered_bundles(await behind.bundles())
    assert [generation for generation, _ in hall.notes.jwt.values()] == [2]


async def test_who_follows_counts_for_an_hour_and_is_told_of_again_before_it_ends() -> None:
    hall = _with_tokens(Hall(entitled=["front"]))
    _jwt(hall, 1)
    workload = await _open(hall)
    workload.delivered_bundles(await workload.bundles())
    ((_, until),) = hall.notes.jwt.values()
    assert until == hall.world.clock.now() + timedelta(hours=1)
    hall.world.clock.move(timedelta(minutes=29))
    hall.desk.workloads.tick()
    assert [end for _, end in hall.notes.jwt.values()] == [until]
    hall.world.clock.move(timedelta(minutes=2))
    hall.desk.workloads.tick()
    assert [end for _, end in hall.notes.jwt.values()] == [hall.world.clock.now() + timedelta(hours=1)]


async def test_who_follows_no_more_has_the_time_to_fetch_again_and_who_has_ended_has_none() -> None:
    hall = _with_tokens(Hall(entitled=["front"]))
    _jwt(hall, 1)
    for process, left in ((hall.process(), timedelta(minutes=5)), (replace(hall.process(), start_time=1), timedelta())):
        hall.callers["us"] = process
        workload = await _open(hall)
        workload.delivered_bundles(await workload.bundles())
        hall.notes.jwt.clear()
        workload.close()
        assert [end - hall.world.clock.now() for _, end in hall.notes.jwt.values()] == [left]


async def test_what_moves_while_a_process_is_looked_at_is_not_overlooked() -> None:
    hall = Hall(entitled=["front"])
    loop, looked = asyncio.get_running_loop(), 0
    state = hall.desk.workloads.state

    def slowly(process: Process) -> frozenset[SpiffeId]:
        nonlocal looked
        looked += 1
        if looked == 1:  # the registration goes while files are read, in another thread
            change = partial(hall.change, registrations=(entry("back", os.geteuid()),))
            asyncio.run_coroutine_threadsafe(_called(change), loop).result(10)
            return frozenset({FRONT})
        return state.identities(process)

    hall.desk.workloads.state = replace(state, identities=slowly)
    assert await (await _open(hall)).require_identities() == (BACK,)


async def _called(change: Callable[[], None]) -> None:
    change()
