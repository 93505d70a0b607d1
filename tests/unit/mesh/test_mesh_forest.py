from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from unit.mesh.mesh_objects import (
    MESH,
    gateway,
    gateway_route,
    key,
    listener,
    made,
    mesh_set,
    node,
    route,
    router,
    service,
    target,
)

from meshca.errors import NotFoundError
from meshca.mesh.findings import SpecError
from meshca.mesh.forest import MeshSet
from meshca.mesh.model import MESH as MESH_KIND
from meshca.mesh.model import ROUTE, VIRTUAL_GATEWAY, VIRTUAL_ROUTER, VIRTUAL_SERVICE, MeshObject, ObjectKey

SHOP = (
    node("web", "pay.local"),
    node("pay"),
    node("pay2", listeners=(listener(80), listener(81))),
    router("pay-router"),
    route("pay-router", "old", target("pay")),
    service("pay.local", router="pay-router"),
    gateway(),
    gateway_route("all", "pay.local"),
)


def whole() -> MeshSet:
    return mesh_set(*SHOP)


def other(item: MeshObject) -> MeshObject:
    """Return the same object in another mesh."""
    return replace(item, mesh="other")


def test_keys_read_like_resource_names() -> None:
    assert sorted(map(str, whole().objects)) == [
        "mesh/shop",
        "mesh/shop/virtualGateway/door",
        "mesh/shop/virtualGateway/door/gatewayRoute/all",
        "mesh/shop/virtualNode/pay",
        "mesh/shop/virtualNode/pay2",
        "mesh/shop/virtualNode/web",
        "mesh/shop/virtualRouter/pay-router",
        "mesh/shop/virtualRouter/pay-router/route/old",
        "mesh/shop/virtualService/pay.local",
    ]


def test_an_empty_set_is_whole() -> None:
    empty = MeshSet()
    assert (dict(empty.objects), empty.callers(), empty.findings) == ({}, (), ())


def test_an_object_exists_once() -> None:
    with pytest.raises(SpecError, match="mesh/shop/virtualNode/a: an object is described once; remove one"):
        mesh_set(node("a"), node("a"))
    with pytest.raises(SpecError, match="described once"):
        whole().with_applied([node("a"), node("a")])


def test_objects_of_another_kind_or_parent_may_share_a_name() -> None:
    extra = (router("b"), route("b", "old", target("pay")), service("pay"), gateway("pay"))
    assert len(whole().with_applied(extra).objects) == len(whole().objects) + 4


# -- change


def test_a_change_makes_a_new_set_and_leaves_the_old_one() -> None:
    before = whole()
    changed = node("pay", listeners=(listener(90),))
    after = before.with_applied([changed, node("new")])
    assert after.node(MESH, "pay") is changed
    assert {name.name for name in after.objects.keys() - before.objects.keys()} == {"new"}
    assert before.node(MESH, "pay") == SHOP[1]
    with pytest.raises(TypeError):
        before.objects[key("x")] = changed  # type: ignore[index]


def test_a_change_that_would_break_a_reference_is_refused_with_all_that_is_wrong() -> None:
    before = whole()
    with pytest.raises(SpecError) as caught:
        before.with_applied([node("x", "gone.local"), service("y", node="gone")])
    assert [finding.value for finding in caught.value.findings] == ["gone.local", "gone"]
    assert before.find(key("x")) is None


def test_pruned_a_mesh_holds_what_is_applied_and_no_other_mesh_is_touched() -> None:
    before = whole().with_applied([other(made("mesh", "other")), other(node("a"))])
    after = before.with_applied([made("mesh", MESH), node("only")], prune=True)
    assert {str(name) for name in after.objects} == {
        "mesh/shop", "mesh/shop/virtualNode/only", "mesh/other", "mesh/other/virtualNode/a",
    }  # fmt: skip


def test_pruning_cannot_leave_a_dangling_reference() -> None:
    with pytest.raises(SpecError, match=r"pay\.local does not exist"):
        whole().with_applied([made("mesh", MESH), node("web", "pay.local")], prune=True)


def test_what_nothing_leads_to_can_go() -> None:
    assert whole().without(key("pay2")).find(key("pay2")) is None


@pytest.mark.parametrize(
    "gone",
    [
        key("pay"),
        key("pay-router", VIRTUAL_ROUTER),
        key("pay.local", VIRTUAL_SERVICE),
        key("door", VIRTUAL_GATEWAY),
        ObjectKey(MESH, MESH_KIND, "", MESH),
    ],
)
def test_what_something_leads_to_stays(gone: ObjectKey) -> None:
    with pytest.raises(SpecError, match=f"{gone} does not exist"):
        whole().without(gone)


# -- look up


@pytest.mark.parametrize(
    "look",
    [
        lambda found: found.get(key("x")),
        lambda found: found.without(key("x")),
        lambda found: found.caller(key("x")),
        lambda found: found.caller(key("pay.local", VIRTUAL_SERVICE)),
        lambda found: found.mesh("x"),
        lambda found: found.node(MESH, "x"),
        lambda found: found.node("x", "web"),
        lambda found: found.service(MESH, "x"),
        lambda found: found.router(MESH, "x"),
        lambda found: found.gateway(MESH, "web"),
    ],
)
def test_what_is_not_there_is_named(look: Callable[[MeshSet], Any]) -> None:
    with pytest.raises(NotFoundError) as caught:
        look(whole())
    assert caught.value.value.startswith("mesh/")
    assert caught.value.field


def test_each_kind_is_listed_in_the_order_of_keys() -> None:
    found = whole()
    assert [item.name for item in found.nodes()] == ["pay", "pay2", "web"]
    assert [item.name for item in found.callers()] == ["pay", "pay2", "web", "door"]
    assert [item.name for item in found.services()] == ["pay.local"]
    assert [item.name for item in found.meshes()] == [MESH]
    assert found.mesh(MESH).key == ObjectKey(MESH, MESH_KIND, "", MESH)
    assert found.gateway(MESH, "door") is found.caller(key("door", VIRTUAL_GATEWAY))


# -- what leads where


def test_routes_come_by_priority_and_those_without_one_last() -> None:
    found = mesh_set(
        node("n"), router("r"), service("s", node="n"), gateway(),
        route("r", "b", target("n")), route("r", "a", target("n")),
        route("r", "lowest", target("n"), priority=1000), route("r", "first", target("n"), priority=0),
        gateway_route("z", "s", priority=5), gateway_route("y", "s"), gateway_route("x", "s", priority=5),
    )  # fmt: skip
    assert [item.name for item in found.routes_of(found.router(MESH, "r"))] == ["first", "lowest", "a", "b"]
    assert [item.name for item in found.gateway_routes_of(found.gateway(MESH, "door"))] == ["x", "z", "y"]


def test_a_router_has_its_own_routes_alone() -> None:
    found = whole().with_applied([router("b"), route("b", "only", target("pay2", port=80))])
    assert [item.name for item in found.routes_of(found.router(MESH, "b"))] == ["only"]
    assert [item.key for item in found.routes_of(found.router(MESH, "pay-router"))] == [key("old", ROUTE, "pay-router")]


def test_services_of_a_caller_come_once_and_by_name() -> None:
    found = mesh_set(
        node("web", "s2", "s1"), node("n"), service("s1", node="n"), service("s2", node="n"), service("s3"), gateway(),
        gateway_route("a", "s3"), gateway_route("b", "s1"), gateway_route("c", "s3"),
    )  # fmt: skip
    assert [item.name for item in found.services_of(found.node(MESH, "web"))] == ["s1", "s2"]
    assert [item.name for item in found.services_of(found.gateway(MESH, "door"))] == ["s1", "s3"]
    assert found.services_of(found.node(MESH, "n")) == ()


def test_a_service_leads_to_its_node_on_any_port() -> None:
    found = mesh_set(node("n", listeners=(listener(80), listener(81))), service("s", node="n"))
    (leads_to,) = found.targets(found.service(MESH, "s"))
    assert (leads_to.node.name, leads_to.port, leads_to.ports, leads_to.route) == ("n", None, (80, 81), None)
    assert found.router_of(found.service(MESH, "s")) is None


def test_a_service_leads_to_the_targets_of_all_routes_of_its_router_whatever_their_weight() -> None:
    found = mesh_set(
        node("a"), node("b", listeners=(listener(80), listener(81))), node("c", listeners=()), router("r"),
        service("s", router="r"),
        route("r", "2", target("a", weight=0)), route("r", "1", target("b", port=81), target("c")),
    )  # fmt: skip
    leads_to = found.targets(found.service(MESH, "s"))
    assert [(each.node.name, each.weight, each.ports, each.route and each.route.name) for each in leads_to] == [
        ("b", 1, (81,), "1"),
        ("c", 1, (), "1"),
        ("a", 0, (80,), "2"),
    ]


def test_a_service_without_a_provider_leads_nowhere() -> None:
    found = mesh_set(service("s"))
    assert found.targets(found.service(MESH, "s")) == ()
