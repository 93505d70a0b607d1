"""All that decides what a caller sees, at one moment.

Rules: a snapshot is immutable and whole; a change makes a new one, and nothing is edited in place; three numbers tell
what moved (design §3): the mesh revision, the trust generation, and the leaf, which isn't part of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from meshca.authority.jwt_trust import JwtTrust
from meshca.authority.records import Freeze
from meshca.authority.trust import Trust
from meshca.envoy.snapshot import Endpoint
from meshca.mesh.forest import MeshSet
from meshca.mesh.identity import Identities
from meshca.mesh.model import ObjectKey
from meshca.policy.admission import Policy
from meshca.policy.entitlement import Registration, is_behind
from meshca.spiffe.foreign import ForeignBundle
from meshca.spiffe.id import SpiffeId, TrustDomain


@dataclass(frozen=True, slots=True)
class MeshState:
    """The meshes of one revision and what follows from them."""

    revision: int
    mesh_set: MeshSet
    identities: Identities
    policy: Policy = field(repr=False)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Meshes, trust, keys of JWT-SVIDs, registrations, suspensions, drain epochs, endpoints and a freeze, together."""

    trust_domain: TrustDomain
    mesh: MeshState
    trust: Trust
    registrations: tuple[Registration, ...] = ()
    suspended: frozenset[SpiffeId] = frozenset()
    epochs: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    endpoints: Mapping[ObjectKey, tuple[Endpoint, ...]] = field(default_factory=lambda: MappingProxyType({}))
    jwt: JwtTrust = field(default_factory=JwtTrust)
    federated: Mapping[TrustDomain, ForeignBundle] = field(default_factory=lambda: MappingProxyType({}))
    """Of other trust domains, each for itself; none without roots."""
    frozen: Freeze | None = None  # nothing is issued; what was issued is served on

    def registrations_of(self, parent: str) -> tuple[Registration, ...]:
        """Return the registrations behind an agent, or with "" those of this host."""
        return tuple(entry for entry in self.registrations if is_behind(entry, parent))
