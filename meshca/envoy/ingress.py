"""The ingress side of a node: TLS ended, the caller checked, the request handed to the application on loopback.

Rules kept here (measured, design: what real Envoy does):
- A mutual listener has one filter chain per admitted client, chosen by SNI, and a default chain for admitted clients
  that send none. Each chain's name carries drain epochs: renaming ends that client's connections and nobody else's.
- The chain of one client validates against that client's SAN alone, so that a false SNI gains nothing.
- Each HTTP request (RBAC by RDS) and each TCP connection is checked against the same admission again, without those
  who are suspended.
- Without `validation` no client certificate is asked for, so there is one chain and nothing to check.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from meshca.envoy import clusters, http, listeners, names, rbac, routes, tcp, tls
from meshca.envoy.drains import token
from meshca.envoy.placement import Placement
from meshca.envoy.resources import Generated, generated
from meshca.envoy.snapshot import Snapshot
from meshca.mesh.model import VirtualNode
from meshca.mesh.spec.listeners import Listener
from meshca.spiffe.id import SpiffeId


@dataclass(frozen=True, slots=True)
class _Ingress:
    """One listener of a node, with all that its parts are derived from."""

    node: VirtualNode
    listener: Listener
    server: SpiffeId
    admitted: frozenset[SpiffeId]
    snapshot: Snapshot

    @property
    def port(self) -> int:
        return self.listener.port_mapping.port

    @property
    def protocol(self) -> str:
        return self.listener.port_mapping.protocol

    @property
    def encrypted(self) -> bool:
        return self.listener.tls is not None and self.listener.tls.mode != "DISABLED"

    @property
    def mutual(self) -> bool:
        return self.listener.tls is not None and self.encrypted and self.listener.tls.validation is not None

    @property
    def cluster(self) -> str:
        return names.ingress_cluster(self.node.mesh, self.node.name, self.protocol, self.port)


def ingress(node: VirtualNode, snapshot: Snapshot, placement: Placement) -> list[Generated]:
    """Return cluster, listener and routes of a node's own listener; nothing for a node that only calls."""
    if not node.spec.listeners:
        return []
    own = node.spec.listeners[0]
    admitted = snapshot.policy.admitted_clients(node.key, own.port_mapping.port)
    plan = _Ingress(node, own, snapshot.identities.of(node.key), frozenset(admitted), snapshot)
    built = [
        generated(clusters.app_cluster(plan.cluster, placement.app_host, own)),
        generated(_listener(plan, placement)),
    ]
    if plan.protocol != "tcp":
        built.append(generated(_routes(plan)))
    return built


def _listener(plan: _Ingress, placement: Placement) -> Any:
    host, port = placement.ingress_host, placement.ingress_port or plan.port
    chains = _mutual_chains(plan) if plan.mutual else [_open_chain(plan)]
    message = listeners.listener(names.ingress_listener(host, port), host, port, chains, listeners.INBOUND)
    message.listener_filters.append(listeners.original_destination())
    if plan.encrypted:
        message.listener_filters.append(listeners.tls_inspector())
    return message


def _mutual_chains(plan: _Ingress) -> list[Any]:
    http_filters = _filters(plan, ()) if plan.protocol != "tcp" else None
    own_chains = [
        listeners.chain(
            f"{names.client_name(client)}#{plan.snapshot.epochs.get(names.identity_scope(client), 0)}",
            http_filters or _filters(plan, (client,)),
            tls.downstream(plan.protocol, names.client_name(client)),
            names.sni_for(client),
        )
        for client in sorted(plan.admitted)
    ]
    return [*own_chains, _default_chain(plan)]


def _default_chain(plan: _Ingress) -> Any:
    context = names.clients_name(plan.port)
    scopes = [names.listener_scope(plan.server), *map(names.identity_scope, plan.admitted)]
    return listeners.chain(
        f"{context}#{token(plan.snapshot.epochs, scopes)}",
        _filters(plan, sorted(plan.admitted)),
        tls.downstream(plan.protocol, context),
    )


def _open_chain(plan: _Ingress) -> Any:
    """Return the one chain of a listener that asks for no client certificate: nobody there has an identity."""
    drain = token(plan.snapshot.epochs, [names.listener_scope(plan.server)])
    socket = tls.downstream(plan.protocol, None) if plan.encrypted else None
    return listeners.chain(f"anyone:{plan.port}#{drain}", _filters(plan, ()), socket)


def _filters(plan: _Ingress, clients: Sequence[SpiffeId]) -> list[Any]:
    log = plan.node.spec.logging
    if plan.protocol != "tcp":
        return [http.ingress_filter(names.ingress_routes(plan.port), mutual=plan.mutual, logging=log)]
    timeout = plan.listener.timeout.tcp if plan.listener.timeout else None
    share = routes.Share(plan.cluster, 1)
    proxy = tcp.proxy("ingress", [share], timeout.idle if timeout else None, log)
    if not plan.mutual:
        return [proxy]
    # In the chain itself, beside the suspended client's nobody context: in force with the rename, whatever came first.
    allowed = [client for client in clients if client not in plan.snapshot.suspended]
    return [rbac.network_filter(allowed, "ingress"), proxy]


def _routes(plan: _Ingress) -> Any:
    timeout = getattr(plan.listener.timeout, plan.protocol) if plan.listener.timeout else None
    route = routes.forward(routes.everything(), [routes.Share(plan.cluster, 1)], timeout, retry=False)
    host = routes.host("ingress", ["*"], [route])
    if plan.mutual:
        override = rbac.http_override(plan.admitted - plan.snapshot.suspended)
        host.typed_per_filter_config[rbac.HTTP_FILTER].CopyFrom(override)
    return routes.table(names.ingress_routes(plan.port), [host])
