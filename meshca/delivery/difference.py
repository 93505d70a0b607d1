"""Whom a change of snapshot concerns, so that only they are asked to look again.

Rules: too many is slow, too few is wrong: what isn't understood concerns everybody; the generator and the policy stay
the judges of what is sent, this only says who is to be looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from meshca.delivery.snapshot import MeshState, Snapshot
from meshca.mesh.model import (
    GATEWAY_ROUTE,
    MESH,
    ROUTE,
    VIRTUAL_GATEWAY,
    VIRTUAL_NODE,
    VIRTUAL_ROUTER,
    ObjectKey,
    VirtualService,
)
from meshca.spiffe.id import SpiffeId

_ROUTING = (VIRTUAL_ROUTER, ROUTE)
_IDENTITY, _LISTENER, _BACKEND = "identity:", "listener:", "backend:"


@dataclass(frozen=True, slots=True)
class Difference:
    """What a change of snapshot concerns."""

    nodes: frozenset[ObjectKey]  # whose resources or policy may differ
    trust: bool
    callers: bool  # who is entitled to what may differ
    suspended: frozenset[SpiffeId]  # newly
    resumed: frozenset[SpiffeId]
    thawed: bool  # certificates are issued again: whoever got none may have one now


def difference(old: Snapshot, new: Snapshot) -> Difference:
    """Compare two snapshots."""
    moved = old.suspended ^ new.suspended
    identities = moved | {SpiffeId.parse(scope) for scope in _scopes(old, new, _IDENTITY)}
    nodes = _of_objects(old.mesh, new.mesh) | _of_identities(identities, new.mesh)
    for kind in (_LISTENER, _BACKEND):
        nodes |= {key for scope in _scopes(old, new, kind) if (key := _node_of(scope.partition("|")[0], new.mesh))}
    return Difference(
        nodes=frozenset(nodes),
        trust=_anchors(old) != _anchors(new),
        callers=old.registrations != new.registrations or old.mesh.identities.ids != new.mesh.identities.ids,
        suspended=new.suspended - old.suspended,
        resumed=old.suspended - new.suspended,
        thawed=old.frozen is not None and new.frozen is None,
    )


def _anchors(snapshot: Snapshot) -> tuple[bytes, bytes, bool]:
    """Return what a validation context takes from trust."""
    trust = snapshot.trust
    return trust.bundle_pem, trust.crl_pem, trust.leaf_crl_only


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
    return nodes | {key for key, _, ids in _admissions(mesh) if not concerned.isdisjoint(ids)}


def _admissions(mesh: MeshState) -> Iterator[tuple[ObjectKey, int | str, frozenset[SpiffeId]]]:
    """Yield whom each listener (by port) and each backend (by service) admits."""
    for (key, port), listener in mesh.policy.listeners.items():
        yield key, port, listener.ids
    for (key, service), backend in mesh.policy.backends.items():
        yield key, service, backend.ids


def _of_objects(old: MeshState, new: MeshState) -> set[ObjectKey]:
    """Return the nodes that reach a changed object, before or after, and those whose peers differ."""
    changed = _changed(old, new)
    if not changed:
        return set()
    before = {(key, what): ids for key, what, ids in _admissions(old)}
    after = {(key, what): ids for key, what, ids in _admissions(new)}
    found = {pair[0] for pair in before.keys() | after.keys() if before.get(pair) != after.get(pair)}
    return found | _reaching(changed, old) | _reaching(changed, new)


def _changed(old: MeshState, new: MeshState) -> set[ObjectKey]:
    before, after = old.mesh_set.objects, new.mesh_set.objects
    if old.mesh_set is new.mesh_set:
        return set()
    found = {key for key, item in after.items() if before.get(key) is not item and before.get(key) != item}
    return found | (before.keys() - after.keys())


def _reaching(changed: set[ObjectKey], mesh: MeshState) -> set[ObjectKey]:
    """Return the nodes whose resources say something of the changed objects, found by walking backwards."""
    callers, services = mesh.identities.ids.keys(), _services_of(changed, mesh)
    meshes = {key.mesh for key in changed if key.kind == MESH}
    found = {key for key in callers if key in changed or key.mesh in meshes}
    found |= {ObjectKey(key.mesh, VIRTUAL_GATEWAY, "", key.parent) for key in changed if key.kind == GATEWAY_ROUTE}
    return found | {key for key, service in mesh.policy.backends if (key.mesh, service) in services}


def _services_of(changed: set[ObjectKey], mesh: MeshState) -> set[tuple[str, str]]:
    """Return the services, by mesh and name, that are changed or lead through or to what is changed."""
    routers = {(key.mesh, key.parent if key.kind == ROUTE else key.name) for key in changed if key.kind in _ROUTING}
    nodes = {key for key in changed if key.kind == VIRTUAL_NODE}
    return {
        (service.mesh, service.name)
        for service in mesh.mesh_set.services()
        if service.key in changed
        or ((router := _router_of(service)) and (service.mesh, router) in routers)
        or (nodes and any(target.node.key in nodes for target in mesh.mesh_set.targets(service)))
    }


def _router_of(service: VirtualService) -> str:
    provider = service.spec.provider
    return provider.virtual_router.virtual_router_name if provider and provider.virtual_router else ""
