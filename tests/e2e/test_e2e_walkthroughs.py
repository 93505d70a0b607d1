"""Every App Mesh walkthrough on real Envoys, one for each virtual node and gateway, step by step as it was there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from harness.world import World, eventually
from unit.mesh.mesh_examples import Stage, stages, walkthroughs

from meshca.mesh.model import VIRTUAL_GATEWAY, VIRTUAL_NODE
from meshca.mesh.render import canonical_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from meshca.cli.demo.envoy import EnvoyProcess


def apply(world: World, stage: Stage, *options: str) -> Any:
    """Apply one step, and return the report."""
    text = "\n---\n".join(canonical_json(item) for item in stage.parse().objects)
    return world.run("apply", "-f", "-", "--map-arn", "auto", "-o", "json", *options, text=text).json


def callers(world: World) -> list[str]:
    """Return every virtual node and gateway, as `node.id` has it."""
    return [
        f"mesh/{one['meshName']}/{kind}/{one[f'{kind}Name']}"
        for kind in (VIRTUAL_NODE, VIRTUAL_GATEWAY)
        for one in world.run("get", kind, "-o", "json").json
    ]


def settled(world: World) -> Any:
    """Return a row for each stream and type once all is acknowledged."""
    rows = world.run("envoy", "list", "-o", "json").json
    return rows if all(row["version_sent"] == row["version_acked"] for row in rows) else None


def start(world: World, node: str) -> EnvoyProcess:
    """Start a caller's Envoy as this user, who may be any of them; listeners lie on addresses of its own."""
    world.register(node, 0)
    return world.envoy(node, ingress=world.host(), egress=world.host(), live=False)


@pytest.mark.parametrize("walkthrough", walkthroughs() or ["none"])
def test_every_envoy_takes_every_step(walkthrough: str, make_world: Callable[[], World], other_users: None) -> None:
    if walkthrough == "none":
        pytest.skip("needs the App Mesh examples beside the checkout (MESHCA_SHARED)")
    world = make_world().start()
    envoys: dict[str, EnvoyProcess] = {}
    for stage in stages(walkthrough):
        report = apply(world, stage, "--wait", "30")
        assert {row["node_id"]: row["message"] for row in report["envoys"] if row["state"] != "acknowledged"} == {}
        for node in callers(world):
            if node not in envoys:
                envoys[node] = start(world, node)
        for envoy in envoys.values():
            envoy.wait_live(30)
    assert envoys

    rows = eventually(lambda: settled(world), what="the last acknowledgement")
    assert {row["node_id"] for row in rows} == set(envoys)
    assert [row for row in rows if row["nack"]] == []
    for node, envoy in envoys.items():
        assert envoy.stat("runtime.deprecated_feature_use") == 0, node
        assert "eprecated" not in envoy.log.read_text(), node
        assert envoy.stat("listener_manager.lds.update_rejected") == 0, node
        assert envoy.stat("cluster_manager.cds.update_rejected") == 0, node
