"""Whom a change of snapshot concerns, so that only they are asked to look again.

Rules: too many is slow, too few is wrong: what isn't understood concerns everybody; the generator and the policy stay
the judges of what is sent, this only says who is to be looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from meshca.delivery.snapshot import MeshState, Snapshot
from meshca.mesh.forest import MeshSet
from meshca.mesh.model import MESH, ObjectKey, VirtualGateway
from meshca.spiffe.id import SpiffeId

_IDENTITY, _LISTENER, _BACKEND = "identity:", "listener:", "backend:"


@dataclass(frozen=True, slots=True)
class Difference:
    """What a change of snapshot concerns."""

    nodes: frozenset[ObjectKey]  # whose resources or policy may differ
    trust: bool
    callers: bool  # who is entitled to what may differ
    suspended: frozenset[SpiffeId]  # newly
    resumed: frozenset[SpiffeId]


def difference(old: Snapshot, new: Snapshot) -> Difference:
    """Compare two snapshots."""
    moved = old.suspended ^ new.suspended
    identities = moved | {SpiffeId.parse(scope) for scope in _scopes(old, new, _IDENTITY)}
    nodes = _of_objects(old.mesh, new.mesh) | _of_identities(identities, new.mesh)
    nodes |= {key for scope in _scopes(old, new, _LISTENER) if (key := _node_of(scope, new.mesh))}
    nodes |= {key for scope in _scopes(old, new, _BACKEND) if (key := _node_of(scope.partition("|")[0], new.mesh))}
    return Difference(
        nodes=frozenset(nodes),
        trust=old.trust.bundle_pem != new.trust.bundle_pem or old.trust.crl_pem != new.trust.crl_pem,
        callers=old.registrations != new.registrations or old.mesh.identities.ids != new.mesh.identities.ids,
        suspended=new.suspended - old.suspended,
        resumed=old.suspended - new.suspended,
    )


def _scopes(old: Snapshot, new: Snapshot, prefix: str) -> Iterator[str]:
    if old.epochs is new.epochs:
        return
    for scope, epoch in new.epochs.items():
        if scope.startswith(prefix) and old.epochs.get(scope) != epoch:
            yield scope.removeprefix(prefix)


def _node_of(identity: str, mesh: MeshState) -> ObjectKey | None:
    return mesh.identities.holder(SpiffeId.parse(identity))


def _of_identities(identities: Iterable[SpiffeId], mesh: MeshState) -> set[ObjectKey]:
    """Return the nodes of these identities and every node that admits one of them, as client or as server."""
    concerned = frozenset(identities)
    if not concerned:
        return set()
    nodes = {key for identity in concerned if (key := mesh.identities.holder(identity))}
    return nodes | {key for key in _nodes(mesh) if not concerned.isdisjoint(_peers(key, mesh))}


def _peers(node: ObjectKey, mesh: MeshState) -> set[SpiffeId]:
    found = mesh.mesh_set.caller(node)
    peers: set[SpiffeId] = set()
    for listener in found.spec.listeners:
        peers |= mesh.policy.admitted_clients(node, listener.port_mapping.port)
    for service in mesh.mesh_set.services_of(found):
        peers |= mesh.policy.admitted_servers(node, service.name)
    return peers


def _of_objects(old: MeshState, new: MeshState) -> set[ObjectKey]:
    """Return the nodes that reach a changed object, before or after, and those whose peers differ."""
    changed = _changed(old, new)
    if not changed:
        return set()
    meshes = {key.mesh for key in changed if key.kind == MESH}
    found = {
        node
        for state in (old, new)
        for node in _nodes(state)
        if node.mesh in meshes or not changed.isdisjoint(_reach(node, state.mesh_set))
    }
    rest = (set(_nodes(old)) & set(_nodes(new))) - found
    return found | {node for node in rest if _peers(node, old) != _peers(node, new)}


def _changed(old: MeshState, new: MeshState) -> set[ObjectKey]:
    before, after = old.mesh_set.objects, new.mesh_set.objects
    if old.mesh_set is new.mesh_set:
        return set()
    return {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}


def _reach(node: ObjectKey, mesh_set: MeshSet) -> Iterator[ObjectKey]:
    """Yield the objects that say what a node is sent: itself, its services, their routers, routes and targets."""
    caller = mesh_set.caller(node)
    yield node
    if isinstance(caller, VirtualGateway):
        yield from (route.key for route in mesh_set.gateway_routes_of(caller))
    for service in mesh_set.services_of(caller):
        yield service.key
        if router := mesh_set.router_of(service):
            yield router.key
            yield from (route.key for route in mesh_set.routes_of(router))
        yield from (target.node.key for target in mesh_set.targets(service))


def _nodes(mesh: MeshState) -> Iterable[ObjectKey]:
    return mesh.identities.ids.keys()
