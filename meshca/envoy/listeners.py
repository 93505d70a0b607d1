"""The parts that ingress and egress listeners share."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from envoy.config.core.v3 import address_pb2, base_pb2
from envoy.config.listener.v3 import listener_components_pb2, listener_pb2
from envoy.extensions.filters.listener.original_dst.v3 import original_dst_pb2
from envoy.extensions.filters.listener.tls_inspector.v3 import tls_inspector_pb2
from envoy.type.v3 import range_pb2
from google.protobuf.duration_pb2 import Duration

from meshca.envoy import wire
from meshca.envoy.resources import LISTENER, Generated, packed, serialised

INBOUND = base_pb2.INBOUND
OUTBOUND = base_pb2.OUTBOUND

# A server may speak first on TCP: its connection is not held up for longer by a wait for the client's first bytes.
_SERVER_FIRST = Duration(seconds=1)
_CHAINS, _DEFAULT_CHAIN = 3, 25  # fields of envoy.config.listener.v3.Listener


@dataclass(frozen=True, slots=True)
class Shell:
    """A listener but for its filter chains; its address never changes under one name, for Envoy would bind anew."""

    name: str
    host: str
    port: int
    direction: Any
    filters: tuple[Any, ...] = ()
    waits_for_client: bool = True
    """Whether it may wait for the client to speak first."""


def assembled(shell: Shell, chains: Sequence[bytes], default: bytes | None = None) -> Generated:
    """Return a listener of these filter chains."""
    head, middle, tail = _shell(shell)
    between = b"".join(wire.message(_CHAINS, chain) for chain in chains)
    last = b"" if default is None else wire.message(_DEFAULT_CHAIN, default)
    return Generated(LISTENER, shell.name, b"".join((head, between, middle, last, tail)))


def _shell(shell: Shell) -> tuple[bytes, bytes, bytes]:
    socket = address_pb2.SocketAddress(address=shell.host, port_value=shell.port, ipv4_compat=shell.host == "::")
    message = listener_pb2.Listener(
        name=shell.name,
        address=address_pb2.Address(socket_address=socket),
        listener_filters=shell.filters,
        traffic_direction=shell.direction,
    )
    if not shell.waits_for_client:
        message.listener_filters_timeout.CopyFrom(_SERVER_FIRST)
        message.continue_on_listener_filters_timeout = True
    head, rest = wire.split(serialised(message), _CHAINS)
    return head, *wire.split(rest, _DEFAULT_CHAIN)


@dataclass(frozen=True, slots=True)
class ChainMatch:
    """Which connections a filter chain takes; by default all that no other takes."""

    port: int | None = None
    """Where it was going, where the kernel intercepts traffic."""
    server_name: str | None = None
    plaintext: bool = False


ANY_CONNECTION = ChainMatch()


def chain(name: str, filters: Sequence[Any], match: ChainMatch = ANY_CONNECTION, transport_socket: Any = None) -> bytes:
    """Return a filter chain."""
    message = listener_components_pb2.FilterChain(name=name, filters=filters, transport_socket=transport_socket)
    if match.port is not None:
        message.filter_chain_match.destination_port.value = match.port
    if match.server_name is not None:
        message.filter_chain_match.server_names.append(match.server_name)
    if match.plaintext:
        # Without it a chain takes TLS and plaintext alike; Envoy prefers the chain that names what it detected.
        message.filter_chain_match.transport_protocol = "raw_buffer"
    return serialised(message)


@functools.cache
def original_destination() -> Any:
    """Return the listener filter that recovers where an intercepted connection was going."""
    return listener_components_pb2.ListenerFilter(
        name="envoy.filters.listener.original_dst", typed_config=packed(original_dst_pb2.OriginalDst())
    )


@functools.lru_cache(maxsize=256)
def tls_inspector(not_at: tuple[int, ...] = ()) -> Any:
    """Return the listener filter that reads the SNI. Never on plaintext: a server that speaks first would wait."""
    made = listener_components_pb2.ListenerFilter(
        name="envoy.filters.listener.tls_inspector", typed_config=packed(tls_inspector_pb2.TlsInspector())
    )
    ports = [
        listener_components_pb2.ListenerFilterChainMatchPredicate(
            destination_port_range=range_pb2.Int32Range(start=port, end=port + 1)
        )
        for port in not_at
    ]
    if len(ports) == 1:
        made.filter_disabled.CopyFrom(ports[0])
    elif ports:
        made.filter_disabled.or_match.rules.extend(ports)
    return made
