"""Whom a change of snapshot concerns, so that only they are asked to look again.

Rules: too many is slow, too few is wrong: what isn't understood concerns everybody; the generator and the policy stay
the judges of what is sent, this only says who is to be looked at.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from meshca.delivery.snapshot import MeshState, Snapshot
from meshca.mesh.links import changed_keys
from meshca.mesh.model import GATEWAY_ROUTE, MESH, VIRTUAL_GATEWAY, ObjectKey
from meshca.policy.admission import Sides
from meshca.policy.reach import callers_of, services_through
from meshca.spiffe.id import SpiffeId

_IDENTITY, _LISTENER, _BACKEND = "identity:", "listener:", "backend:"


@dataclass(frozen=True, slots=True)
class Difference:
    """What a change of snapshot concerns."""

    nodes: frozenset[ObjectKey]  # whose resources or policy may differ
    trust: bool  # ours, or that of a federated trust domain
    jwt: bool  # the keys of JWT-SVIDs differ
    callers: bool  # who is entitled to what may differ
    suspended: frozenset[SpiffeId]  # newly
    resumed: frozenset[SpiffeId]
    thawed: bool  # certificates are issued again: whoever got none may have one now
    revision: int  # the mesh revision that is new; 0: it is the same


def difference(old: Snapshot, new: Snapshot) -> Difference:
    """Compare two snapshots."""
    moved = old.suspended ^ new.suspended
    identities = moved | {SpiffeId.parse(scope) for scope in _scopes(old, new, _IDENTITY)}
    nodes = _of_objects(old.mesh, new.mesh) | _of_identities(identities, new.mesh)
    for kind in (_LISTENER, _BACKEND):
        nodes |= {key for scope in _scopes(old, new, kind) if (key := _node_of(scope.partition("|")[0], new.mesh))}
    nodes |= _of_endpoints(old, new)
    return Difference(
        nodes=frozenset(nodes),
        trust=_anchors(old) != _anchors(new),
        jwt=old.jwt.generation != new.jwt.generation,
        callers=old.registrations != new.registrations or old.mesh.identities.ids != new.mesh.identities.ids,
        suspended=new.suspended - old.suspended,
        resumed=old.suspended - new.suspended,
        thawed=old.frozen is not None and new.frozen is None,
        revision=new.mesh.revision if new.mesh.revision != old.mesh.revision else 0,
    )


def _anchors(snapshot: Snapshot) -> tuple[object, ...]:
    """Return what a validation context takes from trust."""
    trust = snapshot.trust
    return trust.bundle_pem, trust.crl_pem, trust.leaf_crl_only, snapshot.federated


def _of_endpoints(old: Snapshot, new: Snapshot) -> set[ObjectKey]:
    """Return who calls a node that is to be found elsewhere."""
    if old.endpoints is new.endpoints:
        return set()
    every = old.endpoints.keys() | new.endpoints.keys()
    moved = {key for key in every if old.endpoints.get(key) != new.endpoints.get(key)}
    return callers_of(services_through(moved, new.mesh.mesh_set), new.mesh.mesh_set)


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
    changed = changed_keys(old.mesh_set.objects, new.mesh_set.objects) if old.mesh_set is not new.mesh_set else ()
    if not changed:
        return set()
    return _differing(old, new) | _reaching(changed, old) | _reaching(changed, new)


def _differing(old: MeshState, new: MeshState) -> set[ObjectKey]:
    """Return the nodes whose peers differ; policies made from each other share what is the same."""
    before, after = old.policy.sides, new.policy.sides
    found = {key for key in before.keys() | after.keys() if before.get(key) is not after.get(key)}
    return {key for key in found if _peers(before.get(key)) != _peers(after.get(key))}


def _peers(sides: Sides | None) -> tuple[dict[int, frozenset[SpiffeId]], dict[str, frozenset[SpiffeId]]]:
    if sides is None:
        return {}, {}
    listeners = {port: admission.ids for port, admission in sides.listeners.items()}
    backends = {service: admission.ids for service, admission in sides.backends.items()}
    return listeners, backends


def _reaching(changed: Collection[ObjectKey], mesh: MeshState) -> set[ObjectKey]:
    """Return the nodes whose resources say something of the changed objects, found by walking backwards."""
    found = {key for key in changed if key in mesh.identities.ids}
    found |= callers_of(services_through(changed, mesh.mesh_set), mesh.mesh_set)
    found |= {ObjectKey(key.mesh, VIRTUAL_GATEWAY, "", key.parent) for key in changed if key.kind == GATEWAY_ROUTE}
    if meshes := {key.mesh for key in changed if key.kind == MESH}:
        found |= {key for key in mesh.identities.ids if key.mesh in meshes}
    return found
