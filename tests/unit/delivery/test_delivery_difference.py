from __future__ import annotations

import json
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import pytest
from fakes.ca import TRUST_DOMAIN, World
from fakes.delivery_world import MESH, SHOP, entry, mesh_state, spiffe_id, virtual_node, virtual_service
from hypothesis import given, settings
from hypothesis import strategies as st

from meshca.delivery.difference import difference
from meshca.delivery.generated import Generated
from meshca.delivery.snapshot import Snapshot
from meshca.envoy.placement import Placement
from meshca.errors import MeshcaError
from meshca.mesh.model import VIRTUAL_NODE, ObjectKey
from meshca.mesh.source import parse_envelope

TRUST = World().authority.trust
FRONT, BACK, OTHER, ALONE = (str(spiffe_id(name)) for name in ("front", "back", "other", "alone"))


def snapshot(*objects: dict[str, Any], **fields: Any) -> Snapshot:
    return replace(Snapshot(TRUST_DOMAIN, mesh_state(*(objects or SHOP)), TRUST), **fields)


def concerned(old: Snapshot, new: Snapshot) -> set[str]:
    return {key.name for key in difference(old, new).nodes}


def test_nothing_changed_concerns_nobody() -> None:
    found = difference(snapshot(), snapshot())
    assert (found.nodes, found.trust, found.callers) == (frozenset(), False, False)


@pytest.mark.parametrize(
    ("scope", "names"),
    [
        pytest.param(f"identity:{FRONT}", {"front", "back"}, id="a-client-concerns-its-servers"),
        pytest.param(f"identity:{BACK}", {"front", "back"}, id="a-server-concerns-its-clients"),
        pytest.param(f"listener:{BACK}", {"back"}, id="a-listener-concerns-its-node"),
        pytest.param(f"backend:{FRONT}|back.shop", {"front"}, id="a-backend-concerns-its-client"),
        pytest.param(f"listener:{spiffe_id('ghost')}", set(), id="a-ghost-concerns-nobody"),
    ],
)
def test_a_raised_epoch_concerns_who_carries_it(scope: str, names: set[str]) -> None:
    assert concerned(snapshot(), snapshot(epochs=MappingProxyType({scope: 1}))) == names


def test_a_suspension_concerns_the_node_and_its_peers() -> None:
    found = difference(snapshot(), snapshot(suspended=frozenset({spiffe_id("front")})))
    assert {key.name for key in found.nodes} == {"front", "back"}
    assert found.suspended == {spiffe_id("front")}


def test_a_changed_node_concerns_itself_and_who_leads_to_it() -> None:
    changed = virtual_node("back", ports=(8080, 8081))
    assert concerned(snapshot(), snapshot(SHOP[0], changed, *SHOP[2:])) == {"front", "back"}


def test_a_new_client_concerns_its_server() -> None:
    assert concerned(snapshot(), snapshot(*SHOP, virtual_node("new", "back.shop"))) == {"new", "back"}


def test_a_service_that_moves_concerns_old_server_new_server_and_client() -> None:
    moved = virtual_service("back.shop", "alone")
    assert concerned(snapshot(), snapshot(*SHOP[:4], moved, SHOP[5])) == {"front", "back", "alone"}


def test_a_changed_mesh_concerns_all_of_it() -> None:
    mesh = {"kind": "mesh", "meshName": MESH, "spec": {"egressFilter": {"type": "ALLOW_ALL"}}}
    old = snapshot()
    new_set = old.mesh.mesh_set.with_applied([_parsed(mesh)])
    assert concerned(old, replace(old, mesh=replace(old.mesh, mesh_set=new_set))) == {"front", "back", "other", "alone"}


def test_registrations_and_identities_concern_callers() -> None:
    assert difference(snapshot(), snapshot(registrations=(entry("front", 1),))).callers
    assert difference(snapshot(), snapshot(*SHOP, virtual_node("new"))).callers


def _parsed(document: dict[str, Any]) -> Any:
    return parse_envelope(json.dumps(document))


_NAMES = ("a", "b", "c", "d")


@st.composite
def _meshes(draw: st.DrawFn) -> list[dict[str, Any]]:
    objects = []
    for name in _NAMES:
        backends = draw(st.lists(st.sampled_from(_NAMES), unique=True, max_size=2))
        ports = draw(st.lists(st.sampled_from([80, 81]), unique=True, min_size=1))
        sans = draw(st.lists(st.sampled_from([str(spiffe_id(other)) for other in _NAMES]), unique=True, max_size=2))
        objects.append(virtual_node(name, *(f"{backend}.shop" for backend in backends), ports=ports, sans=sans))
        objects.append(virtual_service(f"{name}.shop", draw(st.sampled_from(_NAMES))))
    return objects


@settings(max_examples=60, deadline=None)
@given(_meshes(), _meshes(), st.sets(st.sampled_from(_NAMES)), st.sets(st.sampled_from(_NAMES)))
def test_whoever_is_not_concerned_would_be_sent_the_same(
    before: list[dict[str, Any]], after: list[dict[str, Any]], suspended: set[str], drained: set[str]
) -> None:
    old = snapshot(*before)
    epochs = MappingProxyType({f"identity:{spiffe_id(name)}": 1 for name in drained})
    new = snapshot(*after, suspended=frozenset(map(spiffe_id, suspended)), epochs=epochs)
    nodes = difference(old, new).nodes
    for name in _NAMES:
        key = ObjectKey(MESH, VIRTUAL_NODE, "", name)
        if key not in nodes:
            assert _sent(key, old) == _sent(key, new)


def _sent(key: ObjectKey, state: Snapshot) -> object:
    mesh_set, policy = state.mesh.mesh_set, state.mesh.policy
    services = [service.name for service in mesh_set.services_of(mesh_set.caller(key))]
    admitted = [policy.admitted_servers(key, service) - state.suspended for service in services]
    clients = [policy.admitted_clients(key, port) - state.suspended for port in (80, 81)]
    try:
        return Generated().get(key, Placement(), state), admitted, clients
    except MeshcaError as error:
        return str(error), admitted, clients
