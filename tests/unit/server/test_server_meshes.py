"""An apply looks only at what its change leads to, and comes to the same as one that begins from scratch."""

from __future__ import annotations

from typing import NamedTuple

import pytest
from fakes.ca import World
from hypothesis import given
from hypothesis import strategies as st
from unit.mesh.mesh_objects import DOMAIN, examples, key, mesh_set, node
from unit.policy.policy_meshes import meshes

from meshca.delivery.difference import difference
from meshca.delivery.snapshot import MeshState, Snapshot
from meshca.mesh.findings import SpecError
from meshca.mesh.forest import MeshSet
from meshca.mesh.links import Links
from meshca.mesh.model import MeshObject, ObjectKey, VirtualGateway, VirtualRouter
from meshca.policy.difference import diff
from meshca.server.meshes import judged, propose

TRUST = World().authority.trust


class Step(NamedTuple):
    """Some objects of another mesh that are applied, and one that is removed."""

    applied: tuple[MeshObject, ...]
    removed: ObjectKey | None


@st.composite
def steps(draw: st.DrawFn) -> list[Step]:
    found = []
    for _ in range(draw(st.integers(1, 2))):
        others = draw(meshes())
        # Mostly one node: several changes at once tend to break a reference, and then there is nothing to compare.
        of = [item for item in others if item.kind == "virtualNode"] if draw(st.booleans()) else others
        applied = draw(st.lists(st.sampled_from(of), unique_by=lambda item: item.key, min_size=1, max_size=3))
        removed = draw(st.none() | st.none() | st.sampled_from([item.key for item in others]))
        found.append(Step(tuple(applied), removed))
    return found


@pytest.mark.slow
@examples(120)
@given(meshes(), steps())
def test_a_change_comes_to_the_same_as_starting_from_scratch(first: tuple[MeshObject, ...], then: list[Step]) -> None:
    state = judged(mesh_set(*first), DOMAIN, 1)
    for step in then:
        objects = dict(state.mesh_set.objects) | {item.key: item for item in step.applied}
        gone = step.removed is not None and objects.pop(step.removed, None) is not None
        try:
            scratch = judged(MeshSet(objects.values()), DOMAIN, 1)
        except SpecError:
            scratch = None
        try:
            changed = state.mesh_set.with_applied(step.applied)
            proposal = propose(state, changed.without(step.removed) if gone and step.removed else changed, step.applied)
        except SpecError:
            # Two steps may meet an error that the sum of them does not; one must meet every one.
            assert scratch is None or gone
            continue
        assert scratch is not None
        assert_same(proposal.state, scratch)
        assert proposal.policy == diff(state.policy, scratch.policy)
        assert moved(state, proposal.state) == moved(state, scratch)
        state = proposal.state


@examples(60)
@given(meshes(), meshes(), st.data())
def test_what_is_refused_is_refused_with_the_same_words(
    first: tuple[MeshObject, ...], other: tuple[MeshObject, ...], data: st.DataObject
) -> None:
    before = mesh_set(*first)
    applied = data.draw(st.lists(st.sampled_from(other), unique_by=lambda item: item.key, max_size=4))
    objects = dict(before.objects) | {item.key: item for item in applied}
    for key_ in data.draw(st.lists(st.sampled_from([item.key for item in first]), unique=True, max_size=2)):
        remaining = {name: item for name, item in before.objects.items() if name != key_}
        assert refusal(lambda k=key_: before.without(k)) == refusal(lambda r=remaining: MeshSet(r.values()))
    assert refusal(lambda: before.with_applied(applied)) == refusal(lambda: MeshSet(objects.values()))


def test_what_is_the_same_is_shared() -> None:
    state = judged(mesh_set(*(node(name) for name in "abcdef")), DOMAIN, 1)
    assert state.mesh_set.with_applied([node("a")]) is state.mesh_set
    proposal = propose(state, state.mesh_set.with_applied([node("a", listeners=())]), ())
    assert proposal.changed == (key("a"),)
    before, after = state.policy.sides, proposal.state.policy.sides
    assert [name.name for name in after if after[name] is not before[name]] == ["a"]
    assert proposal.state.identities is state.identities


def refusal(make: object) -> str:
    try:
        make()  # type: ignore[operator]
    except SpecError as error:
        return str(error)
    return ""


def moved(old: MeshState, new: MeshState) -> frozenset[ObjectKey]:
    return difference(Snapshot(DOMAIN, old, TRUST), Snapshot(DOMAIN, new, TRUST)).nodes


def assert_same(found: MeshState, scratch: MeshState) -> None:
    assert found.mesh_set.objects == scratch.mesh_set.objects
    assert found.mesh_set.findings == scratch.mesh_set.findings
    links = Links.among(scratch.mesh_set.objects)
    for name, item in found.mesh_set.objects.items():
        assert found.mesh_set.links.to(name) == links.to(name)
        if isinstance(item, VirtualRouter):
            assert found.mesh_set.routes_of(item) == scratch.mesh_set.routes_of(item)
        if isinstance(item, VirtualGateway):
            assert found.mesh_set.gateway_routes_of(item) == scratch.mesh_set.gateway_routes_of(item)
    assert (found.identities.ids, found.identities.findings) == (scratch.identities.ids, scratch.identities.findings)
    one, other = found.policy, scratch.policy
    assert (one.sides, one.listeners, one.backends) == (other.sides, other.listeners, other.backends)
    assert (one.graph, one.findings, one.calls) == (other.graph, other.findings, other.calls)
