"""Who reaches whom by configuration: backends and gateway routes, through services and routers, to nodes and ports.

Rules kept here:
- P1 A node reaches the virtual services it lists as backends, a gateway those that its routes lead to. Nothing else: an
  egress filter of ALLOW_ALL is no backend.
- P2 A service leads to its provider: a node (any of its ports), or the targets of its router's routes (their port).
- P3 A target of weight 0 is reached as well: the next apply may shift traffic there, and must not be locked out.
- P4 Ports count: who reaches one port of a node does not thereby reach another.
- A graph after a change is walked only where the change leads, and is equal to one walked from scratch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from meshca.mesh.model import (
    GATEWAY_ROUTE,
    IDENTITY_KINDS,
    PARENT_KINDS,
    ROUTE,
    VIRTUAL_NODE,
    VIRTUAL_ROUTER,
    VIRTUAL_SERVICE,
    ObjectKey,
    VirtualService,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from meshca.mesh.forest import MeshSet, Target
    from meshca.mesh.model import Caller

Endpoint: TypeAlias = tuple[ObjectKey, int]
"""A node (or gateway) and one of its listener ports."""


@dataclass(frozen=True, slots=True)
class Reach:
    """The graph, indexed both ways."""

    services: dict[ObjectKey, tuple[str, ...]] = field(default_factory=dict)
    """The services that each node and gateway calls, by name."""
    targets: dict[ObjectKey, tuple[Target, ...]] = field(default_factory=dict)
    """Where each service leads."""
    callers: dict[Endpoint, frozenset[ObjectKey]] = field(default_factory=dict)
    """Who reaches each endpoint."""

    def targets_of(self, mesh: str, service: str) -> tuple[Target, ...]:
        """Return where a service leads; nowhere if there is none of that name."""
        return self.targets.get(ObjectKey(mesh, VIRTUAL_SERVICE, "", service), ())


class Walked(NamedTuple):
    """What a walk from one state to the next found different."""

    callers: set[ObjectKey]
    """Nodes and gateways that call other services than before, or whose services lead elsewhere."""
    endpoints: set[Endpoint]
    """Where other callers arrive than before."""


def reach(mesh_set: MeshSet) -> Reach:
    """Walk the whole graph."""
    graph = Reach()
    for service in mesh_set.services():
        graph.targets[service.key] = mesh_set.targets(service)
    arriving: dict[Endpoint, set[ObjectKey]] = {}
    for caller in mesh_set.callers():
        graph.services[caller.key] = _services(mesh_set, caller)
        for endpoint in _endpoints(graph, caller.key):
            arriving.setdefault(endpoint, set()).add(caller.key)
    graph.callers.update({endpoint: frozenset(callers) for endpoint, callers in arriving.items()})
    return graph


def reach_again(old: Reach, before: MeshSet, after: MeshSet, changed: Collection[ObjectKey]) -> tuple[Reach, Walked]:
    """Walk only where the changed objects lead, and return the graph with what is different in it."""
    graph = Reach(old.services.copy(), old.targets.copy(), old.callers.copy())
    services = services_through(changed, before) | services_through(changed, after)
    for key in services:
        service = after.find(key)
        if isinstance(service, VirtualService):
            graph.targets[key] = after.targets(service)
        else:
            graph.targets.pop(key, None)
    callers = _callers_of(changed, services, before) | _callers_of(changed, services, after)
    endpoints: set[Endpoint] = set()
    for key in callers:
        left = set(_endpoints(old, key))
        graph.services.pop(key, None)
        if after.find(key) is not None:
            graph.services[key] = _services(after, after.caller(key))
        reached = set(_endpoints(graph, key))
        for endpoint in left ^ reached:
            arriving = graph.callers.get(endpoint, frozenset()) ^ {key}
            endpoints.add(endpoint)
            if arriving:
                graph.callers[endpoint] = arriving
            else:
                del graph.callers[endpoint]
    return graph, Walked(callers, endpoints)


def callers_of(services: Iterable[ObjectKey], mesh_set: MeshSet) -> set[ObjectKey]:
    """Return the nodes and gateways that call one of these services."""
    return {caller for service in services for caller in _calling(service, mesh_set)}


def _services(mesh_set: MeshSet, caller: Caller) -> tuple[str, ...]:
    return tuple(service.name for service in mesh_set.services_of(caller))


def _endpoints(graph: Reach, caller: ObjectKey) -> Iterator[Endpoint]:
    for service in graph.services.get(caller, ()):
        for target in graph.targets_of(caller.mesh, service):
            for port in target.ports:
                yield target.node.key, port


def services_through(changed: Collection[ObjectKey], mesh_set: MeshSet) -> set[ObjectKey]:
    """Return the services that are changed, or lead through or to what is changed: the names followed backwards."""
    steps = set(changed)
    for key in changed:
        if key.kind == VIRTUAL_NODE:
            steps |= {one for one in mesh_set.links.to(key) if one.kind in {ROUTE, VIRTUAL_SERVICE}}
    routers = {ObjectKey(key.mesh, PARENT_KINDS[ROUTE], "", key.parent) for key in steps if key.kind == ROUTE}
    routers |= {key for key in steps if key.kind == VIRTUAL_ROUTER}
    steps |= {one for router in routers for one in mesh_set.links.to(router)}
    return {key for key in steps if key.kind == VIRTUAL_SERVICE}


def _callers_of(changed: Iterable[ObjectKey], services: Iterable[ObjectKey], mesh_set: MeshSet) -> set[ObjectKey]:
    found = callers_of(services, mesh_set)
    for key in changed:
        if key.kind in IDENTITY_KINDS:
            found.add(key)
        elif key.kind == GATEWAY_ROUTE:
            found.add(_gateway(key))
    return found


def _calling(service: ObjectKey, mesh_set: MeshSet) -> Iterator[ObjectKey]:
    for key in mesh_set.links.to(service):
        if key.kind in IDENTITY_KINDS:
            yield key
        elif key.kind == GATEWAY_ROUTE:
            yield _gateway(key)


def _gateway(route: ObjectKey) -> ObjectKey:
    return ObjectKey(route.mesh, PARENT_KINDS[GATEWAY_ROUTE], "", route.parent)
