"""Whether what one Envoy is to be sent is whole: checked on the bytes themselves, before anybody sees them.

Rules kept here:
- C1 A resource exists once.
- C2 Every route table that a listener names is there, and no other; every cluster that a listener or a route names is
  there.
- C3 A cluster that gets its endpoints by EDS has an assignment under its name, and no other cluster has.
- C4 Every secret that a listener or cluster names is one that SDS answers (names.py).
- What cannot be read is not passed.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.listener.v3 import listener_components_pb2
from envoy.config.route.v3 import route_components_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2
from envoy.extensions.transport_sockets.tls.v3 import tls_pb2

from meshca.envoy import wire
from meshca.envoy.names import parse_secret_name
from meshca.envoy.resources import CLUSTER, ENDPOINTS, LISTENER, ROUTES, SECRET, Generated
from meshca.errors import MeshcaError

# Field numbers: chains and default chain of a Listener, hosts of a RouteConfiguration, common part of a TLS context.
_CHAINS, _HOSTS, _COMMON = (3, 25), 2, 1
_EDS = cluster_pb2.Cluster.EDS
_MANAGER = "HttpConnectionManager"
_PROXY = "TcpProxy"


class InconsistentSnapshotError(MeshcaError):
    """A part of a snapshot leads to one that is not there; it is not sent to anybody."""


class Reference(NamedTuple):
    """What one resource needs of another."""

    type_url: str
    name: str


def require_consistent(resources: Collection[Generated]) -> None:
    """Raise ``InconsistentSnapshotError``, which names what is missing, unless every reference leads somewhere."""
    present = {Reference(one.type_url, one.name) for one in resources}
    if len(present) != len(resources):
        raise InconsistentSnapshotError("a resource is there twice", value=_twice(resources))
    wanted: set[Reference] = set()
    for resource in resources:
        for reference in references(resource):
            if reference.type_url != SECRET and reference not in present:
                raise _missing(resource, reference)
            wanted.add(reference)
    for type_url in (ROUTES, ENDPOINTS):
        if unused := sorted(name for kind, name in present - wanted if kind == type_url):
            raise InconsistentSnapshotError("nothing leads to it", field=_short(type_url), value=unused[0])


def references(resource: Generated) -> Collection[Reference]:
    """Return what a resource needs of others.

    Raises:
        SecretNameError: it names a secret that SDS does not know.
    """
    if resource.type_url == CLUSTER:
        return tuple(_of_cluster(resource))
    if resource.type_url == LISTENER:
        return frozenset(_of_listener(resource))
    return frozenset(_of_routes(resource)) if resource.type_url == ROUTES else ()


def _of_cluster(resource: Generated) -> Iterator[Reference]:
    cluster = cluster_pb2.Cluster.FromString(resource.body)
    if cluster.type == _EDS:
        yield Reference(ENDPOINTS, cluster.eds_cluster_config.service_name or cluster.name)
    if cluster.HasField("transport_socket"):
        yield from _of_context(cluster.transport_socket.typed_config.value)


def _of_listener(resource: Generated) -> Iterator[Reference]:
    for field in _CHAINS:
        for chain in wire.contents(resource.body, field):
            yield from _of_chain(chain)


@functools.lru_cache(maxsize=65536)
def _of_chain(body: bytes) -> tuple[Reference, ...]:
    chain = listener_components_pb2.FilterChain.FromString(body)
    found = [one for own in chain.filters for one in _of_filter(own.typed_config.type_url, own.typed_config.value)]
    if chain.HasField("transport_socket"):
        found += _of_context(chain.transport_socket.typed_config.value)
    return tuple(found)


def _of_context(body: bytes) -> Iterator[Reference]:
    """Return the secrets of a TLS context; what callers share of it comes first, in either direction."""
    for common in wire.contents(body, _COMMON):
        yield from _of_common(common)


@functools.lru_cache(maxsize=65536)
def _of_common(body: bytes) -> tuple[Reference, ...]:
    return tuple(_secrets(tls_pb2.CommonTlsContext.FromString(body)))


@functools.lru_cache(maxsize=65536)
def _of_filter(type_url: str, body: bytes) -> tuple[Reference, ...]:
    kind = type_url.rpartition(".")[2]
    if kind == _MANAGER:
        manager = http_connection_manager_pb2.HttpConnectionManager.FromString(body)
        return (Reference(ROUTES, manager.rds.route_config_name),)
    if kind == _PROXY:
        proxy = tcp_proxy_pb2.TcpProxy.FromString(body)
        names = [proxy.cluster] if proxy.cluster else [one.name for one in proxy.weighted_clusters.clusters]
        return tuple(Reference(CLUSTER, name) for name in names)
    return ()


def _of_routes(resource: Generated) -> Iterator[Reference]:
    for host in wire.contents(resource.body, _HOSTS):
        yield from _of_host(host)


@functools.lru_cache(maxsize=65536)
def _of_host(body: bytes) -> tuple[Reference, ...]:
    routes = [one.route for one in route_components_pb2.VirtualHost.FromString(body).routes if one.HasField("route")]
    return tuple(Reference(CLUSTER, name) for action in routes for name in _clusters(action))


def _clusters(action: route_components_pb2.RouteAction) -> Iterable[str]:
    if action.HasField("weighted_clusters"):
        return [one.name for one in action.weighted_clusters.clusters]
    return [action.cluster]


def _secrets(common: tls_pb2.CommonTlsContext) -> Iterator[Reference]:
    named = [*common.tls_certificate_sds_secret_configs]
    if common.HasField("validation_context_sds_secret_config"):
        named.append(common.validation_context_sds_secret_config)
    for config in named:
        _require_secret_name(config.name)
        yield Reference(SECRET, config.name)


@functools.lru_cache(maxsize=65536)
def _require_secret_name(name: str) -> None:
    parse_secret_name(name)


def _missing(resource: Generated, reference: Reference) -> InconsistentSnapshotError:
    return InconsistentSnapshotError(
        f"{_short(resource.type_url)} {resource.name} leads to a {_short(reference.type_url)} that is not there",
        value=reference.name,
    )


def _twice(resources: Collection[Generated]) -> str:
    seen: set[Reference] = set()
    for one in resources:
        if (key := Reference(one.type_url, one.name)) in seen:
            return key.name
        seen.add(key)
    return ""


def _short(type_url: str) -> str:
    return type_url.rpartition(".")[2]
