"""What one node or gateway calls: its services at their ports, and the clusters that lead there.

Rules kept here:
- A cluster speaks TLS where the client policy matches the port and enforces, or where the server's listener does; the
  server is validated always, where App Mesh left some unvalidated.
- Two services that lead to one node don't share a cluster, because each validates against the servers that its own
  policy admits; the later one (in name order) adds its name to App Mesh's.
- The pool of a gateway's listener limits each of its clusters: App Mesh put it on the hop that is not taken here.
"""

from __future__ import annotations

import functools
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from meshca.envoy import clusters, endpoints, families, names, routes, tls
from meshca.envoy.clusters import NodeCluster, Shared
from meshca.envoy.drains import UNRAISED, token
from meshca.envoy.resources import Generated
from meshca.envoy.services import Rule, ServicePort, Services, Target, services
from meshca.envoy.snapshot import Snapshot
from meshca.mesh.model import Caller, VirtualGateway, VirtualNode
from meshca.mesh.spec.tls import ClientPolicyTls
from meshca.policy.sides import client_policy
from meshca.spiffe.id import SpiffeId


class ClusterKey(NamedTuple):
    """What a caller has a cluster for."""

    service: str
    node: str
    port: int


@dataclass(frozen=True, slots=True, eq=False)
class Backend:
    """A service at one of its ports, as one caller calls it."""

    at: ServicePort
    policy: ClientPolicyTls | None

    @property
    def service(self) -> str:
        """The service's name."""
        return self.at.service

    def encrypted(self, target: Target) -> bool:
        """Tell whether the caller speaks TLS to this target."""
        own = target.listener.tls
        serves = own is not None and own.mode != "DISABLED"
        if self.policy is not None and (self.policy.ports is None or target.port in self.policy.ports):
            return self.policy.enforce or serves
        return serves

    def key(self, target: Target) -> ClusterKey:
        """Return what the cluster of this target is known by."""
        return ClusterKey(self.service, target.node.name, target.port)


@dataclass(frozen=True, slots=True, eq=False)
class Calls:
    """All that one node or gateway calls, with all that its parts are derived from."""

    caller: Caller
    client: SpiffeId
    snapshot: Snapshot
    resolved: Services
    backends: tuple[Backend, ...]
    idle: tuple[str, ...]
    """Services that lead to no listener at all."""
    cluster_names: Mapping[ClusterKey, str]

    def shares(self, backend: Backend, rule: Rule) -> tuple[routes.Share, ...]:
        """Return the clusters of a rule and their weights."""
        return tuple(routes.Share(self.cluster_names[backend.key(one)], one.weight) for one in rule.targets)

    def drain(self, backends: Iterable[Backend]) -> str:
        """Return the drain token of all servers behind these backends."""
        epochs = self.snapshot.epochs
        return token(epochs, (scope for one in backends for scope in self._scopes(one))) if epochs else UNRAISED

    def _scopes(self, backend: Backend) -> Iterator[str]:
        """Return the drain scopes of one backend: itself, and every server that it leads to or that policy admits."""
        servers = {self.snapshot.identities.of(target.node.key) for target in backend.at.targets}
        servers |= self.snapshot.policy.admitted_servers(self.caller.key, backend.service)
        yield names.backend_scope(self.client, backend.service)
        yield from map(names.identity_scope, servers)


def calls_of(caller: Caller, snapshot: Snapshot) -> Calls:
    """Resolve all that a node or gateway calls."""
    resolved = services(snapshot.mesh_set)
    backends: list[Backend] = []
    idle: list[str] = []
    says_something = _has_policy(caller)
    for service in snapshot.mesh_set.services_of(caller):
        ports = resolved.ports(service)
        policy = client_policy(caller, service.name)[1] if says_something else None
        backends += [Backend(port, policy.tls if policy else None) for port in ports]
        if not ports:
            idle.append(service.name)
    return Calls(
        caller=caller,
        client=snapshot.identities.of(caller.key),
        snapshot=snapshot,
        resolved=resolved,
        backends=tuple(backends),
        idle=tuple(idle),
        cluster_names=_cluster_names(caller.mesh, backends),
    )


def _has_policy(caller: Caller) -> bool:
    own = caller.spec.backends if isinstance(caller, VirtualNode) else ()
    return caller.spec.backend_defaults is not None or any(one.service.client_policy for one in own)


def call_clusters(calls: Calls) -> list[Generated]:
    """Return the clusters, and the endpoints of those that no DNS finds, of all that is called.

    Raises:
        ConflictError: an endpoint is no IP address.
    """
    preference = families.of_mesh(calls.snapshot.mesh_set, calls.caller.mesh)
    pool, sni = _pool(calls.caller), names.sni_for(calls.client).encode()
    built: dict[str, Generated] = {}
    found: list[Generated] = []
    for backend in calls.backends:
        drain = calls.drain([backend])
        for target in backend.at.targets:
            name = calls.cluster_names[backend.key(target)]
            if name in built:
                continue
            plan = _Plan(backend, target, name, drain, pool, preference)
            built[name] = calls.resolved.once(plan.key, plan.shared).cluster(sni)
            if _dns(target.node) is None:
                known = calls.snapshot.endpoints.get(target.node.key, ())
                where = endpoints.addresses(target.node, target.port, known, plan.ip_preference)
                found.append(endpoints.discovered(name, where))
    return [*built.values(), *found]


class _Plan(NamedTuple):
    """A cluster, but for who calls."""

    backend: Backend
    target: Target
    name: str
    drain: str
    pool: clusters.Limits
    of_mesh: str | None

    @property
    def key(self) -> Hashable:
        """What callers whose clusters differ in nothing but the caller have in common."""
        return ("cluster", self.name, self.target.node.key, self.backend.service, self.backend.policy, *self[3:])

    @property
    def ip_preference(self) -> str | None:
        return families.own(self.target.node) or self.of_mesh

    def shared(self) -> Shared:
        node, target = self.target.node, self.target
        dns = node.spec.service_discovery.dns if node.spec.service_discovery else None
        plan = NodeCluster(self.name, target.listener, dns, _host(node), self.ip_preference, self.drain, self.pool)
        context = names.servers_name(self.backend.service)
        socket = functools.partial(tls.upstream, target.protocol, context) if self.backend.encrypted(target) else None
        return Shared(clusters.node_cluster(plan), socket)


def _dns(node: VirtualNode) -> object | None:
    return node.spec.service_discovery.dns if node.spec.service_discovery else None


def _host(node: VirtualNode) -> str:
    """Return what a node is called: by DNS, in Cloud Map, or by its own name."""
    discovery = node.spec.service_discovery
    if discovery is None:
        return node.name
    if discovery.dns is not None:
        return discovery.dns.hostname
    assert discovery.aws_cloud_map is not None  # noqa: S101 - the union's rule, for the type checker
    return f"{discovery.aws_cloud_map.service_name}.{discovery.aws_cloud_map.namespace_name}"


def _pool(caller: Caller) -> clusters.Limits:
    """Return what a gateway's pools limit: of several, the widest, and nothing where a listener has none."""
    if not isinstance(caller, VirtualGateway):
        return ()
    every = [dict(clusters.limits(listener.connection_pool)) for listener in caller.spec.listeners]
    common = set.intersection(*map(set, every))
    return tuple((name, max(one[name] for one in every)) for name in sorted(common))


def _cluster_names(mesh: str, backends: Iterable[Backend]) -> dict[ClusterKey, str]:
    """Name each cluster as App Mesh did."""
    found: dict[ClusterKey, str] = {}
    taken: set[str] = set()
    for backend in backends:
        for target in backend.at.targets:
            name = names.egress_cluster(mesh, target.node.name, target.protocol, target.port)
            key = backend.key(target)
            if key not in found:
                found[key] = f"{name}_{backend.service}" if name in taken else name
                taken.add(found[key])
    return found
