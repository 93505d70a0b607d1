"""Whether what one Envoy would be sent is whole, and which secrets it leads to: read from the bytes themselves.

Rules: every route table that a listener names is there, every cluster that a route or listener names, and the endpoints
of every cluster that waits for them. Secrets are served by name, whatever the name, and are only listed.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as _http
from envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2 as _tcp
from envoy.extensions.transport_sockets.tls.v3 import tls_pb2 as _tls
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2 as _options
from google.protobuf.any_pb2 import Any as Packed
from google.protobuf.message import Message

from meshca.delivery.generated import ByType
from meshca.errors import ConflictError
from meshca.xds.resource import CDS, EDS, LDS, RDS, SDS, Resource

_TYPES: dict[str, Any] = {LDS: listener_pb2.Listener, CDS: cluster_pb2.Cluster, RDS: route_pb2.RouteConfiguration}
_CACHED = 1024
# Importing them makes their types known, so that what an Any holds can be read.
_KNOWN = (_http, _tcp, _tls, _options)


class InconsistentSnapshotError(ConflictError):
    """A part of what an Envoy would be sent leads to one that is not there."""


class Reference(NamedTuple):
    """What one resource needs of another."""

    type_url: str
    name: str


def require_whole(by_type: ByType) -> None:
    """Raise ``InconsistentSnapshotError``, which names what is missing, unless every reference leads somewhere."""
    for found in by_type.values():
        for resource in found.values():
            for wanted in references(resource):
                if wanted.type_url != SDS and wanted.name not in by_type.get(wanted.type_url, {}):
                    kind = wanted.type_url.rpartition(".")[2]
                    raise InconsistentSnapshotError(
                        f"{resource.type_url.rpartition('.')[2]} {resource.name} leads to a {kind} that is not there",
                        value=wanted.name,
                        remedy="nothing was changed; this is a fault of meshca's generator, please report it",
                    )


def secrets_of(by_type: ByType) -> frozenset[str]:
    """Return the names of the secrets that the resources lead to."""
    every = (resource for found in by_type.values() for resource in found.values())
    return frozenset(wanted.name for resource in every for wanted in references(resource) if wanted.type_url == SDS)


def references(resource: Resource) -> frozenset[Reference]:
    """Return what a resource needs of others."""
    return _references(resource.type_url, resource.body)


@functools.lru_cache(maxsize=_CACHED)
def _references(type_url: str, body: bytes) -> frozenset[Reference]:
    shape = _TYPES.get(type_url)
    return frozenset(_walk(shape.FromString(body))) if shape is not None else frozenset()


def _walk(message: Message) -> Iterator[Reference]:
    yield from _own(message)
    for _, value in message.ListFields():
        for part in _parts(value):
            if isinstance(part, Packed):
                inner = _unpacked(part)
                if inner is not None:
                    yield from _walk(inner)
            elif isinstance(part, Message):
                yield from _walk(part)


def _parts(value: Any) -> Any:
    if isinstance(value, Message):
        return (value,)
    if isinstance(value, str | bytes | bool | int | float):
        return ()
    return value.values() if hasattr(value, "values") else value


def _own(message: Any) -> Iterator[Reference]:
    match message.DESCRIPTOR.name:
        case "SdsSecretConfig":
            yield Reference(SDS, message.name)
        case "Rds":
            yield Reference(RDS, message.route_config_name)
        case "RouteAction" | "TcpProxy" if message.cluster:
            yield Reference(CDS, message.cluster)
        case "ClusterWeight":
            yield Reference(CDS, message.name)
        case "Cluster" if message.type == cluster_pb2.Cluster.EDS:
            yield Reference(EDS, message.eds_cluster_config.service_name or message.name)


def _unpacked(packed: Packed) -> Message | None:
    from google.protobuf import symbol_database

    try:
        shape = symbol_database.Default().GetSymbol(packed.type_url.rpartition("/")[2])
    except KeyError:
        return None
    inner: Message = shape.FromString(packed.value)
    return inner
