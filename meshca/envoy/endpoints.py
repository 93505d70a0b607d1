"""Endpoints of nodes that no DNS finds: those in Cloud Map, and those without service discovery.

Rules kept here:
- Whoever knows them tells meshca (`endpoint add`); a node of which nobody has told any has none, and answers 503.
- Without a port of its own an endpoint is at its listener's. Where a node has several listeners, an endpoint with a
  port is that listener's alone.
- Envoy takes IP addresses here and resolves nothing.
"""

from __future__ import annotations

import functools

from envoy.config.core.v3 import address_pb2
from envoy.config.endpoint.v3 import endpoint_components_pb2, endpoint_pb2

from meshca.envoy.families import IPV4_ONLY, IPV6_ONLY, version
from meshca.envoy.resources import ENDPOINTS, Generated, serialised
from meshca.envoy.snapshot import Endpoint
from meshca.errors import ConflictError
from meshca.mesh.model import VirtualNode

_ALONE = {IPV4_ONLY: 4, IPV6_ONLY: 6}


def assignment(cluster: str, addresses: tuple[tuple[str, int], ...]) -> endpoint_pb2.ClusterLoadAssignment:
    """Return the endpoints of a cluster."""
    made = endpoint_pb2.ClusterLoadAssignment(cluster_name=cluster)
    if addresses:
        made.endpoints.add(lb_endpoints=[_endpoint(host, port) for host, port in addresses])
    return made


@functools.lru_cache(maxsize=8192)
def discovered(cluster: str, addresses: tuple[tuple[str, int], ...]) -> Generated:
    """Return the resource that tells a cluster its endpoints."""
    return Generated(ENDPOINTS, cluster, serialised(assignment(cluster, addresses)))


def addresses(
    node: VirtualNode, port: int, known: tuple[Endpoint, ...], preference: str | None
) -> tuple[tuple[str, int], ...]:
    """Return where one listener of a node is.

    Raises:
        ConflictError: one of its endpoints is no IP address.
    """
    several = len(node.spec.listeners) > 1
    found = {(_ip(node, host), own or port) for host, own in known if not (several and own is not None and own != port)}
    return tuple(sorted(one for one in found if _ALONE.get(preference or "") in {None, version(one[0])}))


@functools.lru_cache(maxsize=8192)
def _endpoint(host: str, port: int) -> endpoint_components_pb2.LbEndpoint:
    socket = address_pb2.SocketAddress(address=host, port_value=port)
    endpoint = endpoint_components_pb2.Endpoint(address=address_pb2.Address(socket_address=socket))
    return endpoint_components_pb2.LbEndpoint(endpoint=endpoint)


def _ip(node: VirtualNode, host: str) -> str:
    if version(host) is None:
        raise ConflictError("an endpoint is no IP address", field=str(node.key), value=host)
    return host
