"""What one client reaches: its backends, resolved through providers, routers and routes to nodes.

Rules kept here:
- A cluster speaks TLS where the client policy matches the port and enforces, or where the server's listener does; the
  server is validated always, where App Mesh left some unvalidated.
- Routes are tried by priority, then longest prefix, then name.
"""

from __future__ import annotations

from dataclasses import dataclass

from meshca.mesh.forest import MeshSet
from meshca.mesh.model import Route, VirtualNode, VirtualRouter, VirtualService
from meshca.mesh.spec.listeners import Listener
from meshca.mesh.spec.routes import GrpcRoute, HttpRoute, TcpRoute
from meshca.mesh.spec.tls import ClientPolicyTls
from meshca.mesh.spec.transport import Duration, PortMapping, RequestTimeout
from meshca.policy.sides import client_policy

_LAST_PRIORITY = 1001  # one more than App Mesh's lowest


@dataclass(frozen=True, slots=True)
class Target:
    """A virtual node's listener, as one service leads to it, and its share."""

    node: VirtualNode
    listener: Listener
    weight: int


@dataclass(frozen=True, slots=True)
class Rule:
    """One route of a service; a service that a node provides has one rule for everything."""

    prefix: str
    targets: tuple[Target, ...]
    timeout: RequestTimeout | None = None
    idle: Duration | None = None
    grpc: bool = False


@dataclass(frozen=True, slots=True)
class Backend:
    """A virtual service as one client calls it."""

    service: str
    protocol: str
    port: int
    rules: tuple[Rule, ...]
    policy: ClientPolicyTls | None

    @property
    def targets(self) -> tuple[Target, ...]:
        """The nodes that any of its rules leads to."""
        return tuple(target for rule in self.rules for target in rule.targets)

    def encrypted(self, target: Target) -> bool:
        """Tell whether the client speaks TLS to this target."""
        serves = target.listener.tls is not None and target.listener.tls.mode != "DISABLED"
        port = target.listener.port_mapping.port
        if self.policy is not None and (self.policy.ports is None or port in self.policy.ports):
            return self.policy.enforce or serves
        return serves


@dataclass(frozen=True, slots=True)
class Backends:
    """All that one client calls, by service name; ``idle`` are those that lead to no listener at all."""

    active: tuple[Backend, ...]
    idle: tuple[str, ...]


def backends_of(client: VirtualNode, mesh_set: MeshSet) -> Backends:
    """Resolve the backends of a node."""
    active: list[Backend] = []
    idle: list[str] = []
    for service in mesh_set.services_of(client):
        _, policy = client_policy(client, service.name)
        backend = _backend(mesh_set, service, policy.tls if policy else None)
        if backend is None:
            idle.append(service.name)
        else:
            active.append(backend)
    return Backends(tuple(active), tuple(idle))


def _backend(mesh_set: MeshSet, service: VirtualService, policy: ClientPolicyTls | None) -> Backend | None:
    router = mesh_set.router_of(service)
    rules = _provider_rules(mesh_set, service) if router is None else _router_rules(mesh_set, router)
    mapping = _port_of(router, rules)
    if mapping is None:
        return None
    return Backend(service.name, mapping.protocol, mapping.port, rules, policy)


def _port_of(router: VirtualRouter | None, rules: tuple[Rule, ...]) -> PortMapping | None:
    """Return the port at which a service is called: its router's, else its first target's."""
    if router is not None and router.spec.listeners:
        return router.spec.listeners[0].port_mapping
    return next((target.listener.port_mapping for rule in rules for target in rule.targets), None)


def _provider_rules(mesh_set: MeshSet, service: VirtualService) -> tuple[Rule, ...]:
    reached = mesh_set.targets(service)
    targets = tuple(Target(one.node, one.node.spec.listeners[0], 1) for one in reached if one.node.spec.listeners)
    return (Rule("/", targets),) if targets else ()


def _router_rules(mesh_set: MeshSet, router: VirtualRouter) -> tuple[Rule, ...]:
    ordered = sorted(mesh_set.routes_of(router), key=_precedence)
    return tuple(_rule(mesh_set, route) for route in ordered)


def _precedence(route: Route) -> tuple[int, int, str]:
    priority = _LAST_PRIORITY if route.spec.priority is None else route.spec.priority
    return (priority, -len(_prefix(route.spec.route)), route.name)


def _prefix(route: HttpRoute | GrpcRoute | TcpRoute) -> str:
    return route.match.prefix or "/" if isinstance(route, HttpRoute) else "/"


def _rule(mesh_set: MeshSet, route: Route) -> Rule:
    written = route.spec.route
    targets = tuple(
        Target(node, listener, weighted.weight)
        for weighted in route.spec.targets
        for node in (mesh_set.node(route.mesh, weighted.virtual_node),)
        for listener in _listeners(node, weighted.port)
    )
    if isinstance(written, TcpRoute):
        return Rule("/", targets, idle=written.timeout.idle if written.timeout else None)
    return Rule(_prefix(written), targets, written.timeout, grpc=isinstance(written, GrpcRoute))


def _listeners(node: VirtualNode, port: int | None) -> tuple[Listener, ...]:
    """Return the one listener that a target means; none where the node takes no traffic."""
    return tuple(one for one in node.spec.listeners if port in {None, one.port_mapping.port})[:1]
