"""Generated listeners, clusters, routes and endpoints: made once per node and placement, shared by its Envoys.

Rules: a leaf, CRL or trust change never runs the generator; a change runs it again only for the nodes it concerns, when
somebody asks; what could not be generated is remembered as well, with its reason. What was made to judge a change is
kept if that very change is put in force.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping

from meshca.delivery.snapshot import Snapshot
from meshca.envoy.generator import generate
from meshca.envoy.placement import Placement
from meshca.envoy.snapshot import Snapshot as Translated
from meshca.errors import MeshcaError
from meshca.mesh.model import ObjectKey
from meshca.xds.resource import Resource

ByType = Mapping[str, Mapping[str, Resource]]
_VERSION_DIGITS = 32


class Generated:
    """What the generator made of the current snapshot, so far."""

    def __init__(self) -> None:
        self._kept: dict[ObjectKey, dict[Placement, ByType | MeshcaError]] = {}

    def get(self, node: ObjectKey, placement: Placement, snapshot: Snapshot) -> ByType:
        """Return a node's resources by type and name.

        Raises:
            MeshcaError: it cannot be generated, or is not consistent; secrets go on.
        """
        kept = self._kept.setdefault(node, {})
        if placement not in kept:
            kept[placement] = made(node, placement, snapshot)
        found = kept[placement]
        if isinstance(found, MeshcaError):
            raise found
        return found

    def adopt(self, prepared: Mapping[tuple[ObjectKey, Placement], ByType | MeshcaError]) -> None:
        """Keep what was made of the snapshot that is now in force."""
        for (node, placement), found in prepared.items():
            self._kept.setdefault(node, {})[placement] = found

    def forget(self, nodes: Collection[ObjectKey] | None) -> None:
        """Drop what these nodes (None: all) were given."""
        if nodes is None:
            self._kept.clear()
            return
        for node in nodes:
            self._kept.pop(node, None)


def made(node: ObjectKey, placement: Placement, snapshot: Snapshot) -> ByType | MeshcaError:
    """Return what the generator makes of a node, or why it does not."""
    found: dict[str, dict[str, Resource]] = {}
    try:
        for type_url, name, body in generate(node, _translated(snapshot), placement):
            version = hashlib.sha256(body).hexdigest()[:_VERSION_DIGITS]
            found.setdefault(type_url, {})[name] = Resource(type_url, name, version, body)
    except MeshcaError as error:
        return error
    return found


def _translated(snapshot: Snapshot) -> Translated:
    return Translated(
        mesh_set=snapshot.mesh.mesh_set,
        policy=snapshot.mesh.policy,
        identities=snapshot.mesh.identities,
        epochs=snapshot.epochs,
        suspended=snapshot.suspended,
        endpoints=snapshot.endpoints,
    )
