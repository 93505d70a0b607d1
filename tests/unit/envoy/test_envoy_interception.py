from __future__ import annotations

from typing import Any

import pytest
from envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2
from envoy_meshes import (
    client,
    entry,
    made,
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

INTERCEPTED = Placement(intercepted=True)
ALLOW = {"egressFilter": {"type": "ALLOW_ALL"}}
BLUE = server("blue", tls=mutual())
INGRESS, EGRESS = "lds_ingress_0.0.0.0_15000", "lds_egress_127.0.0.1_15001"


def _front(*objects: MeshObject, services: tuple[str, ...] = ("color",), **state: Any) -> dict[str, Any]:
    return messages(snapshot(*objects, client("front", *services), **state), "front", INTERCEPTED)


def _own(*listeners: dict[str, Any], callers: tuple[str, ...] = ("front",), **state: Any) -> dict[str, Any]:
    own = made("virtualNode", "own", {"listeners": list(listeners)})
    clients = [client(name, "own") for name in callers]
    return messages(snapshot(own, service("own", node="own"), *clients, **state), "own", INTERCEPTED)


def test_all_listeners_are_chains_of_one_chosen_by_port() -> None:
    found = _own(entry(80, tls=mutual()), entry(81, "tcp"), entry(82))
    front = node_id("front")
    chains = {one.name: one.filter_chain_match for one in found[INGRESS].filter_chains}
    assert {name: match.destination_port.value for name, match in chains.items()} == {
        f"client:{front}@80#0": 80, "clients:80#0": 80, "anyone:81#0": 81, "anyone:82#0": 82,
    }  # fmt: skip
    assert list(chains[f"client:{front}@80#0"].server_names) == [names.sni_for(front)]
    assert [name for name in found if name.startswith("lds_")] == [INGRESS]


def test_tls_is_looked_for_only_where_somebody_speaks_it() -> None:
    plain = _own(entry(81, "tcp"), entry(82))[INGRESS].listener_filters
    assert [one.name.rpartition(".")[2] for one in plain] == ["original_dst"]
    inspector = _own(entry(80, tls=mutual()), entry(81, "tcp"))[INGRESS].listener_filters[1]
    assert (
        inspector.filter_disabled.destination_port_range.start,
        inspector.filter_disabled.destination_port_range.end,
    ) == (81, 82)
    several = _own(entry(80, tls=mutual()), entry(81), entry(82))[INGRESS].listener_filters[1]
    assert [one.destination_port_range.start for one in several.filter_disabled.or_match.rules] == [81, 82]


def test_suspending_and_revoking_a_client_touches_its_own_chains_alone() -> None:
    listeners = (entry(80, tls=mutual()), entry(81, tls=mutual()))
    before = list(_own(*listeners, callers=("front", "other"))[INGRESS].filter_chains)
    epochs = {names.identity_scope(node_id("front")): 1}
    after = list(_own(*listeners, callers=("front", "other"), epochs=epochs)[INGRESS].filter_chains)
    assert [one == two for one, two in zip(before, after, strict=True)] == [False, True, False] * 2


def test_each_backend_port_is_a_chain() -> None:
    objects = (BLUE, server("db", "tcp", 5432), server("web", port=80),
               service("color", node="blue"), service("db", node="db"), service("web", node="web"))  # fmt: skip
    found = _front(*objects, services=("color", "db", "web"))
    chains = {one.name: one.filter_chain_match.destination_port.value for one in found[EGRESS].filter_chains}
    assert chains == {"egress:80#0": 80, "egress:9080#0": 9080, "egress:db:5432#0": 5432}
    assert not found[EGRESS].HasField("default_filter_chain")
    assert list(found["rds_egress_http_80"].virtual_hosts[0].domains) == ["web", "web:80"]


def test_draining_a_server_renames_its_ports_chain_alone() -> None:
    objects = (BLUE, server("web", port=80), service("color", node="blue"), service("web", node="web"))
    before = _front(*objects, services=("color", "web"))[EGRESS].filter_chains
    epochs = {names.identity_scope(node_id("blue")): 1}
    after = _front(*objects, services=("color", "web"), epochs=epochs)[EGRESS].filter_chains
    assert [one.name == two.name for one, two in zip(before, after, strict=True)] == [True, False]


def test_allow_all_leads_where_the_connection_was_going() -> None:
    found = _front(BLUE, service("color", node="blue"), mesh=ALLOW)
    cluster = found["cds_egress_demo_mesh-allow-all"]
    assert cluster.DiscoveryType.Name(cluster.type) == "ORIGINAL_DST"
    proxy = unpacked(found[EGRESS].default_filter_chain.filters[0].typed_config, tcp_proxy_pb2.TcpProxy)
    assert proxy.cluster == "cds_egress_demo_mesh-allow-all"
    last = found["rds_egress_http_9080"].virtual_hosts[-1]
    assert (list(last.domains), last.routes[0].route.cluster) == (["*"], "cds_egress_demo_mesh-allow-all")
    assert last.routes[0].route.timeout.ToMilliseconds() == 0


def test_drop_all_without_backends_listens_nowhere() -> None:
    assert _front(services=()) == {}
    assert set(_front(services=(), mesh=ALLOW)) == {EGRESS, "cds_egress_demo_mesh-allow-all"}


@pytest.mark.parametrize("other", ["tcp", "http"])
def test_two_services_that_only_the_port_could_tell_apart_are_an_error(other: str) -> None:
    objects = (server("a", "tcp", 80), server("b", other, 80), service("a", node="a"), service("b", node="b"))
    with pytest.raises(ConflictError, match="nothing but the port"):
        _front(*objects, services=("a", "b"))


def test_a_tcp_service_without_weight_is_no_chain() -> None:
    objects = (
        server("a", "tcp"),
        router("r", "tcp"),
        service("color", router="r"),
        route("r", "t", {"a": 0}, "tcpRoute"),
    )
    assert EGRESS not in _front(*objects)
