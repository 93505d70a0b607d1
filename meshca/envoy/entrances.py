"""Where calls enter a node or gateway: the filter chains of one listener.

Rules kept here (measured, design: what real Envoy does):
- A mutual listener has one filter chain per admitted client, chosen by SNI, and a default chain for admitted clients
  that send none. Each chain's name carries drain epochs: renaming ends that client's connections and nobody else's.
- The chain of one client validates against that client's SAN alone, so that a false SNI gains nothing.
- Each HTTP request (RBAC by RDS) and each TCP connection is checked against the same admission again, without those
  who are suspended.
- Without `validation` no client certificate is asked for, so there is one chain and nothing to check.
- PERMISSIVE adds one chain for plaintext, which checks nobody, and leaves the others as STRICT has them: so that
  neither way of changing the mode ends a connection over TLS.
- A gateway has no egress listener, so its chains carry the epochs of the servers behind it, too.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from meshca.envoy import http, listeners, names, rbac, routes, tcp, tls
from meshca.envoy.drains import UNRAISED, token
from meshca.envoy.listeners import ChainMatch
from meshca.envoy.snapshot import Snapshot
from meshca.mesh.model import Caller
from meshca.mesh.spec.listeners import AnyListener
from meshca.mesh.spec.transport import Duration, Logging
from meshca.spiffe.id import SpiffeId, TrustDomain


class HttpEntry(NamedTuple):
    """What an HTTP chain does with requests."""

    routes: str
    logging: Logging | None
    edge: bool

    def filters(self, allowed: Sequence[SpiffeId] | None) -> list[Any]:
        """Return its filters; ``allowed`` None checks nobody, and who is allowed comes by RDS."""
        return [http.ingress_filter(self.routes, mutual=allowed is not None, logging=self.logging, edge=self.edge)]


class TcpEntry(NamedTuple):
    """What a TCP chain does with connections."""

    cluster: str
    logging: Logging | None
    idle: Duration | None
    own: TrustDomain

    def filters(self, allowed: Sequence[SpiffeId] | None) -> list[Any]:
        """Return its filters; ``allowed`` None checks nobody."""
        proxy = tcp.proxy("ingress", [routes.Share(self.cluster, 1)], self.idle, self.logging)
        # In the chain itself, beside the suspended client's nobody context: in force with the rename.
        return [proxy] if allowed is None else [rbac.network_filter(allowed, self.own, "ingress"), proxy]


@dataclass(frozen=True, slots=True)
class Entrance:
    """One listener of a node or gateway, with all that its parts are derived from."""

    caller: Caller
    listener: AnyListener
    server: SpiffeId
    admitted: frozenset[SpiffeId]
    snapshot: Snapshot
    entry: HttpEntry | TcpEntry
    intercepted: bool = False
    behind: str = UNRAISED
    """The drain token of the servers that calls are led to from here without an egress listener."""

    @property
    def port(self) -> int:
        """The listener's port in the spec."""
        return self.listener.port_mapping.port

    @property
    def protocol(self) -> str:
        """What is spoken there."""
        return self.listener.port_mapping.protocol

    @property
    def encrypted(self) -> bool:
        """Whether it speaks TLS."""
        return encrypted(self.listener)

    @property
    def mutual(self) -> bool:
        """Whether it asks for client certificates."""
        return mutual(self.listener)

    @property
    def server_first(self) -> bool:
        """Whether a client that waits for the server's first bytes must not wait for long."""
        return self.encrypted and self.protocol == "tcp"

    def match(self, *, plaintext: bool = False) -> ChainMatch:
        """Return which connections a chain of this listener takes."""
        return ChainMatch(self.port if self.intercepted else None, plaintext=plaintext)


def encrypted(listener: AnyListener) -> bool:
    """Tell whether a listener speaks TLS."""
    return listener.tls is not None and listener.tls.mode != "DISABLED"


def mutual(listener: AnyListener) -> bool:
    """Tell whether a listener asks for client certificates."""
    return listener.tls is not None and encrypted(listener) and listener.tls.validation is not None


def chains(entrance: Entrance) -> list[bytes]:
    """Return the filter chains of a listener."""
    built = [*_client_chains(entrance), _default_chain(entrance)] if entrance.mutual else [_open_chain(entrance)]
    if entrance.listener.tls is not None and entrance.listener.tls.mode == "PERMISSIVE":
        name = _drained(f"plaintext:{entrance.port}", _own_token(entrance), entrance.behind)
        built.append(listeners.chain(name, entrance.entry.filters(None), entrance.match(plaintext=True)))
    return built


def rbac_override(entrance: Entrance) -> Any:
    """Return what the routes of a mutual HTTP listener say to its RBAC filter."""
    return rbac.http_override(entrance.admitted - entrance.snapshot.suspended, entrance.server.trust_domain)


def _client_chains(entrance: Entrance) -> list[bytes]:
    epochs, suspended = entrance.snapshot.epochs, entrance.snapshot.suspended
    return [
        _client_chain(
            client,
            f"{epochs.get(names.identity_scope(client), 0) if epochs else 0}",
            entrance.port if entrance.intercepted else None,
            _Kind(
                entrance.protocol, entrance.entry, client in suspended and entrance.protocol == "tcp", entrance.behind
            ),
        )
        for client in _in_order(entrance.admitted)
    ]


@functools.lru_cache(maxsize=8192)
def _in_order(clients: frozenset[SpiffeId]) -> tuple[SpiffeId, ...]:
    return tuple(sorted(clients, key=str))


class _Kind(NamedTuple):
    """What chains for the same client can differ in."""

    protocol: str
    entry: HttpEntry | TcpEntry
    refused: bool
    behind: str


@functools.lru_cache(maxsize=65536)
def _client_chain(client: SpiffeId, epoch: str, port: int | None, kind: _Kind) -> bytes:
    """Return one client's chain, which is the same on every listener of a port that admits this client."""
    context = names.client_name(client)
    name = _drained(context if port is None else f"{context}@{port}", epoch, kind.behind)
    match, socket = ChainMatch(port, names.sni_for(client)), tls.downstream(kind.protocol, context)
    return listeners.chain(name, kind.entry.filters(() if kind.refused else (client,)), match, socket)


def _default_chain(entrance: Entrance) -> bytes:
    context = names.clients_name(entrance.port)
    epochs = entrance.snapshot.epochs
    scopes = [names.listener_scope(entrance.server, entrance.port), *map(names.identity_scope, entrance.admitted)]
    allowed = _in_order(entrance.admitted - entrance.snapshot.suspended)
    return listeners.chain(
        _drained(context, token(epochs, scopes if epochs else ()), entrance.behind),
        entrance.entry.filters(allowed),
        entrance.match(),
        tls.downstream(entrance.protocol, context),
    )


def _open_chain(entrance: Entrance) -> bytes:
    """Return the one chain of a listener that asks for no client certificate: nobody there has an identity."""
    name = _drained(f"anyone:{entrance.port}", _own_token(entrance), entrance.behind)
    socket = tls.downstream(entrance.protocol, None) if entrance.encrypted else None
    return listeners.chain(name, entrance.entry.filters(None), entrance.match(), socket)


def _own_token(entrance: Entrance) -> str:
    return token(entrance.snapshot.epochs, [names.listener_scope(entrance.server, entrance.port)])


def _drained(name: str, drain: str, behind: str) -> str:
    return f"{name}#{drain}" if behind == UNRAISED else f"{name}#{drain}.{behind}"
