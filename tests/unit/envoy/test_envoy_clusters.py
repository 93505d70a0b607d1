from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from envoy_binary import require_valid

from meshca.envoy import clusters
from meshca.envoy.clusters import NodeCluster
from meshca.envoy.documents import Bootstrap, static
from meshca.envoy.resources import generated
from meshca.mesh.spec.listeners import Listener
from meshca.mesh.spec.transport import DnsDiscovery

UNLIMITED = 2147483647
SECONDS = {"unit": "s", "value": 10}
OUTLIERS = {"maxServerErrors": 5, "interval": SECONDS, "baseEjectionDuration": SECONDS, "maxEjectionPercent": 50}
POOLS = {
    "http": {"maxConnections": 10, "maxPendingRequests": 5},
    "http2": {"maxRequests": 7},
    "grpc": {"maxRequests": 7},
    "tcp": {"maxConnections": 3},
}


def _check(protocol: str, **change: Any) -> dict[str, Any]:
    thresholds = {"healthyThreshold": 2, "unhealthyThreshold": 3, "intervalMillis": 5000, "timeoutMillis": 2000}
    return {"protocol": protocol, **thresholds, **change}


def _listener(protocol: str, **parts: Any) -> Listener:
    return Listener.model_validate({"portMapping": {"port": 9080, "protocol": protocol}, **parts})


def _to_node(listener: Listener, hostname: str = "blue.apps.local") -> Any:
    return clusters.node_cluster(NodeCluster("c", listener, DnsDiscovery(hostname=hostname), hostname, None, "0"))


@pytest.mark.parametrize(
    ("protocol", "limits"),
    [
        ("http", (10, 5, UNLIMITED)),
        ("http2", (UNLIMITED, UNLIMITED, 7)),
        ("grpc", (UNLIMITED, UNLIMITED, 7)),
        ("tcp", (3, UNLIMITED, UNLIMITED)),
    ],
)
def test_a_listeners_pool_limits_the_cluster_to_its_application(protocol: str, limits: tuple[int, int, int]) -> None:
    listener = _listener(protocol, connectionPool={protocol: POOLS[protocol]})
    (found,) = clusters.app_cluster("c", "127.0.0.1", listener).circuit_breakers.thresholds
    assert (found.max_connections.value, found.max_pending_requests.value, found.max_requests.value) == limits
    assert found.max_retries.value == UNLIMITED


def test_without_a_pool_nothing_is_limited() -> None:
    (found,) = _to_node(_listener("http")).circuit_breakers.thresholds
    limits = (found.max_connections, found.max_pending_requests, found.max_requests, found.max_retries)
    assert {limit.value for limit in limits} == {UNLIMITED}


@pytest.mark.parametrize(
    ("protocol", "kind"),
    [
        ("http", "http_health_check"),
        ("http2", "http_health_check"),
        ("grpc", "grpc_health_check"),
        ("tcp", "tcp_health_check"),
    ],
)
def test_a_health_check_is_the_clients(protocol: str, kind: str) -> None:
    (check,) = _to_node(_listener("http", healthCheck=_check(protocol))).health_checks
    assert check.WhichOneof("health_checker") == kind
    assert (check.interval.ToMilliseconds(), check.timeout.ToMilliseconds(), check.alt_port.value) == (5000, 2000, 9080)
    assert (check.healthy_threshold.value, check.unhealthy_threshold.value) == (2, 3)


def test_an_http_health_check_asks_the_path_at_the_discovery_name() -> None:
    (check,) = _to_node(_listener("http", healthCheck=_check("http", path="/ping"))).health_checks
    assert (check.http_health_check.host, check.http_health_check.path) == ("blue.apps.local:9080", "/ping")


def test_outliers_are_the_clients_to_watch() -> None:
    found = _to_node(_listener("http", outlierDetection=OUTLIERS)).outlier_detection
    assert (found.consecutive_5xx.value, found.max_ejection_percent.value) == (5, 50)
    assert (found.interval.ToMilliseconds(), found.base_ejection_time.ToMilliseconds()) == (10_000, 10_000)


@pytest.mark.parametrize("protocol", ["http", "http2", "grpc", "tcp"])
def test_the_real_envoy_accepts_all_of_it(protocol: str, tmp_path: Path) -> None:
    listener = _listener(
        protocol,
        healthCheck=_check(protocol, path="/ping"),
        outlierDetection=OUTLIERS,
        connectionPool={protocol: POOLS[protocol]},
    )
    built = [_to_node(listener), clusters.app_cluster("app", "127.0.0.1", listener)]
    require_valid(static([generated(one) for one in built], Bootstrap("mesh/m/virtualNode/n", "/none")), tmp_path)
