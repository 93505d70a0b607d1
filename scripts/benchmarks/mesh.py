"""The row about the generator: a mesh of 1,000 virtual nodes, each with ten backends."""

from __future__ import annotations

import gc
import time
from typing import Any

from benchmarks.measure import Row, median
from meshca.envoy.generator import generate
from meshca.envoy.placement import Placement
from meshca.envoy.snapshot import Snapshot
from meshca.mesh.forest import MeshSet
from meshca.mesh.identity import identities
from meshca.mesh.model import CLASSES, SPECS, MeshObject
from meshca.policy.admission import Policy
from meshca.spiffe.id import TrustDomain

_NODES = 1000
_BACKENDS = 10
_DOMAIN = TrustDomain("bench.test")
_SDS = {"sds": {"secretName": "default"}}
_TLS = {"mode": "STRICT", "certificate": _SDS, "validation": {"trust": _SDS}}


def rows(runs: int) -> list[Row]:
    """Return the row of a whole generation: references, identities, policy, and every node's resources."""
    objects = _objects()
    checking, generating, count = [], [], 0
    for _ in range(runs):
        gc.collect()
        began = time.perf_counter()
        mesh_set = MeshSet().with_applied(objects)
        known = identities(mesh_set, _DOMAIN)
        snapshot = Snapshot(mesh_set, Policy.of(mesh_set, known, _DOMAIN), known, {}, frozenset())
        checked = time.perf_counter()
        count = sum(len(generate(node.key, snapshot, Placement())) for node in mesh_set.nodes())
        checking.append(checked - began)
        generating.append(time.perf_counter() - checked)
    total = median(checking) + median(generating)
    return [
        Row(
            what=f"{_NODES:,} virtual nodes with {_BACKENDS} backends each: whole generation",
            ours=f"{total:.2f} s: references and policy {median(checking):.2f} s, {count:,} resources "
            f"{median(generating):.2f} s",
            peer="",
            ratio="",
            bar="≤ 2 s (aim 0.5 s)",
            met=total <= 2,
            figures={"seconds": total, "checking_s": median(checking), "generating_s": median(generating)},
        )
    ]


def _objects() -> list[MeshObject]:
    made = [_made("mesh", "m", {})]
    for index in range(_NODES):
        backends = [f"s{(index + step) % _NODES}.local" for step in range(1, _BACKENDS + 1)]
        spec = {
            "listeners": [{"portMapping": {"port": 9080, "protocol": "http"}, "tls": _TLS}],
            "serviceDiscovery": {"dns": {"hostname": f"n{index}.local"}},
            "backends": [{"virtualService": {"virtualServiceName": name}} for name in backends],
        }
        made.append(_made("virtualNode", f"n{index}", spec))
        provider = {"provider": {"virtualNode": {"virtualNodeName": f"n{index}"}}}
        made.append(_made("virtualService", f"s{index}.local", provider))
    return made


def _made(kind: str, name: str, spec: dict[str, Any]) -> MeshObject:
    shape: Any = CLASSES[kind]  # the kind says which spec goes with it
    item: MeshObject = shape("m", name, SPECS[kind].model_validate(spec), "")
    return item
