"""One mesh with every shape that a spec can have: what is rendered of it is given to the real Envoy."""

from __future__ import annotations

from typing import Any

from envoy_meshes import client, entry, gateway, gateway_route, made, mutual, route, router, server, service, snapshot

from meshca.envoy.snapshot import Snapshot
from meshca.mesh.model import MeshObject

_CHECK = {"healthyThreshold": 2, "unhealthyThreshold": 3, "intervalMillis": 5000, "timeoutMillis": 2000}
_SECONDS = {"unit": "s", "value": 5}
_OUTLIERS = {"maxServerErrors": 5, "interval": _SECONDS, "baseEjectionDuration": _SECONDS, "maxEjectionPercent": 50}
RETRY = {
    "maxRetries": 3,
    "perRetryTimeout": {"unit": "ms", "value": 2000},
    "httpRetryEvents": ["server-error", "gateway-error", "client-error", "stream-error"],
    "tcpRetryEvents": ["connection-error"],
}
GRPC_RETRY = {
    **RETRY,
    "grpcRetryEvents": ["cancelled", "deadline-exceeded", "internal", "resource-exhausted", "unavailable"],
}
VALUES: list[dict[str, Any]] = [
    {"exact": "v"}, {"prefix": "v"}, {"suffix": "v"}, {"regex": "^v.*"}, {"range": {"start": 1, "end": 100}},
]  # fmt: skip
HEADERS = [{"name": f"x-{index}", "match": match, "invert": bool(index % 2)} for index, match in enumerate(VALUES)]
QUERY = [{"name": "q", "match": {"exact": "nemo"}}, {"name": "r"}]
TEXT_LOG = {"accessLog": {"file": {"path": "/dev/stdout", "format": {"text": "%PROTOCOL%"}}}}


def many() -> MeshObject:
    """Return a node with a listener of each protocol and mode."""
    listeners = [
        entry(8001, "http", tls=mutual(), healthCheck={**_CHECK, "protocol": "http", "path": "/ping"}),
        entry(8002, "http2", tls=mutual("PERMISSIVE"), outlierDetection=_OUTLIERS),
        entry(8003, "grpc", tls=mutual("DISABLED"), healthCheck={**_CHECK, "protocol": "grpc"}),
        entry(8004, "tcp", tls=mutual("PERMISSIVE"), healthCheck={**_CHECK, "protocol": "tcp"}),
        entry(8005, "http", connectionPool={"http": {"maxConnections": 3, "maxPendingRequests": 1}}),
        entry(8006, "http", tls=mutual("PERMISSIVE", None)),
        entry(8007, "tcp"),
    ]
    discovery = {"dns": {"hostname": "many.apps.local", "responseType": "ENDPOINTS", "ipPreference": "IPv4_ONLY"}}
    return made("virtualNode", "many", {"listeners": listeners, "serviceDiscovery": discovery})


def _routed() -> list[MeshObject]:
    def to(name: str, weights: dict[str, int], match: dict[str, Any], kind: str = "httpRoute", **spec: Any) -> Any:
        parent = {"httpRoute": "r", "http2Route": "r", "grpcRoute": "rg", "tcpRoute": "rt"}[kind]
        return route(parent, name, weights, kind, match=match, **spec)

    ports = {"port": 8080}
    return [
        router("r", "http", 8080, 8081),
        to("exact", {"blue": 1}, {"path": {"exact": "/color"}, "method": "GET", "headers": HEADERS, **ports}),
        to("regex", {"blue": 1}, {"path": {"regex": "/c[a-z]+/[0-9]+"}, "queryParameters": QUERY, **ports}),
        to("scheme", {"blue": 1, "cloud": 3}, {"prefix": "/s", "scheme": "http", **ports}, priority=0),
        to("h2", {"blue": 1}, {"prefix": "/h2", "headers": [{"name": "p"}], **ports}, "http2Route", retryPolicy=RETRY),
        to("zero", {"blue": 0}, {"prefix": "/zero", **ports}),
        to("port", {"cloud": 1}, {"port": 8081}, timeout={"perRequest": _SECONDS, "idle": _SECONDS}),
        router("rg", "grpc", 50051),
        to("method", {"g": 1}, {"serviceName": "s.S", "methodName": "M", "metadata": HEADERS}, "grpcRoute"),
        to("service", {"g": 1}, {"serviceName": "s.S"}, "grpcRoute", retryPolicy=GRPC_RETRY),
        router("rt", "tcp", 5432, 5433),
        _tcp("t", {"db": 1, "lost": 2}, 5432),
        _tcp("u", {"db": 1}, 5433),
    ]


def _tcp(name: str, weights: dict[str, int], port: int) -> MeshObject:
    targets = [{"virtualNode": node, "weight": weight} for node, weight in weights.items()]
    return made("route", name, {"tcpRoute": {"match": {"port": port}, "action": {"weightedTargets": targets}}}, "rt")


def _gateways() -> list[MeshObject]:
    off = {"hostname": {"defaultTargetHostname": "DISABLED"}, "prefix": {"defaultPrefix": "DISABLED"}}
    port = {"port": 8080}
    host = {"exact": "www.example.com"}
    return [
        gateway("gw", entry(8088, "http", tls=mutual(), connectionPool={"http": {"maxConnections": 9}}),
                entry(8089, "grpc", tls=mutual("PERMISSIVE", None), connectionPool={"grpc": {"maxRequests": 9}}),
                logging=TEXT_LOG),
        gateway_route("default", "color", {"prefix": "/chapter"}, target=port),
        gateway_route("kept", "color", {"prefix": "/c", "queryParameters": QUERY, "method": "GET"}, rewrite=off,
                      target=port),
        gateway_route("value", "color", {"prefix": "/m/"}, rewrite={"prefix": {"value": "/color/"}}, target=port),
        gateway_route("path", "p", {"path": {"exact": "/e"}, "hostname": host}, rewrite={"path": {"exact": "/n\\1"}}),
        gateway_route("regex", "p", {"path": {"regex": "/r.*"}}, rewrite={"path": {"exact": "/n"}}, priority=3),
        gateway_route("suffix", "p", {"hostname": {"suffix": ".example.com"}, "headers": HEADERS}),
        gateway_route("h2", "p", {"prefix": "/", "port": 8088}, "http2Route"),
        gateway_route("rpc", "g", {"serviceName": "s.S", "metadata": HEADERS, "port": 8089}, "grpcRoute"),
        gateway_route("none", "none", {"prefix": "/none"}),
    ]  # fmt: skip


def every_shape(mesh: dict[str, Any] | None = None) -> Snapshot:
    """Return the mesh."""
    return snapshot(
        server("blue", "http", tls=mutual()),
        server("db", "tcp", 5400, mutual()),
        server("g", "grpc", 50051, mutual(names=None)),
        server("plain", "http2", 80),
        many(),
        made("virtualNode", "cloud", {"listeners": [entry(9090, tls=mutual())], "serviceDiscovery": {
            "awsCloudMap": {"namespaceName": "ns", "serviceName": "cloud"}}}),
        made("virtualNode", "lost", {"listeners": [entry(5400, "tcp")]}),
        *_routed(),
        *_gateways(),
        service("color", router="r"), service("db", router="rt"), service("g", router="rg"),
        service("p", node="plain"), service("blue", node="blue"), service("none"), service("many", node="many"),
        client("front", "color", "db", "g", "p", "blue", "none", "many", logging=TEXT_LOG),
        client("idle"),
        mesh=mesh,
        endpoints={"cloud": (("10.0.0.1", None), ("fd00::1", 9999)), "lost": (("10.0.0.2", None),)},
    )  # fmt: skip
