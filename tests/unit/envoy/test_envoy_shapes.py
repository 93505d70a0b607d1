from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from envoy_binary import require_valid
from envoy_meshes import gateway_key, message, node_key
from envoy_shapes import every_shape
from google.protobuf import json_format

from meshca.envoy import documents
from meshca.envoy.documents import Bootstrap
from meshca.envoy.generator import generate
from meshca.envoy.placement import Placement
from meshca.envoy.resources import Resources
from meshca.mesh.model import ObjectKey

MESHES: dict[str, dict[str, Any]] = {
    "drop": {},
    "allow": {"egressFilter": {"type": "ALLOW_ALL"}, "serviceDiscovery": {"ipPreference": "IPv6_PREFERRED"}},
}
PLACEMENTS = {"plain": Placement(), "intercepted": Placement(intercepted=True)}
CALLERS = {
    **{name: node_key(name) for name in ("front", "many", "blue", "cloud", "lost", "idle", "db", "g")},
    "gateway": gateway_key("gw"),
}


def _resources(mesh: str, place: str, caller: ObjectKey) -> Resources:
    return generate(caller, every_shape(MESHES[mesh]), PLACEMENTS[place])


@pytest.mark.slow
@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("place", PLACEMENTS)
@pytest.mark.parametrize("caller", ["front", "many", "gateway"])
def test_the_real_envoy_accepts_every_shape(mesh: str, place: str, caller: str, tmp_path: Path) -> None:
    start = Bootstrap("mesh/demo/virtualNode/any", "/run/meshca.sock", PLACEMENTS[place])
    document = documents.static(_resources(mesh, place, CALLERS[caller]), start)
    assert '"ads"' not in json.dumps(document)
    require_valid(document, tmp_path)


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize("place", PLACEMENTS)
def test_what_is_joined_from_parts_is_what_the_real_serialiser_gives(place: str, caller: str) -> None:
    for resource in _resources("allow", place, CALLERS[caller]):
        assert message(resource).SerializeToString(deterministic=True) == resource.body, resource.name


@pytest.mark.slow
@pytest.mark.parametrize("caller", ["front", "many", "gateway"])
def test_a_document_says_all_that_the_bytes_say(caller: str) -> None:
    for resource in _resources("allow", "intercepted", CALLERS[caller]):
        decoded = documents.decode(resource.type_url, resource.body)
        read_back = json_format.ParseDict(decoded, type(message(resource))())
        assert read_back.SerializeToString(deterministic=True) == resource.body
