from __future__ import annotations

from typing import Any

import pytest
from envoy_meshes import client, entry, made, messages, service, snapshot

from meshca.envoy.snapshot import Endpoint
from meshca.errors import ConflictError
from meshca.mesh.model import MeshObject

CLOUD = {"awsCloudMap": {"namespaceName": "ns", "serviceName": "color"}}
CHECK = {
    "protocol": "http",
    "healthyThreshold": 2,
    "unhealthyThreshold": 3,
    "intervalMillis": 5000,
    "timeoutMillis": 2000,
}


def _node(*listeners: dict[str, Any], discovery: dict[str, Any] | None = CLOUD) -> MeshObject:
    spec: dict[str, Any] = {"listeners": list(listeners) or [entry(9080)]}
    return made("virtualNode", "blue", {**spec, **({"serviceDiscovery": discovery} if discovery else {})})


def _front(blue: MeshObject, *known: Endpoint, mesh: dict[str, Any] | None = None) -> dict[str, Any]:
    objects = (blue, service("color", node="blue"), client("front", "color"))
    return messages(snapshot(*objects, endpoints={"blue": known}, mesh=mesh), "front")


def _where(found: dict[str, Any], port: int = 9080) -> list[tuple[str, int]]:
    sockets = [
        one.endpoint.address.socket_address
        for locality in found[f"eds:cds_egress_demo_blue_http_{port}"].endpoints
        for one in locality.lb_endpoints
    ]
    return [(socket.address, socket.port_value) for socket in sockets]


@pytest.mark.parametrize("discovery", [CLOUD, None])
def test_a_node_that_no_dns_finds_has_its_endpoints_by_eds(discovery: dict[str, Any] | None) -> None:
    found = _front(_node(discovery=discovery), ("10.0.0.2", None), ("10.0.0.1", 8000), ("fd00::1", None))
    cluster = found["cds_egress_demo_blue_http_9080"]
    assert cluster.DiscoveryType.Name(cluster.type) == "EDS"
    assert cluster.eds_cluster_config.eds_config.HasField("ads")
    assert _where(found) == [("10.0.0.1", 8000), ("10.0.0.2", 9080), ("fd00::1", 9080)]


def test_nobody_told_of_any_is_an_assignment_without_any() -> None:
    assert _where(_front(_node())) == []


def test_with_several_listeners_a_port_is_that_listeners_alone() -> None:
    found = _front(_node(entry(9080), entry(9081)), ("10.0.0.1", None), ("10.0.0.2", 9081), ("10.0.0.3", 7))
    assert _where(found) == [("10.0.0.1", 9080)]
    assert _where(found, 9081) == [("10.0.0.1", 9081), ("10.0.0.2", 9081)]


@pytest.mark.parametrize(
    ("preference", "left"),
    [("IPv4_ONLY", ["10.0.0.1"]), ("IPv6_ONLY", ["fd00::1"]), ("IPv6_PREFERRED", ["10.0.0.1", "fd00::1"])],
)
def test_a_family_alone_leaves_the_other_out(preference: str, left: list[str]) -> None:
    mesh = {"serviceDiscovery": {"ipPreference": preference}}
    assert [host for host, _ in _where(_front(_node(), ("10.0.0.1", None), ("fd00::1", None), mesh=mesh))] == left


def test_an_endpoint_that_is_no_address_is_an_error() -> None:
    with pytest.raises(ConflictError, match=r"virtualNode/blue: an endpoint is no IP address \(got 'color.local'\)"):
        _front(_node(), ("color.local", None))


@pytest.mark.parametrize(("discovery", "host"), [(CLOUD, "color.ns:9080"), (None, "blue:9080")])
def test_a_health_check_asks_for_the_name_in_cloud_map(discovery: dict[str, Any] | None, host: str) -> None:
    found = _front(_node(entry(9080, healthCheck=CHECK), discovery=discovery))
    (check,) = found["cds_egress_demo_blue_http_9080"].health_checks
    assert check.http_health_check.host == host
