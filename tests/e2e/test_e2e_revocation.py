"""Revocation ends what is open, in both directions, and leaves bystanders alone."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest
from harness.meshes import KINDS, Fleet
from harness.world import MTLS, eventually, spiffe

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from harness.traffic import Probe
    from harness.world import World

# Drain time 1 s and the promise of 0.5 s beyond it; a busy machine gets as much again.
_GONE = 3.0
_BYSTANDING = 0.7


@pytest.fixture
async def fleet(world: World, other_users: None) -> AsyncIterator[Fleet]:
    """A running fleet."""
    made = await Fleet.start(world)
    yield made
    await made.close()


async def start(fleet: Fleet, client: str) -> dict[str, Probe]:
    """Start every kind of traffic from one client."""
    return {kind: await fleet.probe(client, kind) for kind in KINDS}


async def stop(probes: dict[str, Probe]) -> None:
    """Stop what still runs."""
    for probe in probes.values():
        await probe.stop()


async def undisturbed(probes: dict[str, Probe]) -> dict[str, str]:
    """Watch for a while and return what went wrong, by kind."""
    before = {kind: probe.sent for kind, probe in probes.items()}
    await asyncio.sleep(_BYSTANDING)
    return {
        kind: probe.why or f"{probe.failed} failed, {probe.sent - before[kind]} sent"
        for kind, probe in probes.items()
        if probe.ended or probe.failed or probe.sent == before[kind]
    }


async def test_a_suspended_client_loses_every_connection_and_bystanders_none(fleet: Fleet) -> None:
    revoked, bystanders = await start(fleet, "front"), await start(fleet, "bystander")

    began = time.monotonic()
    answer = await asyncio.to_thread(fleet.world.run, "revoke", "--node", "front", "--wait", "-o", "json")
    ended = {kind: await probe.end(_GONE) for kind, probe in revoked.items()}

    assert answer.json["suspended"]
    assert answer.json["revoked"]
    assert [kind for kind, at in ended.items() if at is None] == []
    assert max(at - began for at in ended.values() if at) < _GONE + 1.5  # the command line's own start included
    assert await undisturbed(bystanders) == {}
    await stop(bystanders)


async def test_a_suspended_server_loses_every_connection_and_other_servers_none(fleet: Fleet) -> None:
    probes = await start(fleet, "front")
    to_web = {kind: probe for kind, probe in probes.items() if KINDS[kind][0] == "web"}
    to_others = {kind: probe for kind, probe in probes.items() if kind not in to_web}

    await asyncio.to_thread(fleet.world.run, "revoke", "--node", "web", "--wait")
    ended = {kind: await probe.end(_GONE) for kind, probe in to_web.items()}

    assert [kind for kind, at in ended.items() if at is None] == []
    assert await undisturbed(to_others) == {}
    await stop(to_others)


async def test_a_revoked_serial_is_replaced_at_once_and_service_goes_on(fleet: Fleet) -> None:
    (old,) = fleet.world.run("certs", "--node", "front", "--state", "valid", "-o", "json").json
    bystanders = await start(fleet, "bystander")

    answer = await asyncio.to_thread(
        fleet.world.run, "revoke", old["serial"], "--reason", "keyCompromise", "--wait", "-o", "json"
    )

    assert answer.json["revoked"] == [old["serial"]]
    assert not answer.json["suspended"]
    valid = fleet.world.run("certs", "--node", "front", "--state", "valid", "-o", "json").json
    assert [row["serial"] for row in valid] != [old["serial"]]
    again = await start(fleet, "front")
    assert await undisturbed(again) == {}
    assert await undisturbed(bystanders) == {}
    await stop(again)
    await stop(bystanders)


async def test_a_resumed_node_is_served_again(fleet: Fleet) -> None:
    await asyncio.to_thread(fleet.world.run, "revoke", "--node", "front", "--wait")
    assert not fleet.world.run("certs", "--node", "front", "--state", "valid", "-o", "json").json

    fleet.world.run("resume", "front")

    eventually(lambda: fleet.world.run("certs", "--node", "front", "--state", "valid", "-o", "json").json)
    async with asyncio.timeout(20):
        while True:
            try:
                probe = await fleet.probe("front", "h1")
                break
            except AssertionError:
                await asyncio.sleep(0.1)
    assert await undisturbed({"h1": probe}) == {}
    await probe.stop()


async def test_a_narrowed_policy_ends_open_connections_and_a_widened_one_disturbs_none(fleet: Fleet) -> None:
    narrowed, bystanders = await start(fleet, "front"), await start(fleet, "bystander")

    applied = await asyncio.to_thread(fleet.world.apply, *fleet.objects(clients=("bystander",)))
    ended = {kind: await probe.end(_GONE) for kind, probe in narrowed.items()}

    assert [kind for kind, at in ended.items() if at is None] == []
    assert {row["client"] for row in applied.json["permissions"] if not row["allowed"]} == {spiffe("front")}
    assert await undisturbed(bystanders) == {}

    await asyncio.to_thread(fleet.world.apply, *fleet.objects())
    assert await undisturbed(bystanders) == {}
    again = await fleet.probe("front", "h1")
    await again.stop()
    await stop(bystanders)


async def test_the_server_says_who_called(fleet: Fleet) -> None:
    probe = await fleet.probe("front", "h1")
    await probe.stop()
    reader, writer = await asyncio.open_connection(*fleet.egress("front", "web"))
    from harness.traffic import exchange

    status, body = await exchange(reader, writer, "web.local")
    writer.close()

    assert status == 200
    assert spiffe("front").encode() in body
    assert MTLS["mode"] == "STRICT"


async def test_no_envoy_says_no(fleet: Fleet) -> None:
    rows = fleet.world.run("envoy", "list", "-o", "json").json

    assert {row["spiffe_id"] for row in rows} == {spiffe(name) for name in fleet.envoys}
    assert [row for row in rows if row["nack"]] == []
    eventually(
        lambda: all(
            row["version_sent"] == row["version_acked"] for row in fleet.world.run("envoy", "list", "-o", "json").json
        )
    )
