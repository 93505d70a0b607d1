"""What the generator translates: one state of the mesh, its policy and its revocations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from meshca.mesh.forest import MeshSet
from meshca.mesh.identity import Identities
from meshca.policy.admission import Policy
from meshca.spiffe.id import SpiffeId


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One state of all that listeners, routes and clusters depend on."""

    mesh_set: MeshSet
    policy: Policy
    identities: Identities
    epochs: Mapping[str, int]
    suspended: frozenset[SpiffeId]
