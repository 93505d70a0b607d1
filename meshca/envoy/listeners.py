"""The parts that ingress and egress listeners share."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from envoy.config.core.v3 import address_pb2, base_pb2
from envoy.config.listener.v3 import listener_components_pb2, listener_pb2
from envoy.extensions.filters.listener.original_dst.v3 import original_dst_pb2
from envoy.extensions.filters.listener.tls_inspector.v3 import tls_inspector_pb2

from meshca.envoy.resources import packed

INBOUND = base_pb2.INBOUND
OUTBOUND = base_pb2.OUTBOUND


def listener(name: str, host: str, port: int, chains: Sequence[Any], direction: Any) -> Any:
    """Return a listener; its address never changes under one name, since Envoy would have to bind anew."""
    return listener_pb2.Listener(
        name=name,
        address=address_pb2.Address(socket_address=address_pb2.SocketAddress(address=host, port_value=port)),
        filter_chains=chains,
        traffic_direction=direction,
    )


def chain(name: str, filters: Sequence[Any], transport_socket: Any = None, server_name: str | None = None) -> Any:
    """Return a filter chain, for one SNI or for every connection that no other chain takes."""
    message = listener_components_pb2.FilterChain(name=name, filters=filters, transport_socket=transport_socket)
    if server_name is not None:
        message.filter_chain_match.server_names.append(server_name)
    return message


@functools.cache
def original_destination() -> Any:
    """Return the listener filter that recovers where an intercepted connection was going."""
    return listener_components_pb2.ListenerFilter(
        name="envoy.filters.listener.original_dst", typed_config=packed(original_dst_pb2.OriginalDst())
    )


@functools.cache
def tls_inspector() -> Any:
    """Return the listener filter that reads the SNI. Never on plaintext: a server that speaks first would wait."""
    return listener_components_pb2.ListenerFilter(
        name="envoy.filters.listener.tls_inspector", typed_config=packed(tls_inspector_pb2.TlsInspector())
    )
