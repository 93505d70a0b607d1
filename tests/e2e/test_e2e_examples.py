"""A real App Mesh walkthrough, applied stage by stage with the command line (must show 2 of the first slice)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from harness.world import spiffe

if TYPE_CHECKING:
    from harness.world import World

_SHARED = Path(os.environ.get("MESHCA_SHARED", Path(__file__).parents[3] / "shared"))
_MESH = _SHARED / "appmesh-examples/walkthroughs/howto-mutual-tls-file-provided/mesh"
GATEWAY, TELLER = spiffe("gateway-vgw", "virtualGateway", "hm"), spiffe("colorteller-vn", mesh_name="hm")
VARIABLES = [
    "--var", "SERVICES_DOMAIN=howto.local", "--var", "VIRTUAL_SERVICE=colorteller.howto.local",
    "--var", f"GATEWAY_SAN={GATEWAY}", "--var", f"COLOR_TELLER_SAN={TELLER}",
]  # fmt: skip
BASE = {
    "mesh/hm": "mesh.json",
    "virtualNode/colorteller-vn": "colorteller-vn.json",
    "virtualService/colorteller.howto.local": "colorteller-vs.json",
    "virtualGateway/gateway-vgw": "gateway-vgw.json",
    "gatewayRoute/gateway-vgw/colorteller": "colorteller-gwroute.json",
}
STAGES = [
    ("virtualNode/colorteller-vn", "updates/colorteller-vn-strict-tls.json"),
    ("virtualGateway/gateway-vgw", "updates/gateway-vgw-client-policy.json"),
    ("virtualNode/colorteller-vn", "updates/colorteller-vn-strict-validation.json"),
    ("virtualGateway/gateway-vgw", "updates/gateway-vgw-client-cert.json"),
]


def files(named: dict[str, str]) -> list[str]:
    """Return -f arguments."""
    return [word for name, path in named.items() for word in ("-f", f"{name}={_MESH / path}")]


@pytest.mark.skipif(not _MESH.is_dir(), reason="needs the App Mesh examples beside the checkout")
def test_the_mutual_tls_walkthrough_applies_stage_by_stage(world: World) -> None:
    common = ["--mesh", "hm", *VARIABLES]
    world.run("validate", *files(BASE), *common)
    assert world.run("can", "gateway-vgw", "colorteller-vn", code=3).err
    world.run("apply", *files(BASE), *common)
    answer = world.run("can", "gateway-vgw", "colorteller-vn", "-o", "json").json
    assert answer["allowed"]
    assert (answer["client"], answer["server"]) == (GATEWAY, TELLER)
    assert "enforce" in str(answer["reasons"])
    world.run("can", "colorteller-vn", "gateway-vgw", code=1)

    for name, path in STAGES:
        world.run("apply", *files({name: path}), *common)
        answer = world.run("can", "gateway-vgw", "colorteller-vn", "-o", "json").json
        assert answer["allowed"], (path, answer)
        world.run("can", "colorteller-vn", "gateway-vgw", code=1)
    assert "enforce" not in str(answer["reasons"])

    wrong = [*common, "--var", "GATEWAY_SAN=spiffe://m.test/mesh/hm/virtualGateway/other"]
    world.run("apply", *files(dict([STAGES[2]])), *wrong)
    refused = world.run("can", "gateway-vgw", "colorteller-vn", "-o", "json", code=1).json
    assert not refused["allowed"]
    assert "subjectAlternativeNames" in str(refused["reasons"])


@pytest.mark.skipif(not _MESH.is_dir(), reason="needs the App Mesh examples beside the checkout")
def test_a_dns_name_in_a_policy_matches_nobody_and_says_so(world: World) -> None:
    common = ["--mesh", "hm", *VARIABLES, "--var", "GATEWAY_SAN=gateway.howto.local"]
    world.run("apply", *files(BASE), *common)

    applied = world.run("apply", *files(dict([STAGES[2]])), *common)

    assert "gateway.howto.local" in applied.out + applied.err
    world.run("can", "gateway-vgw", "colorteller-vn", code=1)
