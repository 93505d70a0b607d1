"""The ingress side of a node: TLS ended, the caller checked, the request handed to the application on loopback.

Rules kept here:
- One listener per port; where the kernel intercepts traffic, one on App Mesh's 15000 with the chains of every port,
  chosen by where a connection was going.
"""

from __future__ import annotations

from collections.abc import Sequence

from meshca.envoy import clusters, families, listeners, names, rbac, routes
from meshca.envoy.entrances import Entrance, HttpEntry, TcpEntry, chains, rbac_override
from meshca.envoy.placement import Placement
from meshca.envoy.resources import Generated, generated, serialised
from meshca.envoy.snapshot import Snapshot
from meshca.errors import ConflictError
from meshca.mesh.model import Caller, VirtualNode
from meshca.mesh.spec.listeners import Listener

INTERCEPTED_PORT = 15000


def ingress(node: VirtualNode, snapshot: Snapshot, placement: Placement) -> list[Generated]:
    """Return clusters, listeners and routes of a node's own listeners; nothing for a node that only calls.

    Raises:
        ConflictError: several listeners are to be at one port.
    """
    require_room(node, placement)
    preference = families.of_node(snapshot.mesh_set, node)
    app = families.app_host(placement.app_host, preference)
    entrances = [_entrance(node, listener, snapshot, placement) for listener in node.spec.listeners]
    built = [
        generated(clusters.app_cluster(_cluster(node, listener), app, listener)) for listener in node.spec.listeners
    ]
    built += [_routes(one) for one in entrances if isinstance(one.entry, HttpEntry)]
    host = families.any_host(placement.ingress_host, preference)
    groups = [entrances] if placement.intercepted and entrances else [[one] for one in entrances]
    return [*built, *(listener_of(group, host, placement) for group in groups)]


def require_room(caller: Caller, placement: Placement) -> None:
    """Raise ``ConflictError`` where several listeners would be at the one port that the operator chose."""
    several = len(caller.spec.listeners) > 1
    if several and placement.ingress_port is not None and not placement.intercepted:
        raise ConflictError(
            f"its {len(caller.spec.listeners)} listeners cannot all be at port {placement.ingress_port}",
            field=str(caller.key),
            remedy="give `--ingress` a host alone, or let the kernel intercept (`--intercepted`)",
        )


def listener_of(entrances: Sequence[Entrance], host: str, placement: Placement) -> Generated:
    """Return the listener of these entrances: of one, or of all where the kernel intercepts."""
    intercepted = entrances[0].intercepted
    port = placement.ingress_port or (INTERCEPTED_PORT if intercepted else entrances[0].port)
    filters = [listeners.original_destination()]
    if any(one.encrypted for one in entrances):
        plain = tuple(one.port for one in entrances if not one.encrypted)
        filters.append(listeners.tls_inspector(plain))
    shell = listeners.Shell(
        name=names.ingress_listener(host, port),
        host=host,
        port=port,
        direction=listeners.INBOUND,
        filters=tuple(filters),
        waits_for_client=not any(one.server_first for one in entrances),
    )
    return listeners.assembled(shell, [chain for one in entrances for chain in chains(one)])


def _entrance(node: VirtualNode, listener: Listener, snapshot: Snapshot, placement: Placement) -> Entrance:
    mapping, log = listener.port_mapping, node.spec.logging
    entry: HttpEntry | TcpEntry = HttpEntry(names.ingress_routes(mapping.port), log, edge=False)
    if mapping.protocol == "tcp":
        timeout = listener.timeout.tcp if listener.timeout else None
        own = snapshot.identities.of(node.key).trust_domain
        entry = TcpEntry(_cluster(node, listener), log, timeout.idle if timeout else None, own)
    return Entrance(
        caller=node,
        listener=listener,
        server=snapshot.identities.of(node.key),
        admitted=snapshot.policy.admitted_clients(node.key, mapping.port),
        snapshot=snapshot,
        entry=entry,
        intercepted=placement.intercepted,
    )


def _cluster(node: VirtualNode, listener: Listener) -> str:
    mapping = listener.port_mapping
    return names.ingress_cluster(node.mesh, node.name, mapping.protocol, mapping.port)


def _routes(entrance: Entrance) -> Generated:
    assert isinstance(entrance.caller, VirtualNode)  # noqa: S101 - gateways have routes of their own
    assert isinstance(entrance.listener, Listener)  # noqa: S101
    written = entrance.listener.timeout
    timeout = getattr(written, entrance.protocol) if written else None
    share = routes.Share(_cluster(entrance.caller, entrance.listener), 1)
    host = routes.host("ingress", ["*"], [routes.forward(routes.everything(), [share], timeout)])
    if entrance.mutual:
        host.typed_per_filter_config[rbac.HTTP_FILTER].CopyFrom(rbac_override(entrance))
    return routes.table(names.ingress_routes(entrance.port), [serialised(host)])
