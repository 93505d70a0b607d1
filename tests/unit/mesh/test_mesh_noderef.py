from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from unit.mesh.mesh_objects import ARN, examples

from meshca.mesh.arn import Resource, parse_arn, parse_resource
from meshca.mesh.model import IDENTITY_KINDS
from meshca.mesh.noderef import NodeRef, parse_node_id

LONG = "n" * 255


@pytest.mark.parametrize(
    ("text", "node"),
    [
        ("mesh/m/virtualNode/n", NodeRef("m", "virtualNode", "n")),
        ("mesh/m/virtualGateway/g", NodeRef("m", "virtualGateway", "g")),
        ("mesh/m/virtualNode/n/i-1", NodeRef("m", "virtualNode", "n", "i-1")),
        ("mesh/m@123456789012/virtualNode/n", NodeRef("m", "virtualNode", "n")),
        ("mesh/m@123456789012/virtualNode/n/10.0.0.1:80", NodeRef("m", "virtualNode", "n", "10.0.0.1:80")),
        (f"{ARN}:mesh/m/virtualNode/n", NodeRef("m", "virtualNode", "n")),
        (f"{ARN}:mesh/m@123456789012/virtualGateway/g/task", NodeRef("m", "virtualGateway", "g", "task")),
        ("arn:aws-us-gov:appmesh:us-gov-west-1:123456789012:mesh/m/virtualNode/n", NodeRef("m", "virtualNode", "n")),
        ("arn:aws:appmesh:::mesh/m/virtualNode/n", NodeRef("m", "virtualNode", "n")),
        (f"mesh/{LONG}/virtualNode/{LONG}/{'i' * 255}", NodeRef(LONG, "virtualNode", LONG, "i" * 255)),
        ("mesh/m/virtualNode/...", NodeRef("m", "virtualNode", "...")),
    ],
)
def test_each_form_names_its_node(text: str, node: NodeRef) -> None:
    found = parse_node_id(text)
    assert found == node
    assert str(found) == f"mesh/{node.mesh}/{node.kind}/{node.name}"
    assert str(node.key) == str(node)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "n",
        "mesh",
        "mesh/m",
        "mesh/m/virtualNode",
        "mesh/m/virtualNode/",
        "mesh//virtualNode/n",
        "mesh/m//n",
        "Mesh/m/virtualNode/n",
        "mesh/m/VirtualNode/n",
        "mesh/m/virtualnode/n",
        "mesh/m/virtualService/s",
        "mesh/m/virtualRouter/r",
        "/mesh/m/virtualNode/n",
        " mesh/m/virtualNode/n",
        "mesh/m/virtualNode/n ",
        "mesh/m/virtualNode/n\n",
        "mesh/m\n/virtualNode/n",
        "mesh/m/virtualNode/a b",
        "mesh/m/virtualNode/ä",
        "mesh/m/virtualNode/a%2Fb",
        "mesh/m/virtualNode/..",
        "mesh/./virtualNode/n",
        "mesh/m/virtualNode/n/",
        "mesh/m/virtualNode/n/a/b",
        "mesh/m/virtualNode/n/a b",
        "mesh/m/virtualNode/n/i\n",
        "mesh/m/virtualNode/n/ä",
        f"mesh/m/virtualNode/n/{'i' * 256}",
        f"mesh/m/virtualNode/{'n' * 256}",
        f"mesh/m/virtualNode/n/{'i' * 3000}",
        "mesh/m@/virtualNode/n",
        "mesh/m@12345678901/virtualNode/n",
        "mesh/m@1234567890123/virtualNode/n",
        "mesh/m@12345678901٣/virtualNode/n",
        "mesh/m@123456789012@123456789012/virtualNode/n",
        "spiffe://m.test/mesh/m/virtualNode/n",
        "arn:aws:appmesh:eu-west-1:123456789012:virtualNode/n",
        "arn:aws:ec2:eu-west-1:123456789012:mesh/m/virtualNode/n",
        "arn:gcp:appmesh:eu-west-1:123456789012:mesh/m/virtualNode/n",
        "arn:aws:appmesh:eu-west-1:12345:mesh/m/virtualNode/n",
        "arn:aws:appmesh:eu-west-1:123456789012:mesh/m",
        "arn:aws:appmesh:EU:123456789012:mesh/m/virtualNode/n",
        "ARN:aws:appmesh:eu-west-1:123456789012:mesh/m/virtualNode/n",
    ],
)
def test_what_has_none_of_these_forms_selects_nothing(text: str) -> None:
    assert parse_node_id(text) is None


_segments = st.text("abzAZ09._-", min_size=1, max_size=20).filter(lambda text: text not in {".", ".."})


@examples(60)
@given(_segments, st.sampled_from(IDENTITY_KINDS), _segments, st.none() | st.text("a0:-!~", min_size=1, max_size=20))
def test_all_forms_of_a_node_name_the_same(mesh: str, kind: str, name: str, instance: str | None) -> None:
    end = f"/{kind}/{name}" + (f"/{instance}" if instance else "")
    for start in (f"mesh/{mesh}", f"mesh/{mesh}@123456789012"):
        for prefix in ("", f"{ARN}:"):
            assert parse_node_id(prefix + start + end) == NodeRef(mesh, kind, name, instance)


@examples(60)
@given(st.text(st.sampled_from("mesh/virtualNode@:arn0.-\n ä"), max_size=60))
@example("mesh/virtualNode/virtualNode/virtualNode")
def test_whatever_is_parsed_was_spelt_out(text: str) -> None:
    found = parse_node_id(text)
    if found is not None:
        assert f"/{found.kind}/{found.name}" in text
        assert found.mesh in text


def test_a_resource_keeps_all_its_parts() -> None:
    assert parse_resource("mesh/m@123456789012/route/r/x/y") == Resource("m", "123456789012", "route", "r", "x/y")
    assert parse_arn(f"{ARN}:mesh/m/virtualService/a.b:80") == Resource("m", "", "virtualService", "a.b:80")
    assert parse_arn("mesh/m/virtualNode/n") is None
    assert parse_resource(f"{ARN}:mesh/m/virtualNode/n") is None
