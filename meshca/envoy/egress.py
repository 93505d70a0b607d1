"""The egress side of a node: where its application finds each backend, and what leads there.

Rules kept here (measured, design: what real Envoy does):
- One listener per backend port, so that ending the streams to one server cuts as little else as possible; the name of
  its filter chain carries the drain epochs of the servers behind it, as the metadata of their clusters does.
- A port that the node itself serves is moved to App Mesh's 15001: the application or the ingress already has it.
- Only backends are reachable: nothing leads to a host that no backend names.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from meshca.envoy import clusters, http, listeners, names, routes, tcp, tls
from meshca.envoy.backends import Backend, Backends, Rule, Target, backends_of
from meshca.envoy.drains import token
from meshca.envoy.placement import Placement
from meshca.envoy.resources import Generated, generated
from meshca.envoy.snapshot import Snapshot
from meshca.errors import ConflictError
from meshca.mesh.model import VirtualNode
from meshca.spiffe.id import SpiffeId

DISPLACED_PORT = 15001


@dataclass(frozen=True, slots=True)
class _Egress:
    """What one client calls, with all that its parts are derived from."""

    node: VirtualNode
    client: SpiffeId
    backends: Backends
    snapshot: Snapshot
    placement: Placement
    cluster_names: Mapping[tuple[str, str, int], str]
    scopes: Mapping[str, tuple[str, ...]]
    ip_preference: str | None

    def shares(self, backend: Backend, rule: Rule) -> list[routes.Share]:
        """Return the clusters of a rule and their weights."""
        return [routes.Share(self.cluster_names[_cluster_key(backend, one)], one.weight) for one in rule.targets]

    def drain(self, backends: Iterable[Backend]) -> str:
        """Return the drain token of all servers behind these backends."""
        return token(self.snapshot.epochs, (scope for one in backends for scope in self.scopes[one.service]))


def egress(node: VirtualNode, snapshot: Snapshot, placement: Placement) -> list[Generated]:
    """Return clusters, listeners and routes of all that a node calls.

    Raises:
        ConflictError: two ports would have to be moved to the same one.
    """
    backends = backends_of(node, snapshot.mesh_set)
    discovery = snapshot.mesh_set.mesh(node.mesh).spec.service_discovery
    plan = _Egress(
        node=node,
        client=snapshot.identities.of(node.key),
        backends=backends,
        snapshot=snapshot,
        placement=placement,
        cluster_names=_cluster_names(node, backends.active),
        scopes={backend.service: _scopes(node, backend, snapshot) for backend in backends.active},
        ip_preference=discovery.ip_preference if discovery else None,
    )
    return [*map(generated, _clusters(plan)), *_http(plan), *map(generated, _tcp_listeners(plan))]


def _scopes(node: VirtualNode, backend: Backend, snapshot: Snapshot) -> tuple[str, ...]:
    """Return the drain scopes of one backend: itself, and every server that it leads to or that policy admits."""
    servers = {snapshot.identities.of(target.node.key) for target in backend.targets}
    servers |= snapshot.policy.admitted_servers(node.key, backend.service)
    client = snapshot.identities.of(node.key)
    return (names.backend_scope(client, backend.service), *map(names.identity_scope, servers))


def _cluster_key(backend: Backend, target: Target) -> tuple[str, str, int]:
    return (backend.service, target.node.name, target.listener.port_mapping.port)


def _cluster_names(node: VirtualNode, backends: Iterable[Backend]) -> dict[tuple[str, str, int], str]:
    """Name each cluster as App Mesh did; where two services lead to one node, the later adds its own name.

    They cannot share a cluster, because each validates against the servers that its own policy admits.
    """
    found: dict[tuple[str, str, int], str] = {}
    for backend in backends:
        for target in backend.targets:
            mapping, key = target.listener.port_mapping, _cluster_key(backend, target)
            name = names.egress_cluster(node.mesh, target.node.name, mapping.protocol, mapping.port)
            if key not in found:
                found[key] = f"{name}_{backend.service}" if name in found.values() else name
    return found


def _clusters(plan: _Egress) -> Iterable[Any]:
    built: set[str] = set()
    for backend in plan.backends.active:
        for target in backend.targets:
            name = plan.cluster_names[_cluster_key(backend, target)]
            if name not in built:
                built.add(name)
                yield _cluster(plan, backend, target, name)


def _cluster(plan: _Egress, backend: Backend, target: Target, name: str) -> Any:
    discovery = target.node.spec.service_discovery
    dns = discovery.dns if discovery else None
    socket = None
    if backend.encrypted(target):
        protocol = target.listener.port_mapping.protocol
        socket = tls.upstream(protocol, names.servers_name(backend.service), names.sni_for(plan.client))
    return clusters.node_cluster(
        clusters.NodeCluster(
            name=name,
            listener=target.listener,
            dns=dns,
            ip_preference=(dns.ip_preference if dns else None) or plan.ip_preference,
            drain=plan.drain([backend]),
            transport_socket=socket,
        )
    )


def _http(plan: _Egress) -> Iterable[Generated]:
    by_port: dict[int, list[Backend]] = defaultdict(list)
    for backend in plan.backends.active:
        if backend.protocol != "tcp":
            by_port[backend.port].append(backend)
    bound = _bound_ports(plan, by_port)
    for port, backends in sorted(by_port.items()):
        yield generated(_http_listener(plan, port, bound[port], backends))
        yield generated(_route_table(plan, port, bound[port], backends))


def _bound_ports(plan: _Egress, wanted: Iterable[int]) -> dict[int, int]:
    own = {listener.port_mapping.port for listener in plan.node.spec.listeners}
    taken = own | {port for port in (plan.placement.ingress_port,) if port is not None}
    bound = {port: DISPLACED_PORT if port in taken else port for port in sorted(wanted)}
    if len(set(bound.values())) != len(bound) or (DISPLACED_PORT in taken and DISPLACED_PORT in bound.values()):
        raise ConflictError(
            f"its backends' ports {sorted(bound)} do not fit beside its own {sorted(taken)}",
            field=str(plan.node.key),
            remedy=f"at most one of them can be moved to {DISPLACED_PORT}",
        )
    return bound


def _http_listener(plan: _Egress, port: int, bound: int, backends: list[Backend]) -> Any:
    manager = http.egress_filter(names.egress_routes(port), plan.node.spec.logging)
    chain = listeners.chain(f"egress:{port}#{plan.drain(backends)}", [manager])
    host = plan.placement.egress_host
    return listeners.listener(names.egress_listener(host, bound), host, bound, [chain], listeners.OUTBOUND)


def _route_table(plan: _Egress, port: int, bound: int, backends: list[Backend]) -> Any:
    hosts = [_virtual_host(plan, backend, {port, bound}) for backend in backends]
    # A service without a provider has no port of its own: it answers 503 wherever the client calls others.
    hosts += [
        routes.host(service, _domains(service, {port, bound}), [routes.unavailable(routes.everything())])
        for service in plan.backends.idle
    ]
    return routes.table(names.egress_routes(port), hosts)


def _virtual_host(plan: _Egress, backend: Backend, ports: set[int]) -> Any:
    built = [
        routes.forward(routes.match(rule.prefix, grpc=rule.grpc), plan.shares(backend, rule), rule.timeout, retry=True)
        for rule in backend.rules
    ]
    return routes.host(backend.service, _domains(backend.service, ports), built)


def _domains(service: str, ports: set[int]) -> list[str]:
    return [service, *(f"{service}:{port}" for port in sorted(ports))]


def _tcp_listeners(plan: _Egress) -> Iterable[Any]:
    backends = [backend for backend in plan.backends.active if backend.protocol == "tcp"]
    addresses = tcp.addresses((backend.service for backend in backends), plan.placement.egress_host)
    for backend in backends:
        shares = plan.shares(backend, backend.rules[0]) if backend.rules else []
        if any(share.weight for share in shares):  # else there is no listener, and TCP's 503 is a refused connection
            yield _tcp_listener(plan, backend, addresses[backend.service], shares)


def _tcp_listener(plan: _Egress, backend: Backend, host: str, shares: list[routes.Share]) -> Any:
    proxy = tcp.proxy("egress", shares, backend.rules[0].idle, plan.node.spec.logging)
    chain = listeners.chain(f"egress:{backend.service}:{backend.port}#{plan.drain([backend])}", [proxy])
    name = names.egress_listener(host, backend.port)
    return listeners.listener(name, host, backend.port, [chain], listeners.OUTBOUND)
