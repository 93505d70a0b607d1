"""The two sides of a call: whom a listener admits, and whom a client accepts behind a service.

Rules kept here (App Mesh User Guide, TLS; design §6):
- S1 A listener admits the names of its `validation`; where it names none, whoever reaches it (reach.py).
- S2 'Names none' is `validation` without names as well as no `validation`; the latter asks for no client certificate,
  so nothing enforces the answer.
- S3 A backend's client policy replaces the defaults wholesale, whatever it leaves out. A gateway has defaults only.
- S4 A policy with `ports` applies to a service that leads to one of them. SDS has one context per service, so a service
  with ports inside and outside the list is held to the names for all of them: rather too narrow than too wide.
- S5 A client accepts the names of the policy that applies; where it names none, the identities of the nodes that the
  service leads to.
- S6 `enforce: false` changes nobody's admission; it only lets a call without TLS pass to a server that has none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from meshca.mesh.model import Caller, VirtualNode

if TYPE_CHECKING:
    from collections.abc import Iterable

    from meshca.mesh.forest import Target
    from meshca.mesh.identity import Identities
    from meshca.mesh.spec.listeners import AnyListener
    from meshca.mesh.spec.tls import ClientPolicy, ClientPolicyTls
    from meshca.policy.names import NameReader
    from meshca.spiffe.id import SpiffeId


@dataclass(frozen=True, slots=True)
class Admission:
    """Whom one side admits, and which part of which spec says so."""

    ids: frozenset[SpiffeId]
    field: str
    named: bool
    """Whether the spec lists names; else the mesh graph answers."""
    remark: str = ""
    """What else is to be known: what nothing enforces, what would be sent without TLS."""


def listener_admission(caller: Caller, index: int, reached_by: Iterable[SpiffeId], names: NameReader) -> Admission:
    """S1 and S2: return whom a listener admits."""
    listener = caller.spec.listeners[index]
    field = f"spec.listeners[{index}]"
    validation = listener.tls.validation if listener.tls is not None else None
    if validation is None or listener.tls is None:
        return Admission(frozenset(reached_by), field, named=False, remark=unenforced(listener))
    field = f"{field}.tls.validation"
    if not validation.names:
        return Admission(frozenset(reached_by), field, named=False, remark=unenforced(listener))
    ids = names.read(validation.names, str(caller.key), field)
    return Admission(ids, f"{field}.subjectAlternativeNames", named=True, remark=unenforced(listener))


def unenforced(listener: AnyListener) -> str:
    """Return why a listener enforces nothing, or nothing where it does."""
    if listener.tls is None or listener.tls.mode == "DISABLED":
        return "nothing enforces it: the listener has no TLS"
    if listener.tls.validation is None:
        return "nothing enforces it: without validation no client certificate is asked for"
    if listener.tls.mode == "PERMISSIVE":
        return "nothing enforces it: mode PERMISSIVE lets anybody in without TLS"
    return ""


def client_admission(
    caller: Caller, service: str, targets: tuple[Target, ...], identities: Identities, names: NameReader
) -> Admission:
    """S3 to S6: return whom a client accepts as a server of one service."""
    field, policy = client_policy(caller, service)
    tls = policy.tls if policy is not None else None
    if tls is not None and _applies(tls, targets):
        remark = "" if tls.enforce else "enforce is false: a server without TLS is called without TLS"
        field = f"{field}.tls.validation"
        if tls.validation.names:
            ids = names.read(tls.validation.names, str(caller.key), field)
            return Admission(ids, f"{field}.subjectAlternativeNames", named=True, remark=remark)
        return Admission(_graph(targets, identities), field, named=False, remark=remark)
    return Admission(_graph(targets, identities), field, named=False)


def client_policy(caller: Caller, service: str) -> tuple[str, ClientPolicy | None]:
    """S3: return the client policy for a service, and the field that decides (the backend where none does)."""
    field = "spec"
    if isinstance(caller, VirtualNode):
        for index, backend in enumerate(caller.spec.backends):
            if backend.service.virtual_service_name == service:
                field = f"spec.backends[{index}].virtualService"
                if backend.service.client_policy is not None:
                    return f"{field}.clientPolicy", backend.service.client_policy
    defaults = caller.spec.backend_defaults
    if defaults is not None and defaults.client_policy is not None:
        return "spec.backendDefaults.clientPolicy", defaults.client_policy
    return field, None


def _applies(tls: ClientPolicyTls, targets: tuple[Target, ...]) -> bool:
    """S4."""
    if tls.ports is None:
        return True
    return not {port for target in targets for port in target.ports}.isdisjoint(tls.ports)


def _graph(targets: tuple[Target, ...], identities: Identities) -> frozenset[SpiffeId]:
    return frozenset(identities.of(target.node.key) for target in targets)
