"""Who may call whom.

Rules kept here:
- A Policy is built once from a mesh set and its identities, and never changes; every answer is a look-up.
- A policy made from another looks again only at the callers that a change leads to, and is equal to one made from
  scratch. What both sides of a caller say is kept together, so that who is the same is known by identity.
- Default deny: an endpoint, client or service that is not in the mesh admits nobody.
- A call is allowed only if the client reaches the server (reach.py) and both sides admit each other (sides.py).
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, NamedTuple

from meshca.mesh.model import VIRTUAL_NODE
from meshca.policy.decision import Decision, decide
from meshca.policy.names import NameReader
from meshca.policy.reach import Reach, reach, reach_again
from meshca.policy.sides import Admission, client_admission, listener_admission, unenforced

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from meshca.mesh.findings import Finding
    from meshca.mesh.forest import MeshSet
    from meshca.mesh.identity import Identities
    from meshca.mesh.model import Caller, ObjectKey
    from meshca.spiffe.id import SpiffeId, TrustDomain

_NOBODY: frozenset[SpiffeId] = frozenset()


class Permission(NamedTuple):
    """A client that a listener admits."""

    client: SpiffeId
    server: SpiffeId
    port: int


class BackendPermission(NamedTuple):
    """A server that a client accepts behind one of its services."""

    client: SpiffeId
    service: str
    server: SpiffeId


class Sides(NamedTuple):
    """What one node or gateway says: whom its listeners admit, by port, and whom it accepts, by service."""

    listeners: Mapping[int, Admission]
    backends: Mapping[str, Admission]
    enforced: frozenset[int]
    findings: tuple[Finding, ...]


class Policy:
    """Who may call whom in one state of the meshes."""

    def __init__(self, mesh_set: MeshSet, identities: Identities, trust_domain: TrustDomain) -> None:
        self.trust_domain = trust_domain
        self.mesh_set = mesh_set
        self.identities = identities
        self.graph: Reach = reach(mesh_set)
        self.sides: dict[ObjectKey, Sides] = {}
        self.listeners: dict[tuple[ObjectKey, int], Admission] = {}
        self.backends: dict[tuple[ObjectKey, str], Admission] = {}
        self.look_again(caller.key for caller in mesh_set.callers())

    @classmethod
    def of(cls, mesh_set: MeshSet, identities: Identities, trust_domain: TrustDomain) -> Policy:
        """Build the policy of a mesh set."""
        return cls(mesh_set, identities, trust_domain)

    def after(self, mesh_set: MeshSet, identities: Identities, changed: Collection[ObjectKey]) -> Policy:
        """Return the policy of a mesh set in which these objects are changed."""
        if identities is not self.identities:
            return Policy(mesh_set, identities, self.trust_domain)
        graph, walked = reach_again(self.graph, self.mesh_set, mesh_set, changed)
        policy = copy.copy(self)
        policy.mesh_set, policy.graph, policy.sides = mesh_set, graph, self.sides.copy()
        policy.listeners, policy.backends = self.listeners.copy(), self.backends.copy()
        policy.look_again({*walked.callers, *(node for node, _ in walked.endpoints)})
        return policy

    def look_again(self, callers: Iterable[ObjectKey]) -> None:
        """Read what these callers say; for whoever makes a policy, before anybody else has it."""
        names = NameReader(self.trust_domain)
        for key in callers:
            if (old := self.sides.pop(key, None)) is not None:
                for port in old.listeners:
                    del self.listeners[key, port]
                for service in old.backends:
                    del self.backends[key, service]
            if self.mesh_set.find(key) is None:
                continue
            sides = self._sides(self.mesh_set.caller(key), names)
            if old == sides:
                sides = old  # whoever compares two policies sees at once that nothing has changed here
            self.sides[key] = sides
            self.listeners.update({(key, port): admission for port, admission in sides.listeners.items()})
            self.backends.update({(key, service): admission for service, admission in sides.backends.items()})

    def _sides(self, caller: Caller, names: NameReader) -> Sides:
        names.findings = []
        listeners = {
            listener.port_mapping.port: self._listener(caller, index, names)
            for index, listener in enumerate(caller.spec.listeners)
        }
        enforced = (item.port_mapping.port for item in caller.spec.listeners if not unenforced(item))
        backends = {}
        for service in self.graph.services[caller.key]:
            targets = self.graph.targets_of(caller.mesh, service)
            backends[service] = client_admission(caller, service, targets, self.identities, names)
        return Sides(listeners, backends, frozenset(enforced), tuple(names.findings))

    def _listener(self, caller: Caller, index: int, names: NameReader) -> Admission:
        endpoint = (caller.key, caller.spec.listeners[index].port_mapping.port)
        reached_by = (self.identities.of(key) for key in self.graph.callers.get(endpoint, ()))
        return listener_admission(caller, index, reached_by, names)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Return warnings about names that match nobody."""
        saying = sorted((key for key, sides in self.sides.items() if sides.findings), key=_nodes_first)
        return tuple(finding for key in saying for finding in self.sides[key].findings)

    # -- answers

    def admitted_clients(self, server: ObjectKey, port: int) -> frozenset[SpiffeId]:
        """Return whom a listener admits; nobody where there is no such listener."""
        admission = self.listeners.get((server, port))
        return admission.ids if admission is not None else _NOBODY

    def admitted_servers(self, client: ObjectKey, service: str) -> frozenset[SpiffeId]:
        """Return whom a client accepts as a server of one of its services; nobody for any other service."""
        admission = self.backends.get((client, service))
        return admission.ids if admission is not None else _NOBODY

    def enforced(self, server: ObjectKey, port: int) -> bool:
        """Tell whether a listener asks for client certificates and lets nobody in without."""
        sides = self.sides.get(server)
        return sides is not None and port in sides.enforced

    def services_of(self, client: ObjectKey) -> tuple[str, ...]:
        """Return the services that a node or gateway calls, by name."""
        return self.graph.services.get(client, ())

    def ports_of(self, server: ObjectKey) -> tuple[int, ...]:
        """Return the listener ports of a node or gateway."""
        return tuple(listener.port_mapping.port for listener in self.mesh_set.caller(server).spec.listeners)

    def can(self, client: ObjectKey, server: ObjectKey, port: int | None = None) -> Decision:
        """Tell whether one node may call another, on one port or on any, and why.

        Raises:
            NotFoundError: one of the two is not in an applied mesh.
        """
        return decide(self, client, server, port)

    # -- enumerations, for differences

    @property
    def clients_by_listener(self) -> dict[tuple[SpiffeId, int], frozenset[SpiffeId]]:
        """Return whom each listener admits, by the identity of its node."""
        return {(self.identities.of(key), port): item.ids for (key, port), item in self.listeners.items()}

    @property
    def servers_by_backend(self) -> dict[tuple[SpiffeId, str], frozenset[SpiffeId]]:
        """Return whom each client accepts for each service, by the identity of the client."""
        return {(self.identities.of(key), service): item.ids for (key, service), item in self.backends.items()}

    @property
    def calls(self) -> frozenset[Permission]:
        """Return every call that ``can`` allows."""
        return frozenset(call for client in self.sides for call in self._calls(client))

    def calls_of(self, client: ObjectKey) -> frozenset[Permission]:
        """Return every call of one client that ``can`` allows."""
        return frozenset(self._calls(client))

    def _calls(self, client: ObjectKey) -> Iterator[Permission]:
        sides = self.sides.get(client)
        if sides is None:
            return
        client_id = self.identities.of(client)
        for service, admission in sides.backends.items():
            for target in self.graph.targets_of(client.mesh, service):
                server_id = self.identities.of(target.node.key)
                if server_id not in admission.ids:
                    continue
                for port in target.ports:
                    if client_id in self.admitted_clients(target.node.key, port):
                        yield Permission(client_id, server_id, port)


def _nodes_first(key: ObjectKey) -> tuple[bool, ObjectKey]:
    return key.kind != VIRTUAL_NODE, key
