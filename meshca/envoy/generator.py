"""Mesh and policy to listeners, routes and clusters of one node.

Rules kept here:
- Pure: the same snapshot and placement give the same bytes.
- Nothing is silently dropped: what is not generated yet, in the node or in what it calls, is an error that names object
  and field, from the one list in mesh/notgenerated.py.
- Generated are: one listener a node (http, http2, grpc, tcp; TLS STRICT, DISABLED, none) with its timeout; logging;
  backends with their client policies; DNS discovery and the mesh's ipPreference; node and router providers, a router
  with one listener; routes by prefix (and port), gRPC routes without service, method or metadata, TCP routes; weights
  and timeouts. clusters.py also builds connectionPool, healthCheck and outlierDetection, once the list lets them pass.
"""

from __future__ import annotations

from collections.abc import Iterable

from meshca.envoy.egress import egress
from meshca.envoy.ingress import ingress
from meshca.envoy.placement import Placement
from meshca.envoy.resources import CLUSTER, ENDPOINTS, LISTENER, ROUTES, Resources
from meshca.envoy.snapshot import Snapshot
from meshca.errors import ConflictError
from meshca.mesh.findings import Finding
from meshca.mesh.forest import MeshSet
from meshca.mesh.model import MeshObject, ObjectKey, VirtualNode
from meshca.mesh.notgenerated import not_generated

_ORDER = {CLUSTER: 0, ENDPOINTS: 1, LISTENER: 2, ROUTES: 3}
_SERVER_SIDE = ("tls", "timeout", "connectionPool")


class NotGeneratedError(ConflictError):
    """The spec uses what meshca does not generate yet; it is kept, and used by `can` and SDS."""

    def __init__(self, findings: tuple[Finding, ...]) -> None:
        self.findings = findings
        named = ", ".join(f"{finding.object} {finding.field}" for finding in findings)
        super().__init__(f"not generated yet: {named}", remedy="the spec is kept, and used by `can` and SDS")


def generate(node: ObjectKey, snapshot: Snapshot, placement: Placement) -> Resources:
    """Return all listeners, routes and clusters of a node, in the order in which ADS sends their types.

    Raises:
        NotFoundError: there is no such node.
        NotGeneratedError: it, or what it calls, uses what is not generated yet.
        ConflictError: its ports do not fit beside each other.
    """
    caller = snapshot.mesh_set.caller(node)
    if findings := tuple(_missing(snapshot.mesh_set, caller)):
        raise NotGeneratedError(findings)
    if not isinstance(caller, VirtualNode):  # belongs to the list above; here it tells the type checker
        raise ConflictError("not generated yet: virtual gateways", field=str(node))
    built = [*ingress(caller, snapshot, placement), *egress(caller, snapshot, placement)]
    return tuple(sorted(built, key=lambda one: (_ORDER[one.type_url], one.name)))


def _missing(mesh_set: MeshSet, caller: MeshObject) -> Iterable[Finding]:
    yield from not_generated(mesh_set.mesh(caller.mesh))
    yield from not_generated(caller)
    if not isinstance(caller, VirtualNode):
        return
    for service in mesh_set.services_of(caller):
        yield from not_generated(service)
        router = mesh_set.router_of(service)
        if router is not None:
            yield from not_generated(router)
            for route in mesh_set.routes_of(router):
                yield from not_generated(route)
        for node in {target.node.key: target.node for target in mesh_set.targets(service)}.values():
            yield from (finding for finding in not_generated(node) if _concerns_client(finding.field))


def _concerns_client(field: str) -> bool:
    """Tell whether a field of a server shapes what its clients get; the rest is that server's own matter."""
    if field.startswith("spec.serviceDiscovery"):
        return True
    return field.startswith("spec.listeners") and not any(part in field.split(".") for part in _SERVER_SIDE)
