from __future__ import annotations

from typing import Any

import pytest
from envoy.extensions.filters.http.rbac.v3 import rbac_pb2 as http_rbac_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from envoy_meshes import (
    client,
    entry,
    gateway,
    gateway_id,
    gateway_key,
    gateway_route,
    messages,
    mutual,
    node_id,
    route,
    router,
    server,
    service,
    snapshot,
    unpacked,
)

from meshca.envoy import names
from meshca.envoy.placement import Placement
from meshca.errors import ConflictError
from meshca.mesh.model import MeshObject

BLUE, GREEN = server("blue", tls=mutual()), server("green", tls=mutual())
COLOR = (BLUE, service("color", node="blue"))


def _found(*objects: MeshObject, gw: MeshObject | None = None, **state: Any) -> dict[str, Any]:
    return messages(snapshot(*objects, gw or gateway("gw"), **state), gateway_key("gw"))


def _hosts(found: dict[str, Any], port: int = 8088) -> dict[str, Any]:
    return {host.name: host for host in found[f"rds_ingress_http_{port}"].virtual_hosts}


def test_a_gateway_listens_on_its_own_ports_and_leads_straight_to_the_nodes_cluster() -> None:
    found = _found(*COLOR, gateway_route("r", "color", {"prefix": "/x"}))
    assert set(found) == {"lds_ingress_0.0.0.0_8088", "rds_ingress_http_8088", "cds_egress_demo_blue_http_9080"}
    action = _hosts(found)["*"].routes[0].route
    assert (action.cluster, action.host_rewrite_literal) == ("cds_egress_demo_blue_http_9080", "color")
    assert action.timeout.ToMilliseconds() == 15_000
    assert action.retry_policy.num_retries.value == 2
    assert found["rds_ingress_http_8088"].ignore_port_in_host_matching


def test_it_calls_as_itself() -> None:
    from envoy.extensions.transport_sockets.tls.v3 import tls_pb2

    found = _found(*COLOR, gateway_route("r", "color", {"prefix": "/x"}))
    socket = found["cds_egress_demo_blue_http_9080"].transport_socket
    context = unpacked(socket.typed_config, tls_pb2.UpstreamTlsContext)
    assert context.sni == names.sni_for(gateway_id("gw"))
    assert context.common_tls_context.validation_context_sds_secret_config.name == "servers:color"


def test_the_client_is_told_by_its_address_and_never_by_a_header() -> None:
    (chain,) = _found(*COLOR)["lds_ingress_0.0.0.0_8088"].filter_chains
    manager = unpacked(chain.filters[0].typed_config, http_connection_manager_pb2.HttpConnectionManager)
    assert manager.use_remote_address.value
    assert manager.forward_client_cert_details == manager.SANITIZE


def test_a_host_name_has_a_virtual_host_and_whoever_names_none_is_in_all_of_them() -> None:
    objects = [
        gateway_route("any", "color", {"prefix": "/any"}),
        gateway_route("exact", "color", {"hostname": {"exact": "A.example.com"}}),
        gateway_route("suffix", "color", {"hostname": {"suffix": ".example.com"}, "prefix": "/s"}),
        gateway_route("other", "color", {"hostname": {"suffix": ".other.com"}, "prefix": "/o"}),
    ]
    hosts = _hosts(_found(*COLOR, *objects))
    assert {name: list(host.domains) for name, host in hosts.items()} == {
        name: [name] for name in ("*", "a.example.com", "*.example.com", "*.other.com")
    }
    prefixes = {name: [one.match.prefix or one.match.path for one in host.routes] for name, host in hosts.items()}
    assert prefixes["*"] == ["/any/", "/any"]
    assert prefixes["a.example.com"] == ["/", "/s/", "/s", "/any/", "/any"]
    assert prefixes["*.example.com"] == ["/s/", "/s", "/any/", "/any"]
    assert prefixes["*.other.com"] == ["/o/", "/o", "/any/", "/any"]


def test_priority_goes_before_everything() -> None:
    objects = [
        gateway_route("exact", "color", {"hostname": {"exact": "a.test"}}),
        gateway_route("first", "color", {"prefix": "/"}, priority=1),
    ]
    routes = _hosts(_found(*COLOR, *objects))["a.test"].routes
    assert [one.route.host_rewrite_literal for one in routes] == ["color", "color"]
    assert len(routes) == 2


def _routed(*written: MeshObject) -> Any:
    objects = (BLUE, GREEN, router("r"), service("color", router="r"), *written)
    return _hosts(_found(*objects, gateway_route("g", "color", {"prefix": "/x/"})))["*"].routes


def test_routes_behind_it_are_composed_and_what_none_takes_goes_nowhere_else() -> None:
    routes = _routed(
        route("r", "a", {"blue": 1}, match={"prefix": "/a"}, timeout={"perRequest": {"unit": "s", "value": 1}})
    )
    assert [(one.match.prefix, one.route.prefix_rewrite) for one in routes[:1]] == [("/x/a", "/a")]
    assert routes[0].route.timeout.ToMilliseconds() == 1000
    assert [(one.match.prefix, one.direct_response.status) for one in routes[1:]] == [("/x/", 404)]


def test_a_route_that_takes_everything_needs_no_404() -> None:
    routes = _routed(route("r", "a", {"blue": 1, "green": 1}))
    assert [one.match.prefix for one in routes] == ["/x/"]
    assert len(routes[0].route.weighted_clusters.clusters) == 2


def test_what_a_route_asks_for_is_asked_for_together() -> None:
    written = route("r", "a", {"blue": 1}, match={"prefix": "/", "method": "GET", "headers": [{"name": "h"}]})
    assert [one.name for one in _routed(written)[0].match.headers] == [":method", "h"]


def test_a_regular_expression_that_is_not_understood_is_an_error_that_names_the_route() -> None:
    with pytest.raises(ConflictError, match=r"gatewayRoute/g: match\.path\.regex"):
        _routed(route("r", "a", {"blue": 1}, match={"path": {"regex": "(?i)/a"}}))


def test_a_service_that_leads_nowhere_is_a_503() -> None:
    (one,) = _hosts(_found(service("none"), gateway_route("g", "none", {"prefix": "/x/"})))["*"].routes
    assert one.direct_response.status == 503


def test_a_route_with_a_port_is_that_listeners_alone_and_a_target_port_is_the_services() -> None:
    objects = (
        BLUE, GREEN, router("r", "http", 8080, 8081), service("color", router="r"),
        route("r", "a", {"blue": 1}, match={"prefix": "/", "port": 8080}),
        route("r", "b", {"green": 1}, match={"prefix": "/", "port": 8081}),
        gateway_route("one", "color", {"prefix": "/", "port": 1}, target={"port": 8080}),
        gateway_route("two", "color", {"prefix": "/", "port": 2}, target={"port": 8081}),
    )  # fmt: skip
    found = _found(*objects, gw=gateway("gw", entry(1), entry(2)))
    clusters = [_hosts(found, port)["*"].routes[0].route.cluster for port in (1, 2)]
    assert clusters == ["cds_egress_demo_blue_http_9080", "cds_egress_demo_green_http_9080"]


def test_a_grpc_route_keeps_its_path() -> None:
    objects = (
        server("g", "grpc"),
        service("g", node="g"),
        gateway_route("r", "g", {"serviceName": "s.S"}, "grpcRoute"),
    )
    (one,) = _hosts(_found(*objects))["*"].routes
    assert (one.match.prefix, one.match.HasField("grpc"), one.route.prefix_rewrite) == ("/s.S/", True, "")
    assert one.route.host_rewrite_literal == "g"


def test_host_names_are_kept_where_the_route_says_so() -> None:
    off = {"hostname": {"defaultTargetHostname": "DISABLED"}}
    (one,) = _hosts(_found(*COLOR, gateway_route("r", "color", {"prefix": "/x/"}, rewrite=off)))["*"].routes
    assert one.route.host_rewrite_literal == ""


def test_mutual_tls_of_a_gateway_checks_each_request() -> None:
    guest = str(node_id("guest"))
    tls = mutual(names=(guest,))
    found = _found(
        *COLOR, client("guest"), gateway_route("r", "color", {"prefix": "/x"}), gw=gateway("gw", entry(1, tls=tls))
    )
    names_ = [chain.name for chain in found["lds_ingress_0.0.0.0_1"].filter_chains]
    assert names_ == [f"client:{guest}#0", "clients:1#0"]
    packed = found["rds_ingress_http_1"].typed_per_filter_config["envoy.filters.http.rbac"]
    rules = unpacked(packed, http_rbac_pb2.RBACPerRoute).rbac.rules
    assert [one.authenticated.principal_name.exact for one in rules.policies["admitted"].principals] == [guest]


def test_its_pool_limits_each_cluster() -> None:
    pools = [
        {"http": {"maxConnections": 3, "maxPendingRequests": 1}},
        {"http": {"maxConnections": 5, "maxPendingRequests": 1}},
    ]
    gw = gateway("gw", *(entry(port, connectionPool=pool) for port, pool in enumerate(pools, 1)))
    cluster = _found(*COLOR, gateway_route("r", "color", {"prefix": "/"}), gw=gw)["cds_egress_demo_blue_http_9080"]
    (limits,) = cluster.circuit_breakers.thresholds
    assert (limits.max_connections.value, limits.max_pending_requests.value) == (5, 1)


def test_revoking_a_server_behind_it_renames_its_chains_and_its_cluster() -> None:
    objects = (*COLOR, gateway_route("r", "color", {"prefix": "/"}))
    before = _found(*objects)
    after = _found(*objects, epochs={names.identity_scope(node_id("blue")): 1})
    assert {name for name in before if before[name] != after[name]} == {
        "lds_ingress_0.0.0.0_8088", "cds_egress_demo_blue_http_9080",
    }  # fmt: skip
    assert after["lds_ingress_0.0.0.0_8088"].filter_chains[0].name.startswith("anyone:8088#0.")


def test_interception_is_not_a_gateways_matter() -> None:
    state = snapshot(*COLOR, gateway("gw"))
    assert messages(state, gateway_key("gw"), Placement(intercepted=True)) == messages(state, gateway_key("gw"))
