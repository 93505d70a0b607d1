"""The answer to `can CLIENT SERVER`, with its reasons.

Rules kept here:
- Yes and no alike carry the chain of reasons: which object, which field, what it says.
- Yes needs a way (a service of the client that leads to the server's port) on which both sides admit each other. The
  first such way is shown; a no shows every way, and what is wrong with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from meshca.mesh.model import Caller, ObjectKey, VirtualNode
from meshca.policy.sides import client_policy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meshca.mesh.forest import Target
    from meshca.policy.admission import Policy
    from meshca.policy.sides import Admission
    from meshca.spiffe.id import SpiffeId


@dataclass(frozen=True, slots=True)
class Reason:
    """One link of a chain: what a field of an object says."""

    object: str
    field: str
    text: str


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a client may call a server, and why."""

    allowed: bool
    client: SpiffeId
    server: SpiffeId
    reasons: tuple[Reason, ...]


@dataclass(frozen=True, slots=True)
class _Way:
    """One way from a client to a port of a server."""

    service: str
    target: Target
    port: int


def decide(policy: Policy, client: ObjectKey, server: ObjectKey, port: int | None) -> Decision:
    """Return the decision, with its reasons."""
    client_id, server_id = policy.identities.of(client), policy.identities.of(server)
    ports = policy.ports_of(server)
    asked = ports if port is None else tuple(known for known in ports if known == port)
    if not asked:
        return Decision(False, client_id, server_id, (_no_listener(server, port),))
    refused: list[Reason] = []
    for way in _ways(policy, client, server, asked):
        allowed, reasons = _judge(policy, client, server, way)
        if allowed:
            return Decision(True, client_id, server_id, reasons)
        refused += reasons
    if not refused:
        refused.append(_unreachable(policy, client, server, asked))
        refused += [_listener_reason(policy, client_id, server, known) for known in asked]
    return Decision(False, client_id, server_id, tuple(dict.fromkeys(refused)))


def _ways(policy: Policy, client: ObjectKey, server: ObjectKey, ports: tuple[int, ...]) -> Iterator[_Way]:
    for service in policy.services_of(client):
        for target in policy.graph.targets_of(client.mesh, service):
            if target.node.key == server:
                yield from (_Way(service, target, port) for port in target.ports if port in ports)


def _judge(policy: Policy, client: ObjectKey, server: ObjectKey, way: _Way) -> tuple[bool, tuple[Reason, ...]]:
    client_id, server_id = policy.identities.of(client), policy.identities.of(server)
    accepted = policy.backends[client, way.service]
    admitted = policy.listeners[server, way.port]
    reasons = (
        *_path_reasons(policy, client, way),
        _side_reason(str(client), accepted, server_id, f"as a server of {way.service}"),
        _listener_reason(policy, client_id, server, way.port),
        *_transport_reasons(policy, client, way),
    )
    return server_id in accepted.ids and client_id in admitted.ids, reasons


def _path_reasons(policy: Policy, client: ObjectKey, way: _Way) -> Iterator[Reason]:
    caller = policy.mesh_set.caller(client)
    yield from _first_steps(policy, caller, way.service)
    service = policy.mesh_set.service(client.mesh, way.service)
    provider = "virtualNode" if way.target.route is None else "virtualRouter"
    route = way.target.route
    if route is None:
        text = f"{way.service} is provided by {way.target.node.key}"
        yield Reason(str(service.key), f"spec.provider.{provider}", text)
        return
    yield Reason(str(service.key), f"spec.provider.{provider}", f"{way.service} is provided by router {route.parent}")
    for index, weighted in enumerate(route.spec.targets):
        if weighted.virtual_node == way.target.node.name and weighted.port in {None, way.port}:
            field = f"spec.{route.spec.protocol}Route.action.weightedTargets[{index}]"
            # P3: weight 0 is a way as well.
            text = f"leads to {way.target.node.key} port {way.port} with weight {weighted.weight}"
            yield Reason(str(route.key), field, text)
            return


def _first_steps(policy: Policy, caller: Caller, service: str) -> Iterator[Reason]:
    if isinstance(caller, VirtualNode):
        for index, backend in enumerate(caller.spec.backends):
            if backend.service.virtual_service_name == service:
                yield Reason(str(caller.key), f"spec.backends[{index}].virtualService", f"calls {service}")
        return
    for route in policy.mesh_set.gateway_routes_of(caller):
        if route.spec.target.virtual_service.virtual_service_name == service:
            field = f"spec.{route.spec.protocol}Route.action.target.virtualService"
            yield Reason(str(route.key), field, f"leads from gateway {caller.name} to {service}")
            return


def _listener_reason(policy: Policy, client_id: SpiffeId, server: ObjectKey, port: int) -> Reason:
    admission = policy.listeners[server, port]
    return _side_reason(str(server), admission, client_id, f"as a client on port {port}")


def _side_reason(where: str, admission: Admission, peer: SpiffeId, role: str) -> Reason:
    source = "names it" if admission.named else "names nobody, and the mesh leads here from it"
    if peer not in admission.ids:
        source = "names others only" if admission.named else "names nobody, and the mesh does not lead here from it"
    if not admission.named and "client on" not in role:
        source = source.replace("leads here from it", "leads to it").replace("lead here from it", "lead to it")
    verb = "admits" if peer in admission.ids else "refuses"
    remark = f"; {admission.remark}" if admission.remark else ""
    return Reason(where, admission.field, f"{verb} {peer} {role}: it {source}{remark}")


def _transport_reasons(policy: Policy, client: ObjectKey, way: _Way) -> Iterator[Reason]:
    """Say where identities would allow a call, but TLS would not come about."""
    caller = policy.mesh_set.caller(client)
    field, found = client_policy(caller, way.service)
    tls = found.tls if found is not None else None
    if tls is None or not tls.enforce or (tls.ports is not None and way.port not in tls.ports):
        return
    listener = next(item for item in way.target.node.spec.listeners if item.port_mapping.port == way.port)
    if listener.tls is None or listener.tls.mode == "DISABLED":
        text = f"enforces TLS, but port {way.port} of {way.target.node.name} has none: the handshake would fail"
        yield Reason(str(client), f"{field}.tls.enforce", text)


def _no_listener(server: ObjectKey, port: int | None) -> Reason:
    text = "has no listener" if port is None else f"has no listener on port {port}"
    return Reason(str(server), "spec.listeners", text)


def _unreachable(policy: Policy, client: ObjectKey, server: ObjectKey, ports: tuple[int, ...]) -> Reason:
    services = ", ".join(policy.services_of(client)) or "none"
    shown = ", ".join(str(port) for port in ports)
    field = "spec.backends" if client.kind == "virtualNode" else "gatewayRoutes"
    text = f"none of its services leads to {server} on port {shown} (it calls: {services})"
    return Reason(str(client), field, text)
