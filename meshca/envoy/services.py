"""What a virtual service leads to: provider, router and routes, resolved to nodes and their listeners.

Rules kept here:
- A service is called at each port of its router, or of the node that provides it; a router without listeners is called
  at its first target's port.
- Routes are tried by priority, then as matches.py says, then by name. A route belongs to one port.
- What follows from a mesh set alone is worked out once for all callers, and shared.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from meshca.envoy.matches import EVERYTHING, Match, Precedence, of_grpc, of_http
from meshca.mesh.forest import MeshSet
from meshca.mesh.model import Route, VirtualNode, VirtualRouter, VirtualService
from meshca.mesh.spec.listeners import Listener
from meshca.mesh.spec.routes import GrpcRoute, HttpRetryPolicy, HttpRoute
from meshca.mesh.spec.transport import Duration, PortMapping, RequestTimeout

LAST_PRIORITY = 1001  # one more than App Mesh's lowest
_MOST_KEPT = 100_000

T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """A virtual node's listener, as one service leads to it, and its share."""

    node: VirtualNode
    listener: Listener
    weight: int

    @property
    def port(self) -> int:
        """The port at which the node takes the call."""
        return self.listener.port_mapping.port

    @property
    def protocol(self) -> str:
        """What is spoken there."""
        return self.listener.port_mapping.protocol


@dataclass(frozen=True, slots=True, eq=False)
class Rule:
    """One route of a service; a service that a node provides has one rule for everything."""

    match: Match
    targets: tuple[Target, ...]
    timeout: RequestTimeout | None = None
    retry: HttpRetryPolicy | None = None
    idle: Duration | None = None
    """How long a TCP connection may be idle."""
    priority: int = LAST_PRIORITY


@dataclass(frozen=True, slots=True, eq=False)
class ServicePort:
    """A virtual service at one of its ports."""

    service: str
    protocol: str
    port: int
    rules: tuple[Rule, ...]
    targets: tuple[Target, ...] = field(init=False)
    """The listeners that any of its rules leads to, each once."""

    def __post_init__(self) -> None:
        every = {(one.node.key, one.port): one for rule in self.rules for one in rule.targets}
        object.__setattr__(self, "targets", tuple(every.values()))


class Services:
    """The services of a mesh set, resolved when first asked for, and what was built of them."""

    def __init__(self, mesh_set: MeshSet) -> None:
        self._mesh_set = mesh_set
        self._kept: dict[Hashable, Any] = {}

    def ports(self, service: VirtualService) -> tuple[ServicePort, ...]:
        """Return a service at each of its ports; none where it leads to no listener."""
        return self.once(service.key, lambda: tuple(_resolve(self._mesh_set, service)))

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return what ``make`` returned for this key the first time."""
        found: T | None = self._kept.get(key)
        if found is None:
            if len(self._kept) >= _MOST_KEPT:
                self._kept.clear()
            found = self._kept[key] = make()
        return found


@functools.lru_cache(maxsize=3)
def services(mesh_set: MeshSet) -> Services:
    """Return the resolved services of a mesh set; a set is itself only, and never changes."""
    return Services(mesh_set)


def _resolve(mesh_set: MeshSet, service: VirtualService) -> list[ServicePort]:
    router = mesh_set.router_of(service)
    if router is None:
        return _of_node(mesh_set, service)
    rules = [(route.spec.port, _rule(mesh_set, route)) for route in sorted(mesh_set.routes_of(router), key=_order)]
    mappings = tuple(listener.port_mapping for listener in router.spec.listeners) or _first_target(router, rules)
    return [
        ServicePort(
            service.name,
            mapping.protocol,
            mapping.port,
            tuple(rule for port, rule in rules if port in {None, mapping.port}),
        )
        for mapping in mappings
    ]


def _of_node(mesh_set: MeshSet, service: VirtualService) -> list[ServicePort]:
    return [
        ServicePort(service.name, own.protocol, own.port, (Rule(EVERYTHING, (Target(one.node, listener, 1),)),))
        for one in mesh_set.targets(service)
        for listener in one.node.spec.listeners
        for own in (listener.port_mapping,)
    ]


def _first_target(_: VirtualRouter, rules: list[tuple[int | None, Rule]]) -> tuple[PortMapping, ...]:
    return tuple(target.listener.port_mapping for _, rule in rules for target in rule.targets)[:1]


def _match(route: Route) -> Match:
    written = route.spec.route
    if isinstance(written, HttpRoute):
        return of_http(written.match)
    return of_grpc(written.match) if isinstance(written, GrpcRoute) else EVERYTHING


def priority_of(written: int | None) -> int:
    """Return a priority, the lowest where none is written."""
    return LAST_PRIORITY if written is None else written


def _order(route: Route) -> tuple[int, Precedence, str]:
    return (priority_of(route.spec.priority), _match(route).precedence(), route.name)


def _rule(mesh_set: MeshSet, route: Route) -> Rule:
    written = route.spec.route
    targets = tuple(
        Target(node, listener, weighted.weight)
        for weighted in route.spec.targets
        for node in (mesh_set.node(route.mesh, weighted.virtual_node),)
        for listener in _listeners(node, weighted.port)
    )
    priority = priority_of(route.spec.priority)
    if isinstance(written, HttpRoute | GrpcRoute):
        return Rule(_match(route), targets, written.timeout, written.retry_policy, priority=priority)
    return Rule(EVERYTHING, targets, idle=written.timeout.idle if written.timeout else None, priority=priority)


def _listeners(node: VirtualNode, port: int | None) -> tuple[Listener, ...]:
    """Return the one listener that a target means; none where the node takes no traffic."""
    return tuple(one for one in node.spec.listeners if port in {None, one.port_mapping.port})[:1]
