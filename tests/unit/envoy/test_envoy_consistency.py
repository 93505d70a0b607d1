from __future__ import annotations

import pytest
from envoy.config.cluster.v3 import cluster_pb2
from envoy_meshes import message, node_key
from envoy_shapes import every_shape

from meshca.envoy import listeners, tls
from meshca.envoy.consistency import InconsistentSnapshotError, references, require_consistent
from meshca.envoy.generator import generate
from meshca.envoy.names import SecretNameError
from meshca.envoy.placement import Placement
from meshca.envoy.resources import CLUSTER, ENDPOINTS, LISTENER, ROUTES, SECRET, Generated, generated

RESOURCES = generate(
    node_key("front"), every_shape({"egressFilter": {"type": "ALLOW_ALL"}}), Placement(intercepted=True)
)


@pytest.mark.parametrize(
    ("type_url", "name", "by"),
    [
        pytest.param(ROUTES, "rds_egress_http_8080", "Listener lds_egress_127.0.0.1_15001 leads to a Route", id="rds"),
        pytest.param(CLUSTER, "cds_egress_demo_db_tcp_5400", "leads to a Cluster", id="cluster-of-tcp"),
        pytest.param(CLUSTER, "cds_egress_demo_mesh-allow-all", "leads to a Cluster", id="default-chain"),
        pytest.param(CLUSTER, "cds_egress_demo_blue_http_9080", "RouteConfiguration", id="cluster-of-http"),
        pytest.param(ENDPOINTS, "cds_egress_demo_cloud_http_9090", "leads to a ClusterLoadAssignment", id="eds"),
    ],
)
def test_what_is_missing_is_named(type_url: str, name: str, by: str) -> None:
    require_consistent(RESOURCES)
    left = [one for one in RESOURCES if (one.type_url, one.name) != (type_url, name)]
    assert len(left) == len(RESOURCES) - 1
    with pytest.raises(InconsistentSnapshotError, match=by) as caught:
        require_consistent(left)
    assert name in str(caught.value)


@pytest.mark.parametrize("type_url", [ROUTES, ENDPOINTS])
def test_what_nothing_leads_to_is_named(type_url: str) -> None:
    extra = next(one for one in RESOURCES if one.type_url == type_url)._replace(name="lonely")
    with pytest.raises(InconsistentSnapshotError, match=r"nothing leads to it \(got 'lonely'\)"):
        require_consistent([*RESOURCES, extra])


def test_a_resource_that_is_there_twice_is_named() -> None:
    with pytest.raises(InconsistentSnapshotError, match=RESOURCES[0].name):
        require_consistent([*RESOURCES, RESOURCES[0]])


def _with_secret(kind: str) -> Generated:
    if kind == CLUSTER:
        cluster = cluster_pb2.Cluster(name="c")
        cluster.transport_socket.ParseFromString(tls.upstream("http", "no-such-name", "sni"))
        return generated(cluster)
    chain = listeners.chain("chain", [], transport_socket=tls.downstream("http", "no-such-name"))
    return listeners.assembled(listeners.Shell("l", "127.0.0.1", 1, listeners.INBOUND), [chain])


@pytest.mark.parametrize("kind", [CLUSTER, LISTENER])
def test_a_secret_that_sds_does_not_know_is_named(kind: str) -> None:
    with pytest.raises(SecretNameError, match="no-such-name"):
        require_consistent([_with_secret(kind)])


def test_every_reference_is_seen() -> None:
    found = {reference for one in RESOURCES for reference in references(one)}
    assert {one.type_url for one in found} == {ROUTES, CLUSTER, ENDPOINTS, SECRET}
    tables = {one.name for one in RESOURCES if one.type_url == ROUTES}
    assert {one.name for one in found if one.type_url == ROUTES} == tables
    clusters = {message(one).name for one in RESOURCES if one.type_url == CLUSTER}
    assert {one.name for one in found if one.type_url == CLUSTER} == clusters
