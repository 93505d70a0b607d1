"""Mesh and policy to listeners, routes, clusters and endpoints of one node or gateway.

Rules kept here:
- Pure: the same snapshot and placement give the same bytes.
- Nothing is silently dropped: what cannot be said to Envoy is an error that names the object.
- Whole or not at all: what leaves here is consistent in itself (consistency.py).
"""

from __future__ import annotations

from meshca.envoy.consistency import require_consistent
from meshca.envoy.egress import egress
from meshca.envoy.gateway import gateway
from meshca.envoy.ingress import ingress
from meshca.envoy.placement import Placement
from meshca.envoy.resources import CLUSTER, ENDPOINTS, LISTENER, ROUTES, Resources
from meshca.envoy.snapshot import Snapshot
from meshca.mesh.model import ObjectKey, VirtualGateway

_ORDER = {CLUSTER: 0, ENDPOINTS: 1, LISTENER: 2, ROUTES: 3}


def generate(node: ObjectKey, snapshot: Snapshot, placement: Placement) -> Resources:
    """Return all resources of a node or gateway, in the order in which ADS sends their types.

    Raises:
        NotFoundError: there is no such node.
        ConflictError: its ports do not fit beside each other, or routes behind a gateway cannot be judged there.
        InconsistentSnapshotError: a part leads to one that is not there.
    """
    caller = snapshot.mesh_set.caller(node)
    if isinstance(caller, VirtualGateway):
        built = gateway(caller, snapshot, placement)
    else:
        built = [*ingress(caller, snapshot, placement), *egress(caller, snapshot, placement)]
    resources = tuple(sorted(built, key=lambda one: (_ORDER[one.type_url], one.name)))
    require_consistent(resources)
    return resources
