from __future__ import annotations

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

from meshca.mesh.findings import Finding, SpecError
from meshca.mesh.forest import MeshSet
from meshca.mesh.model import ROUTE, MeshObject

TWO = (listener(80), listener(81))


def broken(*objects: MeshObject) -> Finding:
    with pytest.raises(SpecError) as caught:
        mesh_set(*objects)
    (error,) = [finding for finding in caught.value.findings if finding.severity == "error"]
    return error


def warned(*objects: MeshObject) -> list[tuple[str, str]]:
    findings = mesh_set(*objects).findings
    assert all(finding.severity == "warning" for finding in findings)
    return [(finding.field, finding.rule) for finding in findings]


@pytest.mark.parametrize(
    ("item", "field", "missing"),
    [
        pytest.param(node("a", "s", "gone"), "spec.backends[1].virtualService.virtualServiceName",
                     "virtualService/gone", id="backend"),
        pytest.param(service("x", router="gone"), "spec.provider.virtualRouter.virtualRouterName",
                     "virtualRouter/gone", id="router"),
        pytest.param(service("x", node="gone"), "spec.provider.virtualNode.virtualNodeName", "virtualNode/gone",
                     id="node"),
        pytest.param(route("r", "x", target("n"), target("gone")),
                     "spec.httpRoute.action.weightedTargets[1].virtualNode", "virtualNode/gone", id="target"),
        pytest.param(route("gone", "x", target("n")), "virtualRouterName", "virtualRouter/gone", id="parent"),
        pytest.param(gateway_route("x", "s", parent="gone"), "virtualGatewayName", "virtualGateway/gone", id="gateway"),
        pytest.param(gateway_route("x", "gone"), "spec.httpRoute.action.target.virtualService.virtualServiceName",
                     "virtualService/gone", id="gateway-target"),
    ],
)  # fmt: skip
def test_what_is_named_exists(item: MeshObject, field: str, missing: str) -> None:
    error = broken(node("n"), router("r"), service("s", node="n"), gateway(), item)
    assert (error.object, error.field, error.value) == (str(item.key), field, "gone")
    assert error.rule == f"mesh/{MESH}/{missing} does not exist"
    assert error.remedy == "apply it in the same call, or mend the name"


def test_every_object_lies_in_a_mesh_that_exists() -> None:
    with pytest.raises(SpecError, match=r"virtualNode/a meshName: mesh/shop does not exist"):
        MeshSet([node("a")])


def test_what_is_named_exists_in_the_same_mesh() -> None:
    elsewhere = mesh_set(node("n"), service("s", node="n"))
    with pytest.raises(SpecError, match="mesh/other/virtualService/s does not exist"):
        elsewhere.with_applied([replace(made("mesh", "other"), mesh="other"), replace(node("a", "s"), mesh="other")])


def test_a_node_of_the_same_name_is_no_service() -> None:
    assert broken(node("pay"), node("a", "pay")).value == "pay"


# -- ports


def test_a_routes_port_is_a_port_of_its_router() -> None:
    error = broken(node("n"), router("r", *TWO), route("r", "x", target("n"), match={"port": 90}))
    assert error.field == "spec.httpRoute.match.port"
    assert error.rule == "mesh/shop/virtualRouter/r has no port 90, only 80, 81"


def test_a_routes_port_is_needed_where_the_router_has_several() -> None:
    error = broken(node("n"), router("r", *TWO), route("r", "x", target("n")))
    assert "several ports (80, 81), so the route needs one" in error.rule
    assert warned(node("n"), router("r", *TWO), route("r", "x", target("n"), match={"port": 81})) == []


def test_a_targets_port_is_a_port_of_the_node() -> None:
    error = broken(node("n"), router("r"), route("r", "x", target("n", port=81)))
    assert error.field == "spec.httpRoute.action.weightedTargets[0].port"
    assert error.rule == "mesh/shop/virtualNode/n has no port 81, only 80"


def test_a_targets_port_is_needed_where_the_node_has_several() -> None:
    several = node("n", listeners=TWO)
    error = broken(several, router("r"), route("r", "x", target("n")))
    assert "several ports (80, 81), so the target needs one" in error.rule
    assert warned(several, router("r"), route("r", "x", target("n", port=81))) == []


@pytest.mark.parametrize(
    "provided", [(service("s", node="n"), router("r")), (service("s", router="r"), router("r", *TWO))]
)
def test_a_gateway_routes_port_is_a_port_of_the_service(provided: tuple[MeshObject, ...]) -> None:
    shop = (node("n", listeners=TWO), gateway(), *provided)
    assert broken(*shop, gateway_route("x", "s", port=90)).rule == (
        "mesh/shop/virtualService/s has no port 90, only 80, 81"
    )
    error = broken(*shop, gateway_route("x", "s"))
    assert "several ports (80, 81), so the target needs one" in error.rule
    assert error.field == "spec.httpRoute.action.target.port"
    assert warned(*shop, gateway_route("x", "s", port=81)) == []


def test_a_service_without_ports_says_nothing_about_them() -> None:
    assert warned(service("s"), gateway(), gateway_route("x", "s", port=90)) == []
    portless = made("virtualRouter", "r", {})
    assert warned(node("n"), portless, route("r", "x", target("n"), match={"port": 90})) == []
    assert broken(gateway(), service("s", router="gone"), gateway_route("x", "s", port=9)).value == "gone"


# -- protocols


@pytest.mark.parametrize(
    ("kind", "of_router", "of_node", "by"),
    [
        ("tcpRoute", "http", "tcp", "virtualRouter/r"),
        ("httpRoute", "tcp", "http", "virtualRouter/r"),
        ("tcpRoute", "tcp", "grpc", "virtualNode/n"),
        ("grpcRoute", "grpc", "tcp", "virtualNode/n"),
    ],
)
def test_tcp_does_not_mix_with_the_others(kind: str, of_router: str, of_node: str, by: str) -> None:
    error = broken(
        node("n", listeners=(listener(80, of_node),)), router("r", listener(80, of_router)),
        route("r", "x", target("n"), kind=kind),
    )  # fmt: skip
    assert by in error.rule
    assert "tcp does not mix" in error.rule
    assert (error.object, error.field) == (str(key("x", ROUTE, "r")), f"spec.{kind}")


def test_the_protocol_of_the_ports_own_listener_counts() -> None:
    mixed = (listener(80, "http"), listener(81, "tcp"))
    shop = (node("n", listeners=mixed), router("r", *mixed))
    there: dict[str, Any] = {"match": {"port": 81}, "kind": "tcpRoute"}
    assert warned(*shop, route("r", "x", target("n", port=81), **there)) == []
    assert "tcp does not mix" in broken(*shop, route("r", "x", target("n", port=80), **there)).rule


def test_a_mismatch_among_the_others_is_a_warning() -> None:
    shop = (node("n", listeners=(listener(80, "http2"),)), router("r", listener(80, "grpc")))
    assert warned(*shop, route("r", "x", target("n"))) == [
        ("spec.httpRoute", f"the route is for http, mesh/shop/{by}; App Mesh left this undefined")
        for by in ("virtualRouter/r speaks grpc", "virtualNode/n speaks http2")
    ]


# -- nodes that take no traffic


def test_a_node_without_listeners_takes_no_traffic() -> None:
    silent = node("n", listeners=())
    rule = "mesh/shop/virtualNode/n has no listener, so nothing is delivered there"
    assert warned(silent, service("s", node="n")) == [("spec.provider.virtualNode.virtualNodeName", rule)]
    assert warned(silent, router("r"), route("r", "x", target("n", port=80))) == [
        ("spec.httpRoute.action.weightedTargets[0].virtualNode", rule)
    ]


def test_a_node_that_nobody_finds_takes_no_traffic() -> None:
    hidden = made("virtualNode", "n", {"listeners": [listener()]})
    assert warned(hidden, service("s", node="n")) == [
        ("spec.provider.virtualNode.virtualNodeName",
         "mesh/shop/virtualNode/n has no serviceDiscovery, so nobody finds it")
    ]  # fmt: skip
    assert warned(hidden) == []
