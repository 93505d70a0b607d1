from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2
from fakes.delivery_world import Hall, node_id, spiffe_id, virtual_node

from meshca.delivery.view import LiveView
from meshca.errors import ConflictError, InvalidInputError, RefusedError, UnavailableError
from meshca.xds.resource import CDS, LDS, SDS, Resource
from meshca.xds.source import NodeInfo

NOBODY = ["spiffe://m.test/meshca/nobody"]
FRONT, BACK = str(spiffe_id("front")), str(spiffe_id("back"))


def sans(resource: Resource) -> list[str]:
    context = secret_pb2.Secret.FromString(resource.body).validation_context
    return [matcher.matcher.exact for matcher in context.match_typed_subject_alt_names]


async def fetched(view: LiveView, *names: str) -> dict[str, Resource]:
    return dict((await view.fetch(SDS, frozenset(names), {})).resources)


def is_waiting(view: LiveView) -> bool:
    return not (view._changes._types or view._changes._all or view._changes._error)


async def test_policy_names_carry_exactly_who_is_admitted() -> None:
    hall = Hall(entitled=["front", "back"])
    front, back = await hall.open("front"), await hall.open("back")
    assert sans((await fetched(front, "servers:back.shop"))["servers:back.shop"]) == [BACK]
    found = await fetched(back, "clients", "clients:8080", f"client:{FRONT}", "ROOTCA")
    assert [sans(found[name]) for name in ("clients", "clients:8080", f"client:{FRONT}", "ROOTCA")] == [
        [FRONT],
        [FRONT],
        [FRONT],
        [],
    ]


@pytest.mark.parametrize(
    "name", ["clients", "clients:9", "servers:unknown.shop", f"client:{BACK}", "client:spiffe://other.test/x"]
)
async def test_a_policy_name_under_which_nobody_is_admitted_is_answered_with_nobody(name: str) -> None:
    view = await Hall(entitled=["front"]).open()
    assert sans((await fetched(view, name))[name]) == NOBODY


async def test_clients_of_a_node_with_several_listeners_is_nobody() -> None:
    hall = Hall(virtual_node("front", ports=(1, 2), sans=[BACK]), entitled=["front"])
    found = await fetched(await hall.open(), "clients", "clients:1")
    assert (sans(found["clients"]), sans(found["clients:1"])) == (NOBODY, [BACK])


@pytest.mark.parametrize("name", [BACK, "spiffe://other.test", "spiffe://M.test/x", "nothing", "clients:0", ""])
async def test_what_the_caller_may_not_have_is_refused_and_audited_once(name: str) -> None:
    hall = Hall(entitled=["front"])
    view = await hall.open()
    for _ in range(3):
        found = await view.fetch(SDS, frozenset({name, "ROOTCA"}), {})
        assert set(found.refused) == {name}
        assert set(found.resources) == {"ROOTCA"}
    assert [refusal[2] for refusal in hall.notes.refusals] == [name]


async def test_a_suspended_caller_s_dedicated_stream_ends() -> None:
    hall = Hall(entitled=["front"])
    view = await hall.open()
    hall.change(suspended=frozenset({spiffe_id("front")}))
    with pytest.raises(RefusedError):
        await view.next_change()
    with pytest.raises(RefusedError):
        await fetched(view, "ROOTCA")


async def test_on_ads_a_suspended_caller_gets_no_leaf_and_nobody() -> None:
    hall = Hall(entitled=["back"])
    view = await hall.open("back", dedicated=False)
    hall.change(suspended=frozenset({spiffe_id("back")}))
    assert await view.next_change() is None
    found = await view.fetch(SDS, frozenset({"default", BACK, "clients", "ROOTCA", "ALL"}), {})
    assert set(found.refused) == {"default", BACK}
    assert {name: sans(resource) for name, resource in found.resources.items()} == dict.fromkeys(
        ("clients", "ROOTCA", "ALL"), NOBODY
    )
    assert "default" not in (await view.fetch(SDS, None, {})).resources


async def test_who_is_suspended_leaves_the_contexts_and_listeners_of_its_peers_and_of_nobody_else() -> None:
    hall = Hall(entitled=["back", "alone"])
    back, alone = await hall.open("back", dedicated=False), await hall.open("alone", dedicated=False)
    before = dict((await back.fetch(LDS, None, {})).resources)
    scopes = {f"identity:{FRONT}": 1}
    hall.change(suspended=frozenset({spiffe_id("front")}), epochs=scopes)
    assert await back.next_change() is None
    assert sans((await fetched(back, "clients"))["clients"]) == NOBODY
    assert (await back.fetch(LDS, None, {})).resources != before
    assert is_waiting(alone)


async def test_a_trust_change_concerns_secrets_only_and_runs_no_generator() -> None:
    hall = Hall(entitled=["back"])
    view = await hall.open("back", dedicated=False)
    listeners = (await view.fetch(LDS, None, {})).resources
    before = await fetched(view, "clients")
    serial = (await hall.leaf(spiffe_id("front"), "h", "r")).serial
    hall.world.authority.revoke(serial, "keyCompromise", "us")
    hall.change(trust=hall.world.authority.publish_crls())
    assert await view.next_change() == frozenset({SDS})
    assert (await view.fetch(LDS, None, {})).resources is listeners
    assert (await fetched(view, "clients"))["clients"].version != before["clients"].version


async def test_who_holds_another_identity_by_its_name_acknowledges_trust_for_that_as_well() -> None:
    hall = Hall(entitled=["front", "back"])
    view = await hall.open("front")
    found = await fetched(view, "default", "ROOTCA")
    view.acknowledged(SDS, found)
    assert {identity for _, identity in hall.notes.in_force} == {spiffe_id("front")}
    view.acknowledged(SDS, await fetched(view, BACK))
    assert hall.notes.in_force.keys() == hall.notes.leaves.keys()
    assert set(hall.notes.in_force.values()) == {1}


async def test_trust_is_in_force_once_every_context_of_every_stream_of_the_envoy_has_it() -> None:
    hall = Hall(entitled=["back"])
    one, two = await hall.open("back"), await hall.open("back")
    first, second = await fetched(one, "clients", "ROOTCA"), await fetched(two, "clients:8080")
    one.acknowledged(SDS, {"clients": first["clients"]})
    assert hall.desk.census(1).acknowledged == 0
    one.acknowledged(SDS, {"ROOTCA": first["ROOTCA"]})
    assert hall.desk.census(1).acknowledged == 0
    two.acknowledged(SDS, second)
    assert (hall.desk.census(1).notified, hall.desk.census(1).acknowledged) == (1, 1)
    assert list(hall.notes.in_force.values()) == [1]
    assert hall.desk.census(2).acknowledged == 0


async def test_an_acknowledgement_of_older_trust_does_not_count_for_newer() -> None:
    hall = Hall(entitled=["back"])
    view = await hall.open("back")
    old = await fetched(view, "clients")
    serial = (await hall.leaf(spiffe_id("front"), "h", "r")).serial
    hall.world.authority.revoke(serial, "keyCompromise", "us")
    trust = hall.world.authority.publish_crls()
    hall.change(trust=trust)
    new = await fetched(view, "clients")
    view.acknowledged(SDS, old)
    assert hall.desk.census(trust.generation).acknowledged == 0
    waiting = asyncio.create_task(hall.desk.reached(trust.generation, 5))
    await asyncio.sleep(0)
    view.acknowledged(SDS, new)
    assert (await waiting).acknowledged == 1


async def test_envoys_whose_listeners_are_not_ours_are_not_drainable() -> None:
    hall = Hall(entitled=["front", "back"])
    ours, theirs = await hall.open("front", dedicated=False), await hall.open("back")
    for view in (ours, theirs):
        await fetched(view, "ROOTCA")
    await ours.fetch(CDS, None, {})
    assert hall.desk.census(1).not_drainable == 1
    theirs.close()
    assert (hall.desk.census(1).notified, hall.desk.census(1).not_drainable) == (1, 0)


async def test_what_an_envoy_would_choke_on_is_withheld_with_an_alarm() -> None:
    hall = Hall(entitled=["back"])
    view = await hall.open("back")
    hall.world.clock.move(timedelta(days=3651))
    assert await fetched(view, "clients", "ROOTCA") == {}
    assert hall.notes.withheld == ["ROOTCA", "clients"]


async def test_a_rejection_is_remembered_beyond_the_stream_and_words_can_be_changed() -> None:
    hall = Hall(entitled=["back"])
    view = await hall.open("back")
    found = await fetched(view, "clients", "default")
    view.rejected(SDS, found, "bad")
    view.close()
    again = await hall.open("back")
    found = await fetched(again, "clients", "default")
    assert again.nacked_content(SDS) >= {found["clients"].digest}
    for resource in found.values():
        other = again.reworded(resource, 1)
        assert (other.name, other.version) == (resource.name, resource.version)
        assert len({other.digest, resource.digest, again.reworded(resource, 2).digest}) == 3


async def test_what_cannot_be_generated_is_an_error_that_names_the_node_and_secrets_go_on() -> None:
    node = virtual_node("front")
    node["spec"]["listeners"].append({"portMapping": {"port": 1, "protocol": "http"}})
    hall = Hall(node, entitled=["front"])
    told = NodeInfo(node_id("front"), metadata={"meshca": {"ingress": "127.0.0.1:15000"}})
    view = await hall.desk.open("us", told, dedicated=False)
    with pytest.raises(ConflictError, match="virtualNode/front"):
        await view.fetch(LDS, None, {})
    assert set(await fetched(view, "default", "clients")) == {"default", "clients"}


async def test_a_placement_that_breaks_a_rule_is_refused() -> None:
    hall = Hall(entitled=["back"])
    node = NodeInfo(node_id("back"), metadata={"meshca": {"ingress": "host.name"}})
    view = await hall.desk.open("us", node, dedicated=False)
    with pytest.raises(InvalidInputError, match="ingress"):
        await view.fetch(LDS, None, {})


async def test_envoys_of_one_node_and_placement_share_what_was_generated() -> None:
    hall = Hall(entitled=["back"])
    one, two = await hall.open("back", dedicated=False), await hall.open("back", dedicated=False)
    assert (await one.fetch(LDS, None, {})).resources is (await two.fetch(LDS, None, {})).resources
    names = frozenset({"nothing"})
    assert (await one.fetch(LDS, names, {})).resources == {}


async def test_a_draining_desk_ends_streams_and_takes_no_more() -> None:
    hall = Hall(entitled=["front"])
    view = await hall.open()
    hall.desk.drain()
    with pytest.raises(UnavailableError):
        await view.next_change()
    with pytest.raises(UnavailableError):
        await hall.open()
