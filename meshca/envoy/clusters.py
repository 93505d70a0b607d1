"""Clusters: to the node's own application, and to the nodes that it calls.

Rules kept here:
- App Mesh's forms: DNS by response type, a trailing dot, its connect timeouts, circuit breakers that never break unless
  a pool is given, health checks and outlier detection at the client.
- A node that no DNS finds has its endpoints by EDS (endpoints.py).
- A cluster's metadata carries the drain token of the servers behind it: a changed token ends idle and new connections.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from envoy.config.cluster.v3 import circuit_breaker_pb2, cluster_pb2, outlier_detection_pb2
from envoy.config.core.v3 import base_pb2, health_check_pb2, protocol_pb2
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2
from envoy.type.v3 import http_pb2
from google.protobuf.wrappers_pb2 import UInt32Value

from meshca.envoy import families, names, wire
from meshca.envoy.endpoints import assignment
from meshca.envoy.resources import CLUSTER, Generated, milliseconds, packed, serialised
from meshca.envoy.tls import ads_source
from meshca.mesh.spec.base import OneOf
from meshca.mesh.spec.listeners import Listener
from meshca.mesh.spec.transport import DnsDiscovery, HealthCheck, OutlierDetection

METADATA = "meshca"
DRAIN = "drain"

_UNLIMITED = 2147483647
_TRANSPORT_SOCKET = 24  # field of envoy.config.cluster.v3.Cluster
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


Limits = tuple[tuple[str, int], ...]
"""What a pool limits, and to how much."""


@dataclass(frozen=True, slots=True)
class NodeCluster:
    """A cluster that leads to another node."""

    name: str
    listener: Listener
    dns: DnsDiscovery | None
    """Without DNS the endpoints come by EDS."""
    host: str
    """What the node is called there."""
    ip_preference: str | None
    drain: str
    limits: Limits = ()


class Shared:
    """A cluster's bytes with a hole where each caller says who it is (SNI); the rest is the same for all of them."""

    __slots__ = ("_after", "_before", "_hole", "name")

    def __init__(self, cluster: Any, transport_socket: Callable[[str], bytes] | None) -> None:
        self.name: str = cluster.name
        head, tail = wire.split(serialised(cluster), _TRANSPORT_SOCKET)
        # Every SNI is as long as this one, so that the lengths that stand before the hole are the same as well.
        socket = wire.message(_TRANSPORT_SOCKET, transport_socket(names.NO_SNI)) if transport_socket else b""
        self._before, self._hole, self._after = (head + socket + tail).partition(names.NO_SNI.encode())

    def cluster(self, sni: bytes) -> Generated:
        """Return the cluster of one caller."""
        body = self._before + sni + self._after if self._hole else self._before
        return Generated(CLUSTER, self.name, body)


def app_cluster(name: str, host: str, listener: Listener) -> Any:
    """Return the cluster to the node's own application; the listener's pool limits it."""
    port = listener.port_mapping.port
    cluster = cluster_pb2.Cluster(
        name=name,
        type=cluster_pb2.Cluster.STATIC,
        connect_timeout=milliseconds(_APP_CONNECT_MS),
        circuit_breakers=_breakers(limits(listener.connection_pool)),
        load_assignment=assignment(name, ((host, port),)),
    )
    _speak(cluster, listener.port_mapping.protocol)
    return cluster


def node_cluster(plan: NodeCluster) -> Any:
    """Return the cluster to another node, without a transport socket."""
    port = plan.listener.port_mapping.port
    cluster = cluster_pb2.Cluster(
        name=plan.name,
        connect_timeout=milliseconds(_NODE_CONNECT_MS),
        circuit_breakers=_breakers(plan.limits),
        metadata=_metadata(plan.drain),
    )
    if plan.dns is None:
        cluster.type = cluster_pb2.Cluster.EDS
        cluster.eds_cluster_config.eds_config.CopyFrom(ads_source())
    else:
        _discover(cluster, plan, plan.dns, port)
    _speak(cluster, plan.listener.port_mapping.protocol)
    if plan.listener.health_check is not None:
        cluster.health_checks.append(_health_check(plan.listener.health_check, plan.host, port))
        cluster.ignore_health_on_host_removal = True
    if plan.listener.outlier_detection is not None:
        cluster.outlier_detection.CopyFrom(_outliers(plan.listener.outlier_detection))
    return cluster


def _discover(cluster: Any, plan: NodeCluster, dns: DnsDiscovery, port: int) -> None:
    if families.version(dns.hostname) is not None:
        cluster.type = cluster_pb2.Cluster.STATIC
        cluster.load_assignment.CopyFrom(assignment(plan.name, ((dns.hostname, port),)))
        return
    endpoints = dns.response_type == "ENDPOINTS"
    cluster.type = cluster_pb2.Cluster.STRICT_DNS if endpoints else cluster_pb2.Cluster.LOGICAL_DNS
    cluster.dns_lookup_family = _LOOKUPS[plan.ip_preference]
    cluster.load_assignment.CopyFrom(assignment(plan.name, ((_absolute(dns.hostname), port),)))


def _absolute(hostname: str) -> str:
    # A single label ("localhost", a container's name) is found in hosts files and search domains only without the dot.
    return f"{hostname}." if "." in hostname and not hostname.endswith(".") else hostname


def anywhere(name: str) -> Any:
    """Return the cluster that leads where an intercepted connection was going, in the protocol that it speaks."""
    cluster = cluster_pb2.Cluster(
        name=name,
        type=cluster_pb2.Cluster.ORIGINAL_DST,
        lb_policy=cluster_pb2.Cluster.CLUSTER_PROVIDED,
        connect_timeout=milliseconds(_NODE_CONNECT_MS),
        circuit_breakers=_breakers(()),
    )
    cluster.typed_extension_protocol_options[_PROTOCOL_OPTIONS].CopyFrom(_as_downstream())
    return cluster


def limits(pool: OneOf | None) -> Limits:
    """Return what a connection pool limits."""
    return () if pool is None else tuple(getattr(pool, pool.chosen).model_dump().items())


@functools.lru_cache(maxsize=1024)
def _metadata(drain: str) -> Any:
    metadata = base_pb2.Metadata()
    metadata.filter_metadata[METADATA].update({DRAIN: drain})
    return metadata


@functools.lru_cache(maxsize=256)
def _breakers(limited: Limits) -> Any:
    """Return the limits of a pool; what it does not limit is unlimited, as App Mesh wrote it since 2020."""
    every = {"max_connections": _UNLIMITED, "max_pending_requests": _UNLIMITED, "max_requests": _UNLIMITED}
    every.update(limited)
    return circuit_breaker_pb2.CircuitBreakers(
        thresholds=[
            circuit_breaker_pb2.CircuitBreakers.Thresholds(
                max_retries=UInt32Value(value=_UNLIMITED),
                **{field: UInt32Value(value=min(limit, _UNLIMITED)) for field, limit in every.items()},
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


@functools.cache
def _as_downstream() -> Any:
    either = http_protocol_options_pb2.HttpProtocolOptions.UseDownstreamHttpConfig(
        http_protocol_options=protocol_pb2.Http1ProtocolOptions(),
        http2_protocol_options=protocol_pb2.Http2ProtocolOptions(),
    )
    return packed(http_protocol_options_pb2.HttpProtocolOptions(use_downstream_protocol_config=either))


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
