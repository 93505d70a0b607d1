from __future__ import annotations

from typing import Any

import pytest
from envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2
from envoy.extensions.transport_sockets.tls.v3 import tls_pb2
from envoy_meshes import client, made, messages, mutual, node_id, route, router, server, service, snapshot, unpacked
from hypothesis import given
from hypothesis import strategies as st

from meshca.envoy import names, tcp
from meshca.envoy.placement import Placement
from meshca.errors import ConflictError
from meshca.mesh.model import MeshObject

BLUE, GREEN = server("blue", tls=mutual()), server("green", tls=mutual())
COLOR = (router("r"), service("color", router="r"))


def _front(*objects: MeshObject, services: tuple[str, ...] = ("color",), **state: Any) -> dict[str, Any]:
    return messages(snapshot(*objects, client("front", *services), **state), "front")


def _hosts(found: dict[str, Any], port: int) -> dict[str, Any]:
    return {host.name: host for host in found[f"rds_egress_http_{port}"].virtual_hosts}


def _upstream(cluster: Any) -> Any:
    return unpacked(cluster.transport_socket.typed_config, tls_pb2.UpstreamTlsContext)


def test_a_service_is_a_virtual_host_at_its_routers_port() -> None:
    found = _front(BLUE, GREEN, *COLOR, route("r", "all", {"blue": 1, "green": 3}))
    listener = found["lds_egress_127.0.0.1_8080"]
    assert listener.address.socket_address.port_value == 8080
    host = _hosts(found, 8080)["color"]
    assert list(host.domains) == ["color", "color:8080"]
    action = host.routes[0].route
    shares = {one.name: one.weight.value for one in action.weighted_clusters.clusters}
    assert shares == {"cds_egress_demo_blue_http_9080": 1, "cds_egress_demo_green_http_9080": 3}
    assert action.timeout.ToMilliseconds() == 15_000
    assert (action.retry_policy.num_retries.value, list(action.retry_policy.retriable_status_codes)) == (2, [503])


def test_routes_are_tried_by_priority_then_longest_prefix_then_name() -> None:
    written = [
        route("r", "a-last", {"blue": 1}),
        route("r", "b-longer", {"blue": 1}, match={"prefix": "/b"}),
        route("r", "c-first", {"blue": 1}, match={"prefix": "/c"}, priority=1),
        route("r", "d-second", {"blue": 1}, match={"prefix": "/much-longer"}, priority=2),
    ]
    routes = _hosts(_front(BLUE, *COLOR, *written), 8080)["color"].routes
    assert [one.match.prefix for one in routes] == ["/c", "/much-longer", "/b", "/"]


def test_all_weights_zero_answer_503() -> None:
    routes = _hosts(_front(BLUE, GREEN, *COLOR, route("r", "all", {"blue": 0, "green": 0})), 8080)["color"].routes
    assert [one.direct_response.status for one in routes] == [503]


def test_a_weight_of_zero_beside_another_keeps_its_cluster() -> None:
    found = _front(BLUE, GREEN, *COLOR, route("r", "all", {"blue": 0, "green": 5}))
    clusters = _hosts(found, 8080)["color"].routes[0].route.weighted_clusters.clusters
    assert [one.weight.value for one in clusters] == [0, 5]


def test_a_service_without_a_provider_answers_503() -> None:
    found = _front(BLUE, service("color", node="blue"), service("none"), services=("color", "none"))
    host = _hosts(found, 9080)["none"]
    assert (list(host.domains), host.routes[0].direct_response.status) == (["none", "none:9080"], 503)


def test_a_node_provider_gets_the_default_retry_and_the_nodes_port() -> None:
    action = _hosts(_front(BLUE, service("color", node="blue")), 9080)["color"].routes[0].route
    assert action.cluster == "cds_egress_demo_blue_http_9080"
    assert action.retry_policy.retry_on == "connect-failure,refused-stream,reset,retriable-status-codes,unavailable"


def test_grpc_routes_take_grpc_calls_alone() -> None:
    objects = (server("g", "grpc"), router("r", "grpc"), service("color", router="r"))
    found = _front(*objects, route("r", "all", {"g": 1}, "grpcRoute"))
    matched = _hosts(found, 8080)["color"].routes[0].match
    assert (matched.prefix, matched.HasField("grpc")) == ("/", True)
    assert found["cds_egress_demo_g_grpc_9080"].typed_extension_protocol_options


def test_a_cluster_validates_the_servers_of_its_service_and_says_who_calls() -> None:
    context = _upstream(_front(BLUE, service("color", node="blue"))["cds_egress_demo_blue_http_9080"])
    assert context.sni == names.sni_for(node_id("front"))
    common = context.common_tls_context
    assert common.validation_context_sds_secret_config.name == "servers:color"
    assert [one.name for one in common.tls_certificate_sds_secret_configs] == ["default"]


def test_two_services_of_one_node_have_a_cluster_each() -> None:
    found = _front(BLUE, service("b", node="blue"), service("a", node="blue"), services=("a", "b"))
    contexts = {
        name: _upstream(one).common_tls_context.validation_context_sds_secret_config.name
        for name, one in found.items()
        if name.startswith("cds_")
    }
    plain = "cds_egress_demo_blue_http_9080"
    assert contexts == {plain: "servers:a", f"{plain}_b": "servers:b"}


def _policy(**tls: Any) -> dict[str, Any]:
    return {"clientPolicy": {"tls": {"validation": {"trust": {"sds": {"secretName": "ROOTCA"}}}, **tls}}}


@pytest.mark.parametrize(
    ("serves", "policy", "encrypted"),
    [
        pytest.param(True, None, True, id="server-tls-without-policy"),
        pytest.param(False, None, False, id="plaintext-without-policy"),
        pytest.param(False, _policy(), True, id="enforced-policy"),
        pytest.param(False, _policy(enforce=False), False, id="not-enforced-against-plaintext"),
        pytest.param(True, _policy(enforce=False), True, id="not-enforced-against-tls"),
        pytest.param(False, _policy(ports=[9080]), True, id="policy-of-this-port"),
        pytest.param(False, _policy(ports=[1]), False, id="policy-of-another-port"),
        pytest.param(True, _policy(ports=[1]), True, id="another-port-but-server-tls"),
    ],
)
def test_who_decides_tls(serves: bool, policy: dict[str, Any] | None, encrypted: bool) -> None:
    blue = server("blue", tls=mutual(names=None) if serves else None)
    front = client("front", "color", **({} if policy is None else {"backendDefaults": policy}))
    found = messages(snapshot(blue, service("color", node="blue"), front), "front")
    assert found["cds_egress_demo_blue_http_9080"].HasField("transport_socket") == encrypted


def test_a_backends_own_policy_replaces_the_default_wholesale() -> None:
    backend = {"virtualServiceName": "color", **_policy(ports=[1])}
    front = made("virtualNode", "front", {"backends": [{"virtualService": backend}], "backendDefaults": _policy()})
    found = messages(snapshot(server("blue"), service("color", node="blue"), front), "front")
    assert not found["cds_egress_demo_blue_http_9080"].HasField("transport_socket")


def _changed(before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    return {name for name in before if before[name] != after[name]}


@pytest.mark.parametrize("scope", ["identity", "backend"])
def test_draining_a_server_touches_its_clusters_and_its_port_alone(scope: str) -> None:
    objects = (BLUE, server("plain", port=80), service("color", node="blue"), service("p", node="plain"))
    raised = {
        "identity": names.identity_scope(node_id("blue")),
        "backend": names.backend_scope(node_id("front"), "color"),
    }[scope]
    before = _front(*objects, services=("color", "p"))
    after = _front(*objects, services=("color", "p"), epochs={raised: 1})
    assert _changed(before, after) == {"cds_egress_demo_blue_http_9080", "lds_egress_127.0.0.1_9080"}
    listener = after["lds_egress_127.0.0.1_9080"]
    assert listener.filter_chains[0].name != before["lds_egress_127.0.0.1_9080"].filter_chains[0].name
    assert after["cds_egress_demo_blue_http_9080"].metadata.filter_metadata["meshca"]["drain"] != "0"


def test_revoking_the_caller_leaves_its_own_egress_alone() -> None:
    objects = (BLUE, service("color", node="blue"))
    epochs = {names.identity_scope(node_id("front")): 1}
    assert not _changed(_front(*objects), _front(*objects, epochs=epochs))


def test_a_port_that_the_node_serves_itself_is_moved() -> None:
    front = made(
        "virtualNode",
        "front",
        {
            "listeners": [{"portMapping": {"port": 9080, "protocol": "http"}}],
            "backends": [{"virtualService": {"virtualServiceName": "color"}}],
        },
    )
    found = messages(snapshot(BLUE, service("color", node="blue"), front), "front")
    assert found["lds_egress_127.0.0.1_15001"].address.socket_address.port_value == 15001
    assert list(_hosts(found, 9080)["color"].domains) == ["color", "color:9080", "color:15001"]


def test_two_ports_that_would_have_to_move_are_an_error() -> None:
    state = snapshot(
        BLUE, server("green", port=9090), service("a", node="blue"), service("b", node="green"),
        made("virtualNode", "front", {
            "listeners": [{"portMapping": {"port": 9080, "protocol": "http"}}],
            "backends": [{"virtualService": {"virtualServiceName": name}} for name in ("a", "b")],
        }),
    )  # fmt: skip
    with pytest.raises(ConflictError, match="do not fit"):
        messages(state, "front", Placement.parse(ingress="0.0.0.0:9090"))


def test_each_tcp_service_has_an_address_of_its_own() -> None:
    objects = (
        server("db", "tcp", 5432),
        server("db2", "tcp", 5432),
        service("one", node="db"),
        service("two", node="db2"),
    )
    found = _front(*objects, services=("one", "two"))
    expected = tcp.addresses(("one", "two"), "127.0.0.1")
    for name, cluster in (("one", "db"), ("two", "db2")):
        listener = found[f"lds_egress_{expected[name]}_5432"]
        proxy = unpacked(listener.filter_chains[0].filters[0].typed_config, tcp_proxy_pb2.TcpProxy)
        assert proxy.cluster == f"cds_egress_demo_{cluster}_tcp_5432"


def test_tcp_routes_share_connections_by_weight() -> None:
    objects = [server(name, "tcp", 5432) for name in ("a", "b", "c")]
    found = _front(
        *objects,
        router("r", "tcp"),
        service("color", router="r"),
        route("r", "t", {"a": 1, "b": 0, "c": 2}, "tcpRoute"),
    )
    listener = next(one for name, one in found.items() if name.startswith("lds_"))
    proxy = unpacked(listener.filter_chains[0].filters[0].typed_config, tcp_proxy_pb2.TcpProxy)
    shares = {one.name: one.weight for one in proxy.weighted_clusters.clusters}
    assert shares == {"cds_egress_demo_a_tcp_5432": 1, "cds_egress_demo_c_tcp_5432": 2}


def test_tcp_without_any_weight_listens_nowhere() -> None:
    found = _front(
        server("a", "tcp"), router("r", "tcp"), service("color", router="r"), route("r", "t", {"a": 0}, "tcpRoute")
    )
    assert not [name for name in found if name.startswith("lds_")]


@given(st.sets(st.text(min_size=1, max_size=20), max_size=40))
def test_tcp_addresses_are_distinct_loopback_addresses(services: set[str]) -> None:
    found = tcp.addresses(services, "127.0.0.1")
    assert found.keys() == services
    assert len(set(found.values())) == len(services)
    for address in found.values():
        first, second, *_ = (int(part) for part in address.split("."))
        assert (first, 128 <= second <= 255) == (127, True)


def test_clients_on_one_machine_find_the_same_tcp_service_at_different_addresses() -> None:
    assert tcp.addresses(["db"], "127.0.0.1") != tcp.addresses(["db"], "127.0.0.2")


@pytest.mark.parametrize(
    ("dns", "kind", "address"),
    [
        ({"hostname": "blue.apps.local"}, "LOGICAL_DNS", "blue.apps.local."),
        ({"hostname": "blue.apps.local."}, "LOGICAL_DNS", "blue.apps.local."),
        ({"hostname": "blue.apps.local", "responseType": "ENDPOINTS"}, "STRICT_DNS", "blue.apps.local."),
        ({"hostname": "localhost"}, "LOGICAL_DNS", "localhost"),
        ({"hostname": "127.0.0.9"}, "STATIC", "127.0.0.9"),
        ({"hostname": "::1"}, "STATIC", "::1"),
        (None, "EDS", None),
    ],
)
def test_discovery_decides_the_kind_of_cluster(dns: dict[str, str] | None, kind: str, address: str | None) -> None:
    spec: dict[str, Any] = {"listeners": [{"portMapping": {"port": 9080, "protocol": "http"}}]}
    if dns is not None:
        spec["serviceDiscovery"] = {"dns": dns}
    cluster = _front(made("virtualNode", "blue", spec), service("color", node="blue"))["cds_egress_demo_blue_http_9080"]
    assert cluster.DiscoveryType.Name(cluster.type) == kind
    found = [
        one.endpoint.address.socket_address.address
        for locality in cluster.load_assignment.endpoints
        for one in locality.lb_endpoints
    ]
    assert found == ([] if address is None else [address])
