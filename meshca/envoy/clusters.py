"""Clusters: to the node's own application, and to the nodes that it calls.

Rules kept here:
- App Mesh's forms: DNS by response type, a trailing dot, its connect timeouts, circuit breakers that never break unless
  a pool is given, health checks and outlier detection at the client.
- A cluster's metadata carries the drain token of the servers behind it: a changed token ends idle and new connections.
"""

from __future__ import annotations

import functools
import ipaddress
from dataclasses import dataclass
from typing import Any

from envoy.config.cluster.v3 import circuit_breaker_pb2, cluster_pb2, outlier_detection_pb2
from envoy.config.core.v3 import address_pb2, base_pb2, health_check_pb2, protocol_pb2
from envoy.config.endpoint.v3 import endpoint_components_pb2, endpoint_pb2
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2
from envoy.type.v3 import http_pb2
from google.protobuf.wrappers_pb2 import UInt32Value

from meshca.envoy.resources import milliseconds, packed
from meshca.mesh.spec.listeners import Listener
from meshca.mesh.spec.transport import ConnectionPool, DnsDiscovery, HealthCheck, OutlierDetection

METADATA = "meshca"
DRAIN = "drain"

_UNLIMITED = 2147483647
_PROTOCOL_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_APP_CONNECT_MS, _NODE_CONNECT_MS = 250, 1000
_HTTP2_PROTOCOLS = ("http2", "grpc")
_LOOKUPS = {
    None: cluster_pb2.Cluster.AUTO,
    "IPv6_PREFERRED": cluster_pb2.Cluster.AUTO,
    "IPv4_PREFERRED": cluster_pb2.Cluster.V4_PREFERRED,
    "IPv4_ONLY": cluster_pb2.Cluster.V4_ONLY,
    "IPv6_ONLY": cluster_pb2.Cluster.V6_ONLY,
}


@dataclass(frozen=True, slots=True)
class NodeCluster:
    """A cluster that leads to another node."""

    name: str
    listener: Listener
    dns: DnsDiscovery | None
    ip_preference: str | None
    drain: str
    transport_socket: Any | None


def app_cluster(name: str, host: str, listener: Listener) -> Any:
    """Return the cluster to the node's own application; the listener's pool limits it."""
    port = listener.port_mapping.port
    cluster = cluster_pb2.Cluster(
        name=name,
        type=cluster_pb2.Cluster.STATIC,
        connect_timeout=milliseconds(_APP_CONNECT_MS),
        circuit_breakers=_breakers(listener.connection_pool),
        load_assignment=_assignment(name, host, port),
    )
    _speak(cluster, listener.port_mapping.protocol)
    return cluster


def node_cluster(plan: NodeCluster) -> Any:
    """Return the cluster to another node; a node without service discovery has no endpoints and answers 503."""
    port = plan.listener.port_mapping.port
    cluster = cluster_pb2.Cluster(
        name=plan.name,
        connect_timeout=milliseconds(_NODE_CONNECT_MS),
        circuit_breakers=_breakers(None),
        transport_socket=plan.transport_socket,
        metadata=_metadata(plan.drain),
    )
    if plan.dns is None:
        cluster.type = cluster_pb2.Cluster.STATIC
        cluster.load_assignment.cluster_name = plan.name
    else:
        _discover(cluster, plan, plan.dns, port)
    _speak(cluster, plan.listener.port_mapping.protocol)
    if plan.listener.health_check is not None and plan.dns is not None:
        cluster.health_checks.append(_health_check(plan.listener.health_check, plan.dns.hostname, port))
        cluster.ignore_health_on_host_removal = True
    if plan.listener.outlier_detection is not None:
        cluster.outlier_detection.CopyFrom(_outliers(plan.listener.outlier_detection))
    return cluster


def _discover(cluster: Any, plan: NodeCluster, dns: DnsDiscovery, port: int) -> None:
    if _is_ip(dns.hostname):
        cluster.type = cluster_pb2.Cluster.STATIC
        cluster.load_assignment.CopyFrom(_assignment(plan.name, dns.hostname, port))
        return
    endpoints = dns.response_type == "ENDPOINTS"
    cluster.type = cluster_pb2.Cluster.STRICT_DNS if endpoints else cluster_pb2.Cluster.LOGICAL_DNS
    cluster.dns_lookup_family = _LOOKUPS[plan.ip_preference]
    cluster.load_assignment.CopyFrom(_assignment(plan.name, _absolute(dns.hostname), port))


def _absolute(hostname: str) -> str:
    # A single label ("localhost", a container's name) is found in hosts files and search domains only without the dot.
    return f"{hostname}." if "." in hostname and not hostname.endswith(".") else hostname


@functools.lru_cache(maxsize=4096)
def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


@functools.lru_cache(maxsize=8192)
def _assignment(name: str, host: str, port: int) -> Any:
    socket = address_pb2.SocketAddress(address=host, port_value=port)
    endpoint = endpoint_components_pb2.Endpoint(address=address_pb2.Address(socket_address=socket))
    return endpoint_pb2.ClusterLoadAssignment(
        cluster_name=name,
        endpoints=[
            endpoint_components_pb2.LocalityLbEndpoints(
                lb_endpoints=[endpoint_components_pb2.LbEndpoint(endpoint=endpoint)]
            )
        ],
    )


@functools.lru_cache(maxsize=1024)
def _metadata(drain: str) -> Any:
    metadata = base_pb2.Metadata()
    metadata.filter_metadata[METADATA].update({DRAIN: drain})
    return metadata


@functools.lru_cache(maxsize=256)
def _breakers(pool: ConnectionPool | None) -> Any:
    """Return the limits of a pool; what it does not limit is unlimited, as App Mesh wrote it since 2020."""
    limits = {"max_connections": _UNLIMITED, "max_pending_requests": _UNLIMITED, "max_requests": _UNLIMITED}
    if pool is not None:
        limits.update(getattr(pool, pool.chosen).model_dump())
    return circuit_breaker_pb2.CircuitBreakers(
        thresholds=[
            circuit_breaker_pb2.CircuitBreakers.Thresholds(
                max_retries=UInt32Value(value=_UNLIMITED),
                **{field: UInt32Value(value=min(limit, _UNLIMITED)) for field, limit in limits.items()},
            )
        ]
    )


def _speak(cluster: Any, protocol: str) -> None:
    if protocol in _HTTP2_PROTOCOLS:
        cluster.typed_extension_protocol_options[_PROTOCOL_OPTIONS].CopyFrom(_http2())


@functools.cache
def _http2() -> Any:
    explicit = http_protocol_options_pb2.HttpProtocolOptions.ExplicitHttpConfig(
        http2_protocol_options=protocol_pb2.Http2ProtocolOptions()
    )
    return packed(http_protocol_options_pb2.HttpProtocolOptions(explicit_http_config=explicit))


def _health_check(check: HealthCheck, hostname: str, port: int) -> Any:
    message = health_check_pb2.HealthCheck(
        timeout=milliseconds(check.timeout_millis),
        interval=milliseconds(check.interval_millis),
        unhealthy_threshold=UInt32Value(value=check.unhealthy_threshold),
        healthy_threshold=UInt32Value(value=check.healthy_threshold),
        alt_port=UInt32Value(value=check.port or port),
    )
    if check.protocol == "tcp":
        message.tcp_health_check.SetInParent()
    elif check.protocol == "grpc":
        message.grpc_health_check.SetInParent()
    else:
        message.http_health_check.host = f"{hostname}:{port}"
        message.http_health_check.path = check.path or "/"
        if check.protocol == "http2":
            message.http_health_check.codec_client_type = http_pb2.HTTP2
    return message


def _outliers(outliers: OutlierDetection) -> Any:
    return outlier_detection_pb2.OutlierDetection(
        consecutive_5xx=UInt32Value(value=outliers.max_server_errors),
        interval=milliseconds(outliers.interval.milliseconds),
        base_ejection_time=milliseconds(outliers.base_ejection_duration.milliseconds),
        max_ejection_percent=UInt32Value(value=outliers.max_ejection_percent),
        enforcing_consecutive_5xx=UInt32Value(value=100),
    )
