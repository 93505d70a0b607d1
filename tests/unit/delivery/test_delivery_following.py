"""How a revision that changes no secret is followed: without a look at the secrets."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from fakes.ca import TRUST_DOMAIN
from fakes.delivery_world import MESH, SHOP, Hall, spiffe_id, virtual_node, virtual_service

from meshca.delivery.naming import resolve, same_meanings
from meshca.delivery.progress import ACKNOWLEDGED
from meshca.delivery.snapshot import Snapshot
from meshca.delivery.view import LiveView
from meshca.mesh.identity import identities
from meshca.mesh.links import changed_keys
from meshca.mesh.source import parse_envelope
from meshca.xds.resource import ADS_TYPES, CDS, LDS, RDS, SDS

ROUTER = {"listeners": [{"portMapping": {"port": 8080, "protocol": "http"}}]}
NAMES = ("servers:back.shop", "servers:alone.shop", "clients", "clients:8080", f"client:{spiffe_id('front')}", "ROOTCA")


def routed(prefix: str = "/", node: str = "back") -> tuple[dict[str, Any], ...]:
    """Return the shop with a router before back.shop, and what its only route matches."""
    provider = {"provider": {"virtualRouter": {"virtualRouterName": "r"}}}
    action = {"weightedTargets": [{"virtualNode": node, "weight": 1}]}
    return (
        *(item for item in SHOP if item.get("virtualServiceName") != "back.shop"),
        {"kind": "virtualService", "meshName": MESH, "virtualServiceName": "back.shop", "spec": provider},
        {"kind": "virtualRouter", "meshName": MESH, "virtualRouterName": "r", "spec": ROUTER},
        {
            "kind": "route",
            "meshName": MESH,
            "virtualRouterName": "r",
            "routeName": "all",
            "spec": {"httpRoute": {"match": {"prefix": prefix}, "action": action}},
        },
    )


def after(old: Snapshot, *objects: dict[str, Any]) -> Snapshot:
    """Return the snapshot of the next revision, made from the old one as the server makes it."""
    mesh_set = old.mesh.mesh_set.with_applied([parse_envelope(json.dumps(item)) for item in objects])
    found = identities(mesh_set, TRUST_DOMAIN)
    known = old.mesh.identities if found.ids == old.mesh.identities.ids else found
    policy = old.mesh.policy.after(mesh_set, known, changed_keys(old.mesh.mesh_set.objects, mesh_set.objects))
    return replace(
        old, mesh=replace(old.mesh, revision=old.mesh.revision + 1, mesh_set=mesh_set, identities=known, policy=policy)
    )


async def served(hall: Hall) -> LiveView:
    """Return the view of an Envoy that has all it asked for."""
    view = await hall.open("front")
    for type_url in (CDS, LDS, RDS):
        view.acknowledged(type_url, (await view.fetch(type_url, None, {})).resources)
    view.acknowledged(SDS, (await view.fetch(SDS, frozenset(NAMES), {})).resources)
    return view


async def test_a_changed_route_is_followed_without_the_secrets() -> None:
    hall = Hall(*routed(), entitled=["front"])
    view = await served(hall)
    hall.desk.replace(after(hall.desk.snapshot, *routed("/new")))
    assert await view.next_change() == ADS_TYPES - {SDS}
    for type_url in (CDS, LDS, RDS):
        view.acknowledged(type_url, (await view.fetch(type_url, None, {})).resources)
    assert view.progress.state_at(2) == ACKNOWLEDGED


async def test_a_route_to_another_server_is_not() -> None:
    hall = Hall(*routed(), entitled=["front"])
    view = await served(hall)
    hall.desk.replace(after(hall.desk.snapshot, *routed(node="alone")))
    assert await view.next_change() is None


async def test_a_changed_route_on_top_of_another_server_is_not() -> None:
    hall = Hall(*routed(), entitled=["front"])
    view = await served(hall)
    hall.desk.replace(after(hall.desk.snapshot, *routed(node="alone")))
    hall.desk.replace(after(hall.desk.snapshot, *routed("/new", node="alone")))
    assert await view.next_change() is None
    await view.fetch(SDS, frozenset(NAMES), {})
    for type_url in (CDS, LDS, RDS):
        view.acknowledged(type_url, (await view.fetch(type_url, None, {})).resources)
    # The context of the other server, from the first of the two, has not been acknowledged.
    assert view.progress.state_at(3) != ACKNOWLEDGED


@pytest.mark.parametrize(
    "objects",
    [
        routed("/new"),
        routed(node="alone"),
        (virtual_node("front"),),
        (virtual_node("front", "back.shop", "alone.shop"),),
        (virtual_node("back", sans=[str(spiffe_id("alone"))]),),
        (virtual_node("front", "back.shop", ports=(8080, 9090)),),
        (virtual_node("more", "back.shop"),),
        (virtual_service("alone.shop", "back"),),
    ],
)
async def test_same_meanings_are_never_claimed_where_a_name_means_something_else(
    objects: tuple[dict[str, Any], ...],
) -> None:
    hall = Hall(*routed(), entitled=["front", "back", "other", "alone"])
    old = hall.desk.snapshot
    for new in (after(old, *objects), replace(after(old, *objects), suspended=frozenset({spiffe_id("back")}))):
        for node in ("front", "back", "other", "alone"):
            caller = (await hall.open(node)).caller
            if same_meanings(caller, old, new):
                assert [resolve(name, caller, old) for name in NAMES] == [resolve(name, caller, new) for name in NAMES]


async def test_same_meanings_are_seen_after_a_changed_route() -> None:
    hall = Hall(*routed(), entitled=["front"])
    caller = (await hall.open("front")).caller
    assert same_meanings(caller, hall.desk.snapshot, after(hall.desk.snapshot, *routed("/new")))
