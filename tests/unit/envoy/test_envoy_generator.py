from __future__ import annotations

import pytest
from envoy_meshes import (
    client,
    entry,
    gateway,
    gateway_key,
    made,
    mutual,
    node_key,
    route,
    router,
    server,
    service,
    snapshot,
)

from meshca.envoy.generator import generate
from meshca.envoy.placement import Placement
from meshca.envoy.resources import CLUSTER, LISTENER, ROUTES
from meshca.errors import ConflictError, NotFoundError
from meshca.mesh.model import MeshObject


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


def test_a_gateway_is_generated_like_a_node() -> None:
    state = snapshot(server("blue"), service("color", node="blue"), gateway("gw"))
    types = [one.type_url for one in generate(gateway_key("gw"), state, Placement())]
    assert types == [LISTENER, ROUTES]


def test_several_listeners_need_a_port_each_unless_the_kernel_intercepts() -> None:
    blue = made("virtualNode", "blue", {"listeners": [entry(9080), entry(9081)]})
    with pytest.raises(ConflictError, match="2 listeners cannot all be at port 1"):
        generate(node_key("blue"), snapshot(blue), Placement.parse("0.0.0.0:1"))
    assert generate(node_key("blue"), snapshot(blue), Placement.parse("0.0.0.0:1", intercepted="yes"))
