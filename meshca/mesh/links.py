"""Which object names which, in both directions: what has to be looked at again when some objects change.

Rules kept here:
- An index is immutable; a change makes a new one that shares what is the same.
- Too many is slow, too few is wrong: `concerned` follows every name that references.py reads, two steps where it does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from meshca.mesh.model import (
    GATEWAY_ROUTE,
    MESH,
    PARENT_KINDS,
    VIRTUAL_NODE,
    VIRTUAL_ROUTER,
    VIRTUAL_SERVICE,
    GatewayRoute,
    MeshObject,
    ObjectKey,
    Route,
    VirtualNode,
    VirtualService,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

Changes: TypeAlias = "Mapping[ObjectKey, MeshObject | None]"
"""Objects by key as they are to be; None: there is to be none."""

_NOBODY: frozenset[ObjectKey] = frozenset()


def names_of(item: MeshObject) -> frozenset[ObjectKey]:
    """Return the keys of the objects that an object names, whether they exist or not; its mesh is left out."""
    return frozenset(_names(item))


def _names(item: MeshObject) -> Iterator[ObjectKey]:
    if item.parent:
        yield ObjectKey(item.mesh, PARENT_KINDS[item.kind], "", item.parent)
    if isinstance(item, VirtualNode):
        for backend in item.spec.backends:
            yield ObjectKey(item.mesh, VIRTUAL_SERVICE, "", backend.service.virtual_service_name)
    elif isinstance(item, VirtualService):
        yield from _providers(item)
    elif isinstance(item, Route):
        for target in item.spec.targets:
            yield ObjectKey(item.mesh, VIRTUAL_NODE, "", target.virtual_node)
    elif isinstance(item, GatewayRoute):
        yield ObjectKey(item.mesh, VIRTUAL_SERVICE, "", item.spec.target.virtual_service.virtual_service_name)


def _providers(service: VirtualService) -> Iterator[ObjectKey]:
    provider = service.spec.provider
    if provider is not None and provider.virtual_router is not None:
        yield ObjectKey(service.mesh, VIRTUAL_ROUTER, "", provider.virtual_router.virtual_router_name)
    if provider is not None and provider.virtual_node is not None:
        yield ObjectKey(service.mesh, VIRTUAL_NODE, "", provider.virtual_node.virtual_node_name)


class Links:
    """Who names an object."""

    def __init__(self, named_by: dict[ObjectKey, frozenset[ObjectKey]]) -> None:
        self._named_by = named_by

    @classmethod
    def among(cls, objects: Mapping[ObjectKey, MeshObject]) -> Links:
        """Index all objects."""
        found: dict[ObjectKey, set[ObjectKey]] = {}
        for key, item in objects.items():
            for name in names_of(item):
                found.setdefault(name, set()).add(key)
        return cls({name: frozenset(keys) for name, keys in found.items()})

    def changed(self, before: Mapping[ObjectKey, MeshObject], changes: Changes) -> Links:
        """Return the index after the changes."""
        named_by = dict(self._named_by)
        for key, item in changes.items():
            old = names_of(before[key]) if key in before else _NOBODY
            new = names_of(item) if item is not None else _NOBODY
            for name in old - new:
                named_by[name] -= {key}
            for name in new - old:
                named_by[name] = named_by.get(name, _NOBODY) | {key}
        return Links(named_by)

    def to(self, key: ObjectKey) -> frozenset[ObjectKey]:
        """Return the objects that name this one."""
        return self._named_by.get(key, _NOBODY)

    def concerned(self, changed: Iterable[ObjectKey]) -> set[ObjectKey]:
        """Return the changed objects and those whose references have to be checked again because of them."""
        found: set[ObjectKey] = set()
        for key in changed:
            found.add(key)
            for referrer in self.to(key):
                found.add(referrer)
                # A gateway route is held to the ports of the router or node behind its service (R4).
                if referrer.kind == VIRTUAL_SERVICE:
                    found |= {one for one in self.to(referrer) if one.kind == GATEWAY_ROUTE}
        return found


def changed_keys(before: Mapping[ObjectKey, MeshObject], after: Mapping[ObjectKey, MeshObject]) -> frozenset[ObjectKey]:
    """Return which objects are added, changed or removed; sets made from each other share what is the same."""
    found = {key for key, item in after.items() if (old := before.get(key)) is not item and old != item}
    return frozenset(found | (before.keys() - after.keys()))


def is_far_reaching(objects: Mapping[ObjectKey, MeshObject], changes: Changes) -> bool:
    """Tell whether to start from scratch: a mesh comes or goes, or half of everything changes."""
    comes_or_goes = any(key.kind == MESH and (item is None or key not in objects) for key, item in changes.items())
    return comes_or_goes or 2 * len(changes) >= len(objects)
