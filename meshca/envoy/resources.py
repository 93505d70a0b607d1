"""What the generator hands over: named, typed, serialised resources.

Rules kept here:
- Serialisation is deterministic, nested messages included: the same inputs give the same bytes, so that a content hash
  tells whether anything changed.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

from google.protobuf.any_pb2 import Any as PackedMessage
from google.protobuf.duration_pb2 import Duration

_PREFIX = "type.googleapis.com/"

CLUSTER = f"{_PREFIX}envoy.config.cluster.v3.Cluster"
ENDPOINTS = f"{_PREFIX}envoy.config.endpoint.v3.ClusterLoadAssignment"
LISTENER = f"{_PREFIX}envoy.config.listener.v3.Listener"
ROUTES = f"{_PREFIX}envoy.config.route.v3.RouteConfiguration"
SECRET = f"{_PREFIX}envoy.extensions.transport_sockets.tls.v3.Secret"


class Generated(NamedTuple):
    """One resource as it goes over the wire."""

    type_url: str
    name: str
    body: bytes


Resources = tuple[Generated, ...]
"""All resources of one node, in the order in which ADS sends their types: CDS, EDS, LDS, RDS."""


def generated(message: Any) -> Generated:
    """Return a resource message, which has a ``name``, in its wire form."""
    return Generated(_PREFIX + message.DESCRIPTOR.full_name, message.name, serialised(message))


def packed(message: Any) -> PackedMessage:
    """Return a message as the Any of an extension point."""
    return PackedMessage(type_url=_PREFIX + message.DESCRIPTOR.full_name, value=serialised(message))


def serialised(message: Any) -> bytes:
    """Return the deterministic bytes of a message."""
    return bytes(message.SerializeToString(deterministic=True))


@functools.lru_cache(maxsize=1024)
def milliseconds(value: int) -> Duration:
    """Return a protobuf duration."""
    return Duration(seconds=value // 1000, nanos=value % 1000 * 1_000_000)
