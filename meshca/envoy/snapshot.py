"""What the generator translates: one state of the mesh, its policy and its revocations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from meshca.mesh.forest import MeshSet
from meshca.mesh.identity import Identities
from meshca.mesh.model import ObjectKey
from meshca.policy.admission import Policy
from meshca.spiffe.id import SpiffeId

Endpoint = tuple[str, int | None]
"""An IP address, and a port where it is not the listener's own."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One state of all that listeners, routes and clusters depend on."""

    mesh_set: MeshSet
    policy: Policy
    identities: Identities
    epochs: Mapping[str, int]
    suspended: frozenset[SpiffeId]
    endpoints: Mapping[ObjectKey, tuple[Endpoint, ...]] = field(default_factory=lambda: MappingProxyType({}))
    """Where nodes are that no DNS finds."""
