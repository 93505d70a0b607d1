from __future__ import annotations

from typing import Any

import pytest
from envoy.extensions.filters.http.rbac.v3 import rbac_pb2 as http_rbac_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from envoy.extensions.filters.network.rbac.v3 import rbac_pb2 as network_rbac_pb2
from envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2
from envoy.extensions.transport_sockets.tls.v3 import common_pb2, tls_pb2
from envoy_meshes import client, messages, mutual, node_id, server, service, snapshot, unpacked

from meshca.envoy import names
from meshca.envoy.placement import Placement
from meshca.envoy.snapshot import Snapshot

LISTENER = "lds_ingress_0.0.0.0_9080"
ROUTES = "rds_ingress_http_9080"


def _mesh(
    protocol: str = "http",
    tls: dict[str, Any] | None = None,
    callers: tuple[str, ...] = ("front", "other"),
    epochs: dict[str, int] | None = None,
    suspended: tuple[str, ...] = (),
    **listener: Any,
) -> Snapshot:
    blue = server("blue", protocol, tls=mutual() if tls is None else tls, **listener)
    clients = [client(name, "color") for name in callers]
    return snapshot(blue, service("color", node="blue"), *clients, epochs=epochs, suspended=suspended)


def _listener(state: Snapshot) -> Any:
    return messages(state, "blue")[LISTENER]


def _context(chain: Any) -> Any:
    return unpacked(chain.transport_socket.typed_config, tls_pb2.DownstreamTlsContext)


def _manager(chain: Any) -> Any:
    return unpacked(chain.filters[0].typed_config, http_connection_manager_pb2.HttpConnectionManager)


def _allowed(rules: Any) -> list[str]:
    return [
        principal.authenticated.principal_name.exact
        for policy in rules.policies.values()
        for principal in policy.principals
    ]


def test_each_admitted_client_has_a_chain_and_the_rest_a_default_one() -> None:
    chains = _listener(_mesh()).filter_chains
    found = {chain.name: list(chain.filter_chain_match.server_names) for chain in chains}
    front, other = node_id("front"), node_id("other")
    assert found == {
        f"client:{front}#0": [names.sni_for(front)],
        f"client:{other}#0": [names.sni_for(other)],
        "clients:9080#0": [],
    }
    contexts = [_context(chain).common_tls_context.validation_context_sds_secret_config.name for chain in chains]
    assert contexts == [f"client:{front}", f"client:{other}", "clients:9080"]


def test_every_context_demands_a_certificate_and_resumes_nothing() -> None:
    for chain in _listener(_mesh()).filter_chains:
        context = _context(chain)
        assert context.require_client_certificate.value
        assert context.disable_stateless_session_resumption
        assert context.disable_stateful_session_resumption
        common = context.common_tls_context
        assert common.tls_params.tls_minimum_protocol_version == common_pb2.TlsParameters.TLSv1_2
        sources = [*common.tls_certificate_sds_secret_configs, common.validation_context_sds_secret_config]
        assert sources[0].name == "default"
        for source in sources:
            assert source.sds_config.HasField("ads")
            assert source.sds_config.HasField("initial_fetch_timeout")
            assert source.sds_config.initial_fetch_timeout.ToMilliseconds() == 0


def test_raising_a_clients_epoch_renames_its_chain_and_the_default_one_alone() -> None:
    before = _listener(_mesh()).filter_chains
    after = _listener(_mesh(epochs={names.identity_scope(node_id("front")): 1})).filter_chains
    assert [one.name == two.name for one, two in zip(before, after, strict=True)] == [False, True, False]
    assert before[1] == after[1]


def test_raising_the_listeners_epoch_renames_the_default_chain_alone() -> None:
    before = _listener(_mesh()).filter_chains
    after = _listener(_mesh(epochs={names.listener_scope(node_id("blue"), 9080): 1})).filter_chains
    assert [one == two for one, two in zip(before, after, strict=True)] == [True, True, False]


def test_admitting_one_more_client_leaves_all_other_chains_alone() -> None:
    before = list(_listener(_mesh()).filter_chains)
    after = list(_listener(_mesh(callers=("front", "new", "other"))).filter_chains)
    assert [chain for chain in after if chain not in before] == [after[1]]
    assert [chain for chain in before if chain not in after] == []


def test_suspending_an_http_client_changes_routes_alone() -> None:
    before, after = messages(_mesh(), "blue"), messages(_mesh(suspended=("front",)), "blue")
    assert [name for name in before if before[name] != after[name]] == [ROUTES]


def _override(state: Snapshot) -> Any:
    host = messages(state, "blue")[ROUTES].virtual_hosts[0]
    packed = host.typed_per_filter_config["envoy.filters.http.rbac"]
    return unpacked(packed, http_rbac_pb2.RBACPerRoute).rbac.rules


def test_requests_are_allowed_to_admitted_clients_that_are_not_suspended() -> None:
    assert _allowed(_override(_mesh(suspended=("front",)))) == [str(node_id("other"))]


@pytest.mark.parametrize("state", [_mesh(callers=()), _mesh(callers=("front",), suspended=("front",))])
def test_nobody_admitted_is_an_allow_without_policies(state: Snapshot) -> None:
    rules = _override(state)
    assert (rules.action, len(rules.policies)) == (rules.ALLOW, 0)


def test_without_an_override_the_filter_itself_denies_everybody() -> None:
    manager = _manager(_listener(_mesh()).filter_chains[0])
    assert [one.name for one in manager.http_filters] == ["envoy.filters.http.rbac", "envoy.filters.http.router"]
    own = unpacked(manager.http_filters[0].typed_config, http_rbac_pb2.RBAC)
    assert own.HasField("rules")
    assert (own.rules.action, len(own.rules.policies)) == (own.rules.ALLOW, 0)


def test_a_mutual_listener_tells_the_application_who_called() -> None:
    manager = _manager(_listener(_mesh()).filter_chains[0])
    assert manager.forward_client_cert_details == manager.SANITIZE_SET
    assert manager.set_current_client_cert_details.uri


def test_named_clients_are_admitted_instead_of_those_that_reach_it() -> None:
    state = _mesh(tls=mutual(names=(str(node_id("guest")),)))
    assert [chain.name for chain in _listener(state).filter_chains] == [
        f"client:{node_id('guest')}#0",
        "clients:9080#0",
    ]
    assert _allowed(_override(state)) == [str(node_id("guest"))]


def test_a_tcp_connection_is_checked_in_its_own_chain() -> None:
    chains = _listener(_mesh("tcp", suspended=("front",))).filter_chains
    allowed = []
    for chain in chains:
        rbac = unpacked(chain.filters[0].typed_config, network_rbac_pb2.RBAC)
        assert rbac.rules.action == rbac.rules.ALLOW
        allowed.append(_allowed(rbac.rules))
    other = str(node_id("other"))
    assert allowed == [[], [other], [other]]


@pytest.mark.parametrize("mode", ["STRICT", "DISABLED", None])
def test_without_validation_one_chain_takes_everybody(mode: str | None) -> None:
    blue = server("blue", tls=None if mode is None else mutual(mode, None))
    state = snapshot(blue, service("color", node="blue"), client("front", "color"))
    listener = _listener(state)
    (chain,) = listener.filter_chains
    assert chain.HasField("transport_socket") == (mode == "STRICT")
    manager = _manager(chain)
    assert [one.name for one in manager.http_filters] == ["envoy.filters.http.router"]
    assert manager.forward_client_cert_details == manager.SANITIZE
    if mode == "STRICT":
        context = _context(chain)
        assert not context.HasField("require_client_certificate")
        assert not context.common_tls_context.HasField("validation_context_sds_secret_config")
    # On plaintext a TLS inspector would make a server that speaks first wait.
    filters = [one.name.rpartition(".")[2] for one in listener.listener_filters]
    assert filters == (["original_dst", "tls_inspector"] if mode == "STRICT" else ["original_dst"])


def test_disabled_tls_ignores_validation() -> None:
    state = _mesh(tls=mutual("DISABLED"))
    (chain,) = _listener(state).filter_chains
    assert not chain.HasField("transport_socket")
    assert not messages(state, "blue")[ROUTES].virtual_hosts[0].typed_per_filter_config


def test_placement_moves_the_listener_and_the_application() -> None:
    found = messages(_mesh(), "blue", Placement.parse(ingress="127.0.0.3:15000", app="127.0.0.4"))
    assert "lds_ingress_127.0.0.3_15000" in found
    cluster = found["cds_ingress_demo_blue_http_9080"]
    address = cluster.load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.socket_address
    assert (address.address, address.port_value) == ("127.0.0.4", 9080)


@pytest.mark.parametrize(
    ("written", "request_ms", "idle_ms"),
    [
        (None, 15_000, 300_000),
        ({"http": {"perRequest": {"unit": "ms", "value": 1500}}}, 1500, 300_000),
        ({"http": {"perRequest": {"unit": "s", "value": 0}, "idle": {"unit": "s", "value": 7}}}, 0, 7000),
    ],
)
def test_a_request_has_15_seconds_unless_the_listener_says_otherwise(
    written: dict[str, Any] | None, request_ms: int, idle_ms: int
) -> None:
    listener: dict[str, Any] = {} if written is None else {"timeout": written}
    state = _mesh(**listener)
    route = messages(state, "blue")[ROUTES].virtual_hosts[0].routes[0].route
    assert (route.timeout.ToMilliseconds(), route.idle_timeout.ToMilliseconds()) == (request_ms, idle_ms)
    assert not route.HasField("retry_policy")


def test_a_tcp_connection_is_idle_for_as_long_as_the_listener_says() -> None:
    state = _mesh("tcp", timeout={"tcp": {"idle": {"unit": "s", "value": 9}}})
    proxy = unpacked(_listener(state).filter_chains[0].filters[1].typed_config, tcp_proxy_pb2.TcpProxy)
    assert proxy.idle_timeout.ToMilliseconds() == 9000
    assert proxy.cluster == "cds_ingress_demo_blue_tcp_9080"


@pytest.mark.parametrize(("protocol", "alpn"), [("http", ["h2", "http/1.1"]), ("http2", ["h2"]), ("grpc", ["h2"])])
def test_http2_is_spoken_to_applications_that_do(protocol: str, alpn: list[str]) -> None:
    found = messages(_mesh(protocol), "blue")
    cluster = found[f"cds_ingress_demo_blue_{protocol}_9080"]
    assert bool(cluster.typed_extension_protocol_options) == (protocol != "http")
    assert list(_context(found[LISTENER].filter_chains[0]).common_tls_context.alpn_protocols) == alpn
