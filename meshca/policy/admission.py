"""Who may call whom.

Rules kept here:
- A Policy is built once from a mesh set and its identities, and never changes; every answer is a look-up.
- Default deny: an endpoint, client or service that is not in the mesh admits nobody.
- A call is allowed only if the client reaches the server (reach.py) and both sides admit each other (sides.py).
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from meshca.policy.decision import Decision, decide
from meshca.policy.names import NameReader
from meshca.policy.reach import Reach, reach
from meshca.policy.sides import Admission, client_admission, listener_admission, unenforced

if TYPE_CHECKING:
    from collections.abc import Iterator

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


class Policy:
    """Who may call whom in one state of the meshes."""

    def __init__(self, mesh_set: MeshSet, identities: Identities, trust_domain: TrustDomain) -> None:
        names = NameReader(trust_domain)
        self.mesh_set = mesh_set
        self.identities = identities
        self.graph: Reach = reach(mesh_set)
        self.listeners: dict[tuple[ObjectKey, int], Admission] = {}
        self.backends: dict[tuple[ObjectKey, str], Admission] = {}
        self._enforced: set[tuple[ObjectKey, int]] = set()
        for caller in mesh_set.callers():
            self._add_listeners(caller, names)
            self._add_backends(caller, names)
        self.findings: tuple[Finding, ...] = tuple(names.findings)
        """Warnings about names that match nobody."""

    @classmethod
    def of(cls, mesh_set: MeshSet, identities: Identities, trust_domain: TrustDomain) -> Policy:
        """Build the policy of a mesh set."""
        return cls(mesh_set, identities, trust_domain)

    def _add_listeners(self, caller: Caller, names: NameReader) -> None:
        for index, listener in enumerate(caller.spec.listeners):
            endpoint = (caller.key, listener.port_mapping.port)
            reached_by = (self.identities.of(key) for key in self.graph.callers.get(endpoint, ()))
            self.listeners[endpoint] = listener_admission(caller, index, reached_by, names)
            if not unenforced(listener):
                self._enforced.add(endpoint)

    def _add_backends(self, caller: Caller, names: NameReader) -> None:
        for service in self.graph.services[caller.key]:
            targets = self.graph.targets_of(caller.mesh, service)
            self.backends[caller.key, service] = client_admission(caller, service, targets, self.identities, names)

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
        return (server, port) in self._enforced

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

    @cached_property
    def clients_by_listener(self) -> dict[tuple[SpiffeId, int], frozenset[SpiffeId]]:
        """Return whom each listener admits, by the identity of its node."""
        return {(self.identities.of(key), port): item.ids for (key, port), item in self.listeners.items()}

    @cached_property
    def servers_by_backend(self) -> dict[tuple[SpiffeId, str], frozenset[SpiffeId]]:
        """Return whom each client accepts for each service, by the identity of the client."""
        return {(self.identities.of(key), service): item.ids for (key, service), item in self.backends.items()}

    @cached_property
    def calls(self) -> frozenset[Permission]:
        """Return every call that ``can`` allows."""
        return frozenset(self._calls())

    def _calls(self) -> Iterator[Permission]:
        for (client, service), admission in self.backends.items():
            client_id = self.identities.of(client)
            for target in self.graph.targets_of(client.mesh, service):
                server_id = self.identities.of(target.node.key)
                if server_id not in admission.ids:
                    continue
                for port in target.ports:
                    if client_id in self.admitted_clients(target.node.key, port):
                        yield Permission(client_id, server_id, port)
