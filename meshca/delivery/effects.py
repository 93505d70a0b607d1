"""What a change would send, and to whom: judged before it is made.

Rules kept here:
- Compared is what the generator makes of both snapshots, byte for byte, and whom each secret admits; leaves and trust
  are no matter of a mesh revision, save a leaf of another identity.
- A node with Envoys is judged with their placements, one without by the default placement.
- What would not be whole is refused before anything is stored.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from meshca.delivery.callers import as_node
from meshca.delivery.difference import difference
from meshca.delivery.generated import ByType, made
from meshca.delivery.naming import all_names, resolve
from meshca.delivery.snapshot import Snapshot
from meshca.delivery.whole import require_whole, secrets_of
from meshca.envoy.placement import Placement
from meshca.errors import MeshcaError
from meshca.mesh.model import ObjectKey
from meshca.xds.resource import SDS

Prepared: TypeAlias = Mapping[tuple[ObjectKey, Placement], ByType | MeshcaError]
"""What was generated for nodes, by node and placement."""

ADDED, CHANGED, REMOVED = "added", "changed", "removed"


@dataclass(frozen=True, slots=True)
class Connected:
    """One Envoy: its node id, its node, where it listens (None: its listeners are not ours), its contexts."""

    node_id: str
    node: ObjectKey
    placement: Placement | None
    contexts: frozenset[str]


@dataclass(frozen=True, slots=True, order=True)
class ResourceChange:
    """One resource that would be sent or taken away."""

    type_url: str
    name: str
    change: str


@dataclass(frozen=True, slots=True)
class Effect:
    """What one node's Envoys would be sent; none connected: what one would have been sent."""

    node: ObjectKey
    envoys: tuple[str, ...]
    resources: tuple[ResourceChange, ...]
    problem: str = ""


def prepared(old: Snapshot, new: Snapshot, connected: Iterable[Connected]) -> Prepared:
    """Generate what the concerned Envoys are to have, and check it.

    Raises:
        InconsistentSnapshotError: something of it leads to what is not there.
    """
    nodes = difference(old, new).nodes
    wanted = {(one.node, one.placement) for one in connected if one.node in nodes and one.placement is not None}
    found: dict[tuple[ObjectKey, Placement], ByType | MeshcaError] = {}
    for node, placement in wanted:
        if placement is None or node not in new.mesh.identities.ids:
            continue
        by_type = found[node, placement] = made(node, placement, new)
        if not isinstance(by_type, MeshcaError):
            require_whole(by_type)
    return found


def effects(old: Snapshot, new: Snapshot, connected: Iterable[Connected]) -> tuple[Effect, ...]:
    """Return what each node that a change concerns would be sent; nodes for which nothing differs are left out."""
    groups: dict[tuple[ObjectKey, Placement | None], list[Connected]] = {}
    for one in connected:
        groups.setdefault((one.node, one.placement), []).append(one)
    with_envoys = {node for node, _ in groups}
    found = []
    for node in sorted(difference(old, new).nodes):
        mine = [(placement, envoys) for (key, placement), envoys in groups.items() if key == node]
        for placement, envoys in mine if node in with_envoys else [(Placement(), [])]:
            effect = _effect(node, placement, envoys, old, new)
            if effect.resources or effect.problem:
                found.append(effect)
    return tuple(found)


def _effect(
    node: ObjectKey, placement: Placement | None, envoys: Collection[Connected], old: Snapshot, new: Snapshot
) -> Effect:
    before, _ = _made(node, placement, old)
    after, problem = _made(node, placement, new)
    named_before, named_after = secrets_of(before), secrets_of(after)
    held = frozenset(name for one in envoys for name in one.contexts)
    if problem or (placement is None and not held):
        held |= _every_name(node, old) | _every_name(node, new)
    others = held - named_before  # asked for by an Envoy that is not, or not only, driven by us
    names = (named_before | others, named_after | others)
    changes = {*_resources(before, after), *_secrets(node, names, old, new)}
    return Effect(node, tuple(sorted(one.node_id for one in envoys)), tuple(sorted(changes)), problem)


def _made(node: ObjectKey, placement: Placement | None, snapshot: Snapshot) -> tuple[ByType, str]:
    if placement is None or node not in snapshot.mesh.identities.ids:
        return {}, ""
    found = made(node, placement, snapshot)
    return ({}, str(found)) if isinstance(found, MeshcaError) else (found, "")


def _resources(before: ByType, after: ByType) -> Iterable[ResourceChange]:
    for type_url in before.keys() | after.keys():
        old, new = before.get(type_url, {}), after.get(type_url, {})
        for name in old.keys() | new.keys():
            if name not in old:
                yield ResourceChange(type_url, name, ADDED)
            elif name not in new:
                yield ResourceChange(type_url, name, REMOVED)
            elif old[name].version != new[name].version:
                yield ResourceChange(type_url, name, CHANGED)


def _secrets(
    node: ObjectKey, names: tuple[frozenset[str], frozenset[str]], old: Snapshot, new: Snapshot
) -> Iterable[ResourceChange]:
    before, after = names
    for name in before | after:
        if name not in before:
            yield ResourceChange(SDS, name, ADDED)
        elif name not in after:
            yield ResourceChange(SDS, name, REMOVED)
        elif _meaning(name, node, old) != _meaning(name, node, new):
            yield ResourceChange(SDS, name, CHANGED)


def _meaning(name: str, node: ObjectKey, snapshot: Snapshot) -> object:
    """Return whose leaf or whom a name stands for; None: it is refused, or the node is not there."""
    identity = snapshot.mesh.identities.ids.get(node)
    if identity is None:
        return None
    try:
        return resolve(name, as_node(identity, node), snapshot)
    except MeshcaError:
        return None


def _every_name(node: ObjectKey, snapshot: Snapshot) -> frozenset[str]:
    identity = snapshot.mesh.identities.ids.get(node)
    return all_names(as_node(identity, node), snapshot) if identity is not None else frozenset()
