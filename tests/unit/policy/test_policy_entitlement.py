from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.mesh.mesh_objects import DOMAIN, examples, key, spiffe_id

from meshca.mesh.noderef import NodeRef
from meshca.policy.entitlement import (
    Refused,
    Registration,
    Selected,
    Selector,
    entitled,
    is_behind,
    is_group,
    select,
    undecided,
)
from meshca.spiffe.id import SpiffeId

NAMES = ("a", "b", "c")
UID, GID, OTHER = Selector("unix:uid", "1000"), Selector("unix:gid", "1000"), Selector("unix:uid", "1001")
OWN = SpiffeId(DOMAIN, "/its/own")


def entry(name: str, *selectors: Selector) -> Registration:
    return Registration(f"{name}-{len(selectors)}", spiffe_id(name), frozenset(selectors))


def node(name: str, instance: str | None = None) -> NodeRef:
    return NodeRef("shop", "virtualNode", name, instance)


def identity_of(ref: NodeRef) -> SpiffeId | None:
    """Return the identity of a node of the mesh; `c` names one of its own."""
    if ref.key not in {key(name) for name in NAMES}:
        return None
    return OWN if ref.name == "c" else spiffe_id(ref.name)


# -- E1


def test_all_selectors_of_one_registration_must_hold() -> None:
    entries = (entry("a", UID), entry("b", UID, GID), entry("c", OTHER))
    assert entitled(frozenset({UID}), entries) == entries[:1]
    assert entitled(frozenset({UID, GID}), entries) == entries[:2]
    assert entitled(frozenset({GID}), entries) == ()
    assert entitled(frozenset(), entries) == ()


def test_a_uid_is_no_gid() -> None:
    assert entitled(frozenset({GID}), [entry("a", UID)]) == ()


@pytest.mark.parametrize("selectors", [frozenset[Selector](), frozenset({UID, GID})])
def test_a_registration_without_selectors_holds_for_nobody(selectors: frozenset[Selector]) -> None:
    assert entitled(selectors, [entry("a")]) == ()


# -- what is read


def test_only_what_would_decide_about_this_user_is_read() -> None:
    path, unit = Selector("unix:path", "/opt/envoy"), Selector("systemd:unit", "a.service")
    entries = (entry("a", UID, path), entry("b", OTHER, unit), entry("c", UID))
    assert undecided(frozenset({UID}), entries) == {path}
    assert undecided(frozenset({OTHER}), entries) == {unit}
    assert undecided(frozenset({UID, path}), entries) == frozenset()
    assert undecided(frozenset(), [entry("a", unit)]) == {unit}
    assert undecided(frozenset({UID}), [entry("a", UID, GID, path)]) == frozenset()


# -- E2 to E4


def test_one_entitlement_needs_no_node_id() -> None:
    assert select([entry("a", UID), entry("a", UID, GID)], None, identity_of) == Selected(spiffe_id("a"))


@pytest.mark.parametrize("instance", [None, "i-1"])
def test_a_node_id_selects_among_several(instance: str | None) -> None:
    several = [entry("a", UID), entry("b", UID)]
    assert select(several, node("b", instance), identity_of) == Selected(spiffe_id("b"))


def test_a_node_id_selects_the_identity_that_the_node_names() -> None:
    own = Registration("1", OWN, frozenset({UID}))
    assert select([own, entry("a", UID)], node("c"), identity_of) == Selected(OWN)
    assert select([entry("c", UID)], node("c"), identity_of) == Refused(
        "the caller may not be mesh/shop/virtualNode/c", (spiffe_id("c"),)
    )


def test_several_without_a_choice_are_refused_with_the_list() -> None:
    found = select([entry("b", UID), entry("a", UID)], None, identity_of)
    assert isinstance(found, Refused)
    assert found.entitled == (spiffe_id("a"), spiffe_id("b"))
    assert f"{spiffe_id('a')}, {spiffe_id('b')}" in found.reason


@pytest.mark.parametrize("ref", [None, node("a")])
def test_no_registration_is_no_identity(ref: NodeRef | None) -> None:
    assert select([], ref, identity_of) == Refused("no registration holds for this caller")


def test_a_node_id_of_another_is_refused_even_where_only_one_could_be_meant() -> None:
    assert select([entry("a", UID)], node("b"), identity_of) == Refused(
        "the caller may not be mesh/shop/virtualNode/b", (spiffe_id("a"),)
    )


def test_a_node_id_of_nobody_is_refused() -> None:
    assert select([entry("a", UID)], node("gone"), identity_of) == Refused(
        "mesh/shop/virtualNode/gone is in no applied mesh", (spiffe_id("a"),)
    )


_selectors = st.frozensets(st.sampled_from([UID, GID, OTHER]))
_entries = st.lists(st.builds(lambda name, held: entry(name, *held), st.sampled_from(NAMES), _selectors), max_size=5)
_refs = st.none() | st.builds(NodeRef, st.sampled_from(["shop", "other"]), st.sampled_from(["virtualNode",
                              "virtualGateway"]), st.sampled_from([*NAMES, "gone"]))  # fmt: skip


@examples(60)
@given(_selectors, _entries, _refs)
def test_select_grants_nothing_that_registrations_do_not(
    held: frozenset[Selector], entries: list[Registration], ref: NodeRef | None
) -> None:
    granted = {one.spiffe_id for one in entries if one.selectors and all(each in held for each in one.selectors)}
    found = select(entitled(held, entries), ref, identity_of)
    if isinstance(found, Selected):
        assert found.spiffe_id in granted
        assert ref is None or found.spiffe_id == identity_of(ref)
        assert ref is not None or len(granted) == 1
    else:
        assert set(found.entitled) == granted
        assert not granted or (len(granted) > 1 if ref is None else identity_of(ref) not in granted)


@examples(60)
@given(_selectors, _entries, _refs, _refs)
def test_no_node_id_gives_more_than_another(
    held: frozenset[Selector], entries: list[Registration], one: NodeRef | None, two: NodeRef | None
) -> None:
    found = [select(entitled(held, entries), ref, identity_of) for ref in (one, two)]
    may_hold = {spiffe_id for each in found if isinstance(each, Refused) for spiffe_id in each.entitled}
    selected = {each.spiffe_id for each in found if isinstance(each, Selected)}
    assert not may_hold or selected <= may_hold


@pytest.mark.parametrize(
    ("parent", "agent", "behind"),
    [
        ("", "", True),
        ("host1", "host1", True),
        ("", "host1", False),
        ("host1", "", False),
        ("host1", "host1.b", False),  # no group: a name may hold dots
        ("host1.b", "host1", False),
        ("k8s.prod", "k8s.prod.ip-10-0-0-1.ec2.internal", True),
        ("k8s.prod.node1", "k8s.prod.node1", True),
        ("k8s.prod.node1", "k8s.prod.node1.x", False),
        ("k8s.prod", "k8s.production.node1", False),
        ("k8s.prod", "k8s.prod", True),
        ("k8s", "k8s.prod.node1", False),
        ("aws.123456789012.task", "aws.123456789012.task.0123abcd", True),
        ("aws.123456789012.task", "aws.123456789012.task-two.0123abcd", False),
        ("aws.123456789012", "aws.123456789012.task.0123abcd", False),
        ("aws", "aws.123456789012.task.0123abcd", False),
        ("k8s.prod", "", False),
    ],
)
def test_a_registration_is_behind_its_agent_or_those_of_its_cluster_or_role(
    parent: str, agent: str, behind: bool
) -> None:
    assert is_behind(Registration("r", OWN, frozenset({UID}), parent), agent) is behind


@pytest.mark.parametrize(
    "name", ["k8s.prod\n", "k8s.", "k8s.a.b", "k8s.Prod", "aws.12345678901.r", "aws.123456789012.", ""]
)
def test_what_is_no_group(name: str) -> None:
    assert not is_group(name)
