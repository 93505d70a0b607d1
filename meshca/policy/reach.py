"""Who reaches whom by configuration: backends and gateway routes, through services and routers, to nodes and ports.

Rules kept here:
- P1 A node reaches the virtual services it lists as backends, a gateway those that its routes lead to. Nothing else: an
  egress filter of ALLOW_ALL is no backend.
- P2 A service leads to its provider: a node (any of its ports), or the targets of its router's routes (their port).
- P3 A target of weight 0 is reached as well: the next apply may shift traffic there, and must not be locked out.
- P4 Ports count: who reaches one port of a node does not thereby reach another.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from meshca.mesh.model import VIRTUAL_SERVICE, ObjectKey

if TYPE_CHECKING:
    from meshca.mesh.forest import MeshSet, Target

Endpoint: TypeAlias = tuple[ObjectKey, int]
"""A node (or gateway) and one of its listener ports."""


@dataclass(frozen=True, slots=True)
class Reach:
    """The graph, indexed both ways."""

    services: dict[ObjectKey, tuple[str, ...]] = field(default_factory=dict)
    """The services that each node and gateway calls, by name."""
    targets: dict[ObjectKey, tuple[Target, ...]] = field(default_factory=dict)
    """Where each service leads."""
    callers: dict[Endpoint, set[ObjectKey]] = field(default_factory=lambda: defaultdict(set))
    """Who reaches each endpoint."""

    def targets_of(self, mesh: str, service: str) -> tuple[Target, ...]:
        """Return where a service leads; nowhere if there is none of that name."""
        return self.targets.get(ObjectKey(mesh, VIRTUAL_SERVICE, "", service), ())


def reach(mesh_set: MeshSet) -> Reach:
    """Walk the graph once."""
    graph = Reach()
    endpoints: dict[ObjectKey, tuple[Endpoint, ...]] = {}
    for service in mesh_set.services():
        targets = mesh_set.targets(service)
        graph.targets[service.key] = targets
        endpoints[service.key] = tuple({(target.node.key, port) for target in targets for port in target.ports})
    for caller in mesh_set.callers():
        services = mesh_set.services_of(caller)
        graph.services[caller.key] = tuple(service.name for service in services)
        for service in services:
            for endpoint in endpoints[service.key]:
                graph.callers[endpoint].add(caller.key)
    return graph
