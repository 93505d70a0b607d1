from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from envoy_meshes import MESH, client, made, mutual, node_key, route, router, server, service, snapshot

from meshca.envoy.generator import NotGeneratedError, generate
from meshca.envoy.placement import Placement
from meshca.envoy.resources import CLUSTER, LISTENER, ROUTES
from meshca.errors import NotFoundError
from meshca.mesh.forest import MeshSet
from meshca.mesh.model import MESH as MESH_KIND
from meshca.mesh.model import VIRTUAL_GATEWAY, MeshObject, ObjectKey


def _mesh() -> list[MeshObject]:
    names = [f"node{index}" for index in range(5)]
    servers = [server(name, tls=mutual()) for name in names]
    routes = [route("r", f"to-{name}", dict.fromkeys(names, 1), match={"prefix": f"/{name}"}) for name in names]
    return [*servers, router("r"), *routes, service("color", router="r"), client("front", "color")]


def test_the_same_snapshot_gives_the_same_bytes_whatever_the_order_of_objects() -> None:
    one, two = snapshot(*_mesh()), snapshot(*reversed(_mesh()))
    for node in ("front", "node0"):
        assert generate(node_key(node), one, Placement()) == generate(node_key(node), two, Placement())


def test_types_come_in_the_order_in_which_they_are_sent() -> None:
    types = [one.type_url for one in generate(node_key("front"), snapshot(*_mesh()), Placement())]
    assert list(dict.fromkeys(types)) == [CLUSTER, LISTENER, ROUTES]


def test_a_node_that_does_not_exist_is_not_found() -> None:
    with pytest.raises(NotFoundError):
        generate(node_key("nobody"), snapshot(), Placement())


def test_a_node_without_listener_and_backends_gets_nothing() -> None:
    assert generate(node_key("alone"), snapshot(client("alone")), Placement()) == ()


def _not_generated(node: ObjectKey, *objects: MeshObject) -> str:
    with pytest.raises(NotGeneratedError) as caught:
        generate(node, snapshot(*objects), Placement())
    return str(caught.value)


def test_a_gateway_is_not_generated_yet() -> None:
    gateway = made("virtualGateway", "gw", {"listeners": [{"portMapping": {"port": 80, "protocol": "http"}}]})
    assert "virtualGateway/gw" in _not_generated(ObjectKey(MESH, VIRTUAL_GATEWAY, "", "gw"), gateway)


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        pytest.param(
            {"listeners": [{"portMapping": {"port": port, "protocol": "http"}} for port in (1, 2)]},
            "spec.listeners",
            id="several-listeners",
        ),
        pytest.param(
            {"listeners": [{"portMapping": {"port": 1, "protocol": "http"}, "tls": mutual("PERMISSIVE")}]},
            "spec.listeners[0].tls.mode",
            id="permissive",
        ),
    ],
)
def test_what_is_not_generated_is_named(spec: dict[str, Any], field: str) -> None:
    text = _not_generated(node_key("blue"), made("virtualNode", "blue", spec))
    assert f"mesh/{MESH}/virtualNode/blue" in text
    assert field in text


RETRY = {"maxRetries": 1, "perRetryTimeout": {"unit": "s", "value": 1}, "httpRetryEvents": ["server-error"]}
CLOUD_MAP = made(
    "virtualNode",
    "blue",
    {
        "listeners": [{"portMapping": {"port": 9080, "protocol": "http"}, "tls": mutual("PERMISSIVE")}],
        "serviceDiscovery": {"awsCloudMap": {"namespaceName": "n", "serviceName": "s"}},
    },
)


def test_what_a_client_calls_is_its_matter_too() -> None:
    text = _not_generated(node_key("front"), CLOUD_MAP, service("color", node="blue"), client("front", "color"))
    assert "spec.serviceDiscovery.awsCloudMap" in text
    assert "tls" not in text


def test_how_a_server_admits_is_not_its_clients_matter() -> None:
    blue = server("blue", tls=mutual("PERMISSIVE"))
    state = snapshot(blue, service("color", node="blue"), client("front", "color"))
    assert generate(node_key("front"), state, Placement())


@pytest.mark.parametrize(
    ("kind", "spec", "field"),
    [
        pytest.param("httpRoute", {"match": {"path": {"exact": "/x"}}}, "match.path", id="exact-path"),
        pytest.param("httpRoute", {"match": {"prefix": "/", "method": "GET"}}, "match.method", id="method"),
        pytest.param(
            "httpRoute", {"match": {"prefix": "/", "headers": [{"name": "a"}]}}, "match.headers", id="headers"
        ),
        pytest.param("http2Route", {"match": {"prefix": "/", "scheme": "http"}}, "match.scheme", id="scheme"),
        pytest.param(
            "httpRoute",
            {"match": {"prefix": "/", "queryParameters": [{"name": "q"}]}},
            "match.queryParameters",
            id="query",
        ),
        pytest.param("httpRoute", {"retryPolicy": RETRY}, "retryPolicy", id="retry-policy"),
        pytest.param("grpcRoute", {"match": {"serviceName": "s"}}, "match.serviceName", id="grpc-service"),
        pytest.param("grpcRoute", {"match": {"metadata": [{"name": "m"}]}}, "match.metadata", id="grpc-metadata"),
    ],
)
def test_a_match_that_is_not_generated_is_named(kind: str, spec: dict[str, Any], field: str) -> None:
    protocol = kind.removesuffix("Route")
    objects = [
        server("blue", protocol), router("r", protocol), route("r", "one", {"blue": 1}, kind, **spec),
        service("color", router="r"), client("front", "color"),
    ]  # fmt: skip
    assert field in _not_generated(node_key("front"), *objects)


def test_a_router_with_several_listeners_is_not_generated() -> None:
    ports = [{"portMapping": {"port": port, "protocol": "http"}} for port in (1, 2)]
    objects = [
        server("blue"), made("virtualRouter", "r", {"listeners": ports}),
        route("r", "one", {"blue": 1}, match={"prefix": "/", "port": 1}), service("color", router="r"),
        client("front", "color"),
    ]  # fmt: skip
    assert "virtualRouter/r" in _not_generated(node_key("front"), *objects)


def test_an_egress_filter_that_allows_all_is_not_generated() -> None:
    mesh = made("mesh", MESH, {"egressFilter": {"type": "ALLOW_ALL"}})
    state = snapshot(client("front"))
    opened = MeshSet((mesh, *(one for key, one in state.mesh_set.objects.items() if key.kind != MESH_KIND)))
    with pytest.raises(NotGeneratedError, match="egressFilter"):
        generate(node_key("front"), dataclasses.replace(state, mesh_set=opened), Placement())
