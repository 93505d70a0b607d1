"""Rows about a mesh of 1,000 virtual nodes with ten backends each: all of it generated, one of its routes changed."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.measure import Row, cpu_seconds, median, resident_bytes
from benchmarks.server import Server
from meshca.envoy.generator import generate
from meshca.envoy.placement import Placement
from meshca.envoy.snapshot import Snapshot
from meshca.mesh.forest import MeshSet
from meshca.mesh.identity import identities
from meshca.mesh.model import CLASSES, SPECS, MeshObject
from meshca.mesh.render import envelope
from meshca.policy.admission import Policy
from meshca.spiffe.id import TrustDomain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_HERE = Path(__file__).parents[1]
_NODES = 1000
_BACKENDS = 10
_DOMAIN = TrustDomain("bench.test")
_SDS = {"sds": {"secretName": "default"}}
_TLS = {"mode": "STRICT", "certificate": _SDS, "validation": {"trust": _SDS}}
_STREAMS = 100
# Those whose backend s0.local is: the last ten, round the corner.
_AFFECTED = [f"mesh/m/virtualNode/n{index}" for index in range(_NODES - _BACKENDS, _NODES)]
_OTHERS = [f"mesh/m/virtualNode/n{index}" for index in range(_STREAMS - _BACKENDS)]


def rows(runs: int) -> list[Row]:
    """Return both rows."""
    return [_whole(runs), _change(5 * runs)]


def _whole(runs: int) -> Row:
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
    return Row(
        what=f"{_NODES:,} virtual nodes with {_BACKENDS} backends each: whole generation",
        ours=f"{total:.2f} s: references and policy {median(checking):.2f} s, {count:,} resources "
        f"{median(generating):.2f} s",
        peer="",
        ratio="",
        bar="≤ 2 s (aim 0.5 s)",
        met=total <= 2,
        figures={"seconds": total, "checking_s": median(checking), "generating_s": median(generating)},
    )


def _change(times: int) -> Row:
    """Return the row of one changed route: a server process, streams of its callers and of others."""
    with Server() as server:
        server.admin.apply([envelope(one) for one in _objects()])
        for node_id in [*_AFFECTED, *_OTHERS]:
            server.admin.register(node_id, [f"unix:uid:{os.getuid()}"])
        applied = resident_bytes(server.pid)
        with _fleet(server.home / "run/meshca.sock", [*_AFFECTED, *_OTHERS]) as came:
            resident = resident_bytes(server.pid)
            worked = cpu_seconds(server.pid)
            spent = [_changed(server, number, came) for number in range(times)]
            worked = (cpu_seconds(server.pid) - worked) / times
    return Row(
        what=f"one route changed among {_NODES:,} nodes, {_STREAMS} Envoys connected: last ACK of {_BACKENDS} callers",
        ours=f"{median(spent) * 1000:.0f} ms (best {min(spent) * 1000:.0f} ms), {worked * 1000:.0f} ms of server CPU, "
        f"nothing sent to the others; "
        f"{applied / 2**20:.0f} MiB with the mesh applied, {resident / 2**20:.0f} MiB with its Envoys",
        peer="",
        ratio="",
        bar="≤ 0.1 s (aim 0.03 s)",
        met=median(spent) <= 0.1,
        figures={"seconds": spent, "cpu_s": worked, "resident_bytes": resident, "resident_bytes_before": applied},
    )


def _changed(server: Server, number: int, came: Callable[[], dict[str, dict[str, int]]]) -> float:
    """Change one route; return the seconds until the server has the last acknowledgement.

    Raises:
        RuntimeError: anybody else was sent anything, or somebody concerned was not.
    """
    began = time.perf_counter()
    revision = server.admin.apply([envelope(_route(0, {"perRequest": {"unit": "s", "value": 20 + number}}))]).revision
    progress = [row for rows in server.admin.watch_revision(revision, 30) for row in rows]
    elapsed = time.perf_counter() - began
    acknowledged = {row.node_id for row in progress if row.state == "acknowledged"}
    sent = came()
    if sorted(acknowledged) != sorted(_AFFECTED) or sent != {key: {"RouteConfiguration": 1} for key in _AFFECTED}:
        raise RuntimeError(
            f"a route of {len(_AFFECTED)} callers was changed, {acknowledged} have it, and sent was {sent}"
        )
    return elapsed


@contextlib.contextmanager
def _fleet(socket: Path, node_ids: list[str]) -> Iterator[Callable[[], dict[str, dict[str, int]]]]:
    command = [sys.executable, "-m", "benchmarks.fleet", str(socket), *node_ids]
    with subprocess.Popen(command, cwd=_HERE, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as process:
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("the fleet has no standard streams")
        asking, answers = process.stdin, process.stdout

        def came() -> dict[str, dict[str, int]]:
            asking.write(b"\n")
            answer: dict[str, dict[str, int]] = json.loads(answers.readline())
            return answer

        try:
            if not answers.readline():
                raise RuntimeError("the fleet ended before all of it had what it asked for")
            yield came
        finally:
            process.terminate()


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
        provider = {"provider": {"virtualRouter": {"virtualRouterName": f"r{index}"}}}
        made.append(_made("virtualService", f"s{index}.local", provider))
        made.append(
            _made("virtualRouter", f"r{index}", {"listeners": [{"portMapping": {"port": 9080, "protocol": "http"}}]})
        )
        made.append(_route(index, {}))
    return made


def _route(index: int, timeout: dict[str, Any]) -> MeshObject:
    action = {"weightedTargets": [{"virtualNode": f"n{index}", "weight": 1}]}
    spec = {"httpRoute": {"match": {"prefix": "/"}, "action": action, **({"timeout": timeout} if timeout else {})}}
    return _made("route", "all", spec, f"r{index}")


def _made(kind: str, name: str, spec: dict[str, Any], parent: str = "") -> MeshObject:
    shape: Any = CLASSES[kind]  # the kind says which spec goes with it
    item: MeshObject = shape("m", name, SPECS[kind].model_validate(spec), parent)
    return item
