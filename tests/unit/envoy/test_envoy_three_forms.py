"""One mesh in the three input forms: not only the objects are equal, every byte that an Envoy is sent is."""

from __future__ import annotations

import pytest
from unit.mesh.mesh_objects import DOMAIN
from unit.mesh.mesh_three_forms import CLOUDFORMATION, KUBERNETES, OUTSIDE, PARAMETERS, api

from meshca.envoy.generator import generate
from meshca.envoy.placement import Placement
from meshca.envoy.snapshot import Snapshot
from meshca.mesh.forest import MeshSet
from meshca.mesh.identity import identities
from meshca.mesh.source import Parsed, Source, parse_documents
from meshca.policy.admission import Policy

PLACEMENTS = (Placement(), Placement.parse("127.0.0.1:15000", "127.0.0.2"))


def sent(found: Parsed) -> dict[tuple[str, int, str, str], bytes]:
    """Return what each caller's Envoy is sent, by caller, placement, type and name."""
    mesh_set = MeshSet(found.objects)
    known = identities(mesh_set, DOMAIN)
    snapshot = Snapshot(mesh_set, Policy.of(mesh_set, known, DOMAIN), known, {}, frozenset())
    return {
        (str(caller.key), number, one.type_url, one.name): one.body
        for caller in mesh_set.callers()
        for number, placement in enumerate(PLACEMENTS)
        for one in generate(caller.key, snapshot, placement)
    }


@pytest.fixture(scope="module")
def from_api() -> dict[tuple[str, int, str, str], bytes]:
    return sent(parse_documents([Source("mesh.json", api())], {}))


def test_what_is_compared_is_everything(from_api: dict[tuple[str, int, str, str], bytes]) -> None:
    callers = {caller for caller, *_ in from_api}
    assert {caller.rsplit("/", 1)[-1] for caller in callers} == {"web", "cart", "door"}
    assert all(from_api.values())
    assert len({kind for _, _, kind, _ in from_api}) >= 3


@pytest.mark.parametrize("form", ["cloudformation", "kubernetes"])
def test_the_forms_give_the_same_bytes(from_api: dict[tuple[str, int, str, str], bytes], form: str) -> None:
    if form == "cloudformation":
        found = parse_documents([Source("mesh.yaml", CLOUDFORMATION)], OUTSIDE, parameters=PARAMETERS)
    else:
        found = parse_documents([Source("mesh.yaml", KUBERNETES)], {})
    assert sent(found) == from_api
