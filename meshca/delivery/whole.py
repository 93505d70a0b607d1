"""Whether what one Envoy would be sent is whole, and which secrets it leads to: asked of the room that wrote it.

Rules: nothing that leads nowhere is put in force (envoy/consistency.py); secrets are served by name, whatever the name,
and are only listed.
"""

from __future__ import annotations

from collections.abc import Collection

from meshca.delivery.generated import ByType
from meshca.envoy import consistency
from meshca.envoy.resources import Generated
from meshca.xds.resource import SDS, Resource


def require_whole(by_type: ByType) -> None:
    """Raise ``InconsistentSnapshotError``, which names what is missing, unless every reference leads somewhere."""
    consistency.require_consistent([_generated(one) for found in by_type.values() for one in found.values()])


def secrets_of(by_type: ByType) -> frozenset[str]:
    """Return the names of the secrets that the resources lead to."""
    return frozenset(name for found in by_type.values() for one in found.values() for name in secrets_named_by(one))


def secrets_named_by(resource: Resource) -> Collection[str]:
    """Return the names of the secrets that one resource leads to."""
    return [one.name for one in consistency.references(_generated(resource)) if one.type_url == SDS]


def _generated(resource: Resource) -> Generated:
    return Generated(resource.type_url, resource.name, resource.body)
