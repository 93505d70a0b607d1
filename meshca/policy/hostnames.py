"""Which DNS names a node may have in its certificates, beside its SPIFFE ID.

Rules kept here:
- H1 Only the host name of the node's own service discovery (`spec.serviceDiscovery.dns.hostname`), whoever asks. Two
  nodes with the same host name may both have it, as App Mesh meshes do (two versions behind one name).
- H2 Names are compared in lower case, and stand so in the certificate; a dot of the root in the spec is left out.
- H3 A wildcard, an IP address, or what is no host name otherwise is nobody's, even where a spec says it.
- H4 A gateway has none, since it has no service discovery; nor has a node in Cloud Map.
- A DNS name never admits anybody: peers are known by their SPIFFE ID (names.py, N2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from meshca.mesh.model import VirtualNode
from meshca.policy.decision import Reason
from meshca.x509.lints import is_host_name

if TYPE_CHECKING:
    from collections.abc import Iterable

    from meshca.mesh.forest import MeshSet
    from meshca.mesh.model import Caller, ObjectKey

_FIELD = "spec.serviceDiscovery.dns.hostname"


@dataclass(frozen=True, slots=True)
class HostNames:
    """The DNS names that a node may have, and what says so."""

    names: frozenset[str]
    reason: Reason


@dataclass(frozen=True, slots=True)
class NamesDecision:
    """Whether a node may have all the names that it asks for; then ``names`` are they, as a certificate holds them."""

    allowed: bool
    names: tuple[str, ...]
    refused: tuple[str, ...]
    reason: Reason


def host_names(mesh_set: MeshSet, node: ObjectKey) -> HostNames:
    """Return what a node or gateway may have.

    Raises:
        NotFoundError: No mesh has it.
    """
    caller = mesh_set.caller(node)
    hostname = _hostname(caller)
    name = _canonical(hostname.removesuffix(".")) if hostname else None
    if name is not None:
        return HostNames(frozenset({name}), Reason(str(node), _FIELD, f"is {name}"))
    return HostNames(frozenset(), Reason(str(node), _FIELD, _why_none(caller, hostname)))


def decide_names(own: HostNames, asked: Iterable[str]) -> NamesDecision:
    """H1 to H3: return whether a node may have these names; for none it is a yes."""
    names: dict[str, None] = {}
    refused: list[str] = []
    for text in asked:
        name = _canonical(text)
        if name is not None and name in own.names:
            names[name] = None
        else:
            refused.append(text)
    return NamesDecision(not refused, () if refused else tuple(names), tuple(refused), own.reason)


def _canonical(text: str) -> str | None:
    """Return a host name in lower case; None for what is no host name."""
    # Only ASCII: other letters have lower cases that are ASCII (the Kelvin sign's is k).
    name = text.lower() if text.isascii() else ""
    return name if is_host_name(name) else None


def _hostname(caller: Caller) -> str:
    discovery = caller.spec.service_discovery if isinstance(caller, VirtualNode) else None
    return discovery.dns.hostname if discovery is not None and discovery.dns is not None else ""


def _why_none(caller: Caller, hostname: str) -> str:
    if hostname:
        return f"is {hostname!r}, which is no host name that a certificate may hold"
    return "is not set" if isinstance(caller, VirtualNode) else "does not exist: a gateway has no DNS names"
