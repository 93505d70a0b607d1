"""What an SDS name stands for, for one caller (design §6).

Rules kept here:
- A policy name (``clients…``, ``client:…``, ``servers:…``) is always answered: where policy admits nobody, or the name
  is not or no longer allowed, with nobody.
- Who is suspended is admitted nowhere, and admits nobody.
- Whoever is admitted is admitted by the roots of their own trust domain: a context is of one trust domain, or a
  validator that keeps several apart. Ours goes first, because it alone knows CRLs: where a policy admits identities of
  ours and of others, the others are admitted by ``client:…``, one by one (ADR 17). Who isn't federated is nobody.
- The bundle of another trust domain is for registrations that federate with it.
- Refused are only SVIDs and trust domains that the caller may not have, names that need a selection where none is made,
  and unknown names.
"""

from __future__ import annotations

from dataclasses import dataclass

from meshca.delivery.callers import Caller, NotEntitledError
from meshca.delivery.contexts import Wanted
from meshca.delivery.snapshot import Snapshot
from meshca.envoy import names
from meshca.errors import MeshcaError
from meshca.mesh.model import ObjectKey
from meshca.spiffe.id import SpiffeId, TrustDomain

_NOBODY: frozenset[SpiffeId] = frozenset()


@dataclass(frozen=True, slots=True)
class WantedLeaf:
    """An SVID under a name."""

    name: str
    spiffe_id: SpiffeId


def resolve(name: str, caller: Caller, snapshot: Snapshot) -> Wanted | WantedLeaf:
    """Say what to send under a name.

    Raises:
        MeshcaError: The caller may not have it, or it means nothing.
    """
    match names.parse_secret_name(name):
        case names.Svid(_) | names.Default() if caller.makes_keys:
            raise NotEntitledError("an agent makes the keys of those behind it", field="name", value=name)
        case names.Default():
            return _leaf(name, caller.require_selected()[0], snapshot)
        case names.Svid(spiffe_id):
            if spiffe_id not in caller.entitled:
                raise NotEntitledError(
                    "the caller is not entitled to this identity",
                    field="name",
                    value=name,
                    remedy="ask for `default`, or see `meshca registrations`",
                )
            return _leaf(name, spiffe_id, snapshot)
        case names.Roots() | names.All() if _is_suspended(caller, snapshot):
            return Wanted(name, _NOBODY)
        case names.Roots(domain):
            return Wanted(name, None, _others(name, domain, caller, snapshot))
        case names.All():
            return Wanted(name, None, (snapshot.trust_domain, *sorted(federated(caller, snapshot))))
        case policy_name:
            return _by_trust_domain(name, _admitted(policy_name, caller, snapshot) - snapshot.suspended, snapshot)


def federated(caller: Caller, snapshot: Snapshot) -> frozenset[TrustDomain]:
    """Return whose bundles a caller may have now, beside ours."""
    return caller.federates_with & snapshot.federated.keys()


def is_foreign(name: str, snapshot: Snapshot) -> bool:
    """Whether a name asks for the context of another trust domain."""
    try:
        match names.parse_secret_name(name):
            case names.Roots(domain):
                return domain not in (None, snapshot.trust_domain)
    except MeshcaError:
        pass
    return False


def _others(name: str, domain: TrustDomain | None, caller: Caller, snapshot: Snapshot) -> tuple[TrustDomain, ...]:
    """Return the trust domain whose context is asked for; none: ours.

    Raises:
        NotEntitledError: The caller may not have it.
    """
    if domain is None or domain == snapshot.trust_domain:
        return ()
    if domain not in federated(caller, snapshot):
        raise NotEntitledError(
            "not our trust domain, nor one that the caller's registration federates with",
            field="name",
            value=name,
            remedy=f"ask for `ROOTCA` or {snapshot.trust_domain.id}, or see `meshca federate` and --federates-with",
        )
    return (domain,)


def _by_trust_domain(name: str, admitted: frozenset[SpiffeId], snapshot: Snapshot) -> Wanted:
    own = frozenset(one for one in admitted if one.trust_domain == snapshot.trust_domain)
    if own or not admitted:
        return Wanted(name, own)
    known = frozenset(one for one in admitted if one.trust_domain in snapshot.federated)
    return Wanted(name, known, tuple(sorted({one.trust_domain for one in known})))


def same_meanings(caller: Caller, old: Snapshot, new: Snapshot) -> bool:
    """Tell whether no name can stand for anything else, by what ``resolve`` looks at; False where that isn't sure."""
    node = caller.node
    return (
        node is not None
        and old.suspended == new.suspended
        # Policies that were made from each other share what is the same.
        and old.mesh.policy.sides.get(node) is new.mesh.policy.sides.get(node)
        and old.mesh.mesh_set.find(node) is new.mesh.mesh_set.find(node)
    )


def all_names(caller: Caller, snapshot: Snapshot) -> frozenset[str]:
    """Return all that a caller may see, which is what an empty list in the first request means."""
    found = {names.ROOTCA, *(str(domain.id) for domain in federated(caller, snapshot))}
    if not caller.makes_keys:
        found |= set(map(str, caller.entitled - snapshot.suspended))
    if caller.selected is None or caller.node is None:
        return frozenset(found)
    if caller.selected not in snapshot.suspended and not caller.makes_keys:
        found.add(names.DEFAULT)
    ports = listener_ports(caller.node, snapshot)
    found |= {names.clients_name(port) for port in ports}
    if len(ports) == 1:
        found.add(names.CLIENTS)
    mesh_set = snapshot.mesh.mesh_set
    found |= {names.servers_name(service.name) for service in mesh_set.services_of(mesh_set.caller(caller.node))}
    return frozenset(found)


def listener_ports(node: ObjectKey, snapshot: Snapshot) -> tuple[int, ...]:
    """Return the ports that a node or gateway listens on."""
    listeners = snapshot.mesh.mesh_set.caller(node).spec.listeners
    return tuple(listener.port_mapping.port for listener in listeners)


def _leaf(name: str, spiffe_id: SpiffeId, snapshot: Snapshot) -> WantedLeaf:
    if spiffe_id in snapshot.suspended:
        raise NotEntitledError("the identity is suspended", value=str(spiffe_id), remedy="see meshca resume")
    return WantedLeaf(name, spiffe_id)


def _is_suspended(caller: Caller, snapshot: Snapshot) -> bool:
    return caller.selected in snapshot.suspended or caller.entitled <= snapshot.suspended


def _admitted(
    wanted: names.Clients | names.Client | names.Servers, caller: Caller, snapshot: Snapshot
) -> frozenset[SpiffeId]:
    selected, node = caller.require_selected()
    if selected in snapshot.suspended:
        return _NOBODY
    policy, ports = snapshot.mesh.policy, listener_ports(node, snapshot)
    match wanted:
        case names.Clients(None):
            # With several listeners there is no telling whose clients are meant: clients:<port> says it.
            return policy.admitted_clients(node, ports[0]) if len(ports) == 1 else _NOBODY
        case names.Clients(port):
            return policy.admitted_clients(node, port) if port in ports else _NOBODY
        case names.Client(client):
            admitted = any(client in policy.admitted_clients(node, port) for port in ports)
            return frozenset({client}) if admitted else _NOBODY
        case names.Servers(service):
            return policy.admitted_servers(node, service)
