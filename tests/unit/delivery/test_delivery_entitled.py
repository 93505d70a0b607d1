"""Who is calling, and what that entitles to, from the first request to the end of the stream."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from fakes.delivery_world import MESH, SHOP, Hall, entry, mesh_state, node_id, spiffe_id

from meshca.attest.process import AttestationError
from meshca.delivery.callers import NotEntitledError, Undecided
from meshca.delivery.view import LiveView
from meshca.errors import UnauthenticatedError
from meshca.xds.resource import LDS, SDS, Resource
from meshca.xds.source import NodeInfo

FRONT, BACK = str(spiffe_id("front")), str(spiffe_id("back"))


async def fetched(view: LiveView, *names: str) -> dict[str, Resource]:
    return dict((await view.fetch(SDS, frozenset(names), {})).resources)


async def test_a_caller_of_two_that_selects_none_gets_what_it_names_and_no_more() -> None:
    hall = Hall(entitled=["front", "back"])
    view = await hall.desk.open("us", NodeInfo("some envoy"), dedicated=True)
    found = await view.fetch(SDS, frozenset({"default", "clients", FRONT, "ROOTCA"}), {})
    assert set(found.resources) == {FRONT, "ROOTCA"}
    assert set(found.refused) == {"default", "clients"}
    assert FRONT in found.refused["default"]
    assert BACK in found.refused["default"]
    with pytest.raises(Undecided):
        await view.fetch(LDS, None, {})


@pytest.mark.parametrize(
    "node", [node_id("back"), node_id("back") + "/1", f"mesh/{MESH}@123456789012/virtualNode/back", node_id("ghost")]
)
async def test_claiming_another_node_is_refused_and_audited(node: str) -> None:
    hall = Hall(entitled=["front"])
    with pytest.raises(NotEntitledError):
        await hall.desk.open("us", NodeInfo(node), dedicated=True)
    assert [refusal[2] for refusal in hall.notes.refusals] == [node]


async def test_a_node_id_of_another_form_selects_nothing_and_the_only_identity_is_taken() -> None:
    hall = Hall(entitled=["front"])
    for node in ("envoy-7", "", "mesh/shop/virtualRouter/back", "x" * 3000):
        view = await hall.desk.open("us", NodeInfo(node), dedicated=True)
        assert view.spiffe_id == FRONT


async def test_a_stranger_to_the_gate_is_nobody() -> None:
    with pytest.raises(UnauthenticatedError):
        await Hall(entitled=["front"]).desk.open("unix-abstract:forged", NodeInfo(node_id("front")), dedicated=True)


async def test_an_entry_for_a_node_that_is_in_no_mesh_entitles_to_nothing() -> None:
    with pytest.raises(NotEntitledError):
        await Hall(entitled=["ghost"]).desk.open("us", NodeInfo("x"), dedicated=True)


async def test_no_key_is_released_to_a_process_that_is_no_longer_the_same() -> None:
    hall = Hall(entitled=["front"])
    hall.callers["us"] = replace(hall.callers["us"], start_time=1)
    view = await hall.open()
    assert set(await fetched(view, "ROOTCA")) == {"ROOTCA"}
    with pytest.raises(AttestationError):
        await fetched(view, "default")


async def test_unregistering_ends_the_stream_and_narrowing_to_one_selects_it() -> None:
    hall = Hall(entitled=["front", "back"])
    named, unnamed = await hall.open("front"), await hall.desk.open("us", NodeInfo("x"), dedicated=True)
    hall.change(registrations=(entry("back", hall.callers["us"].uid),))
    with pytest.raises(NotEntitledError):
        await named.next_change()
    assert await unnamed.next_change() is None
    assert unnamed.spiffe_id == BACK


@pytest.mark.parametrize("dedicated", [True, False])
async def test_who_is_unregistered_gets_nothing_more_not_even_what_is_under_way(dedicated: bool) -> None:
    hall = Hall(entitled=["front"])
    view = await hall.open(dedicated=dedicated)
    fetching = asyncio.create_task(fetched(view, "default"))
    await asyncio.sleep(0)
    hall.change(registrations=())
    with pytest.raises(NotEntitledError):
        await fetching
    with pytest.raises(NotEntitledError):
        await fetched(view, FRONT)
    with pytest.raises(NotEntitledError):
        await view.fetch(LDS, None, {})


async def test_a_node_that_leaves_the_mesh_loses_its_stream() -> None:
    hall = Hall(entitled=["other"])
    view = await hall.open("other")
    hall.change(mesh=mesh_state(*SHOP[:2], SHOP[4], revision=2))
    with pytest.raises(NotEntitledError):
        await view.next_change()
