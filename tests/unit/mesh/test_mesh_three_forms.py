from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from unit.mesh.mesh_objects import parsed
from unit.mesh.mesh_three_forms import CLOUDFORMATION, KUBERNETES, OUTSIDE, PARAMETERS, api

from meshca.mesh.forest import MeshSet
from meshca.mesh.model import KINDS
from meshca.mesh.render import canonical_json
from meshca.mesh.source import Parsed, Source, parse_documents

VALUES = {**PARAMETERS, **OUTSIDE}


def from_cloudformation(text: str = CLOUDFORMATION, path: str = "mesh.yaml") -> Parsed:
    return parse_documents([Source(path, text)], OUTSIDE, parameters=PARAMETERS)


def as_json(text: str) -> str:
    """Return a template as `aws cloudformation get-template` and CDK write it: no tags."""

    def full(loader: yaml.SafeLoader, suffix: str, node: yaml.Node) -> Any:
        if isinstance(node, yaml.ScalarNode):
            value: Any = loader.construct_scalar(node)
        elif isinstance(node, yaml.SequenceNode):
            value = loader.construct_sequence(node, deep=True)
        else:
            assert isinstance(node, yaml.MappingNode)
            value = loader.construct_mapping(node, deep=True)
        return {suffix if suffix in {"Ref", "Condition"} else f"Fn::{suffix}": value}

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_multi_constructor("!", full)
    return json.dumps(yaml.load(text, Loader), indent=1)  # noqa: S506 - a safe loader


@pytest.fixture(scope="module")
def written() -> MeshSet:
    return MeshSet(parsed(api()).objects)


def test_every_kind_of_object_is_in_it(written: MeshSet) -> None:
    assert {key.kind for key in written.objects} == set(KINDS)


def canonical(found: Parsed) -> dict[str, str]:
    return {str(item.key): canonical_json(item) for item in MeshSet(found.objects).objects.values()}


def test_the_three_forms_give_equal_meshes(written: MeshSet) -> None:
    one = {str(item.key): canonical_json(item) for item in written.objects.values()}
    assert canonical(from_cloudformation()) == one
    assert canonical(from_cloudformation(as_json(CLOUDFORMATION), "mesh.json")) == one
    assert canonical(parsed(KUBERNETES, "mesh.yaml", variables={})) == one
    assert MeshSet(from_cloudformation().objects).objects == written.objects
    assert MeshSet(parsed(KUBERNETES, "mesh.yaml", variables={}).objects).objects == written.objects


def test_the_forms_may_be_mixed(written: MeshSet) -> None:
    """Each form alone in its file gives an object; references lead from one into another."""
    documents = KUBERNETES.split("\n---\n")
    gateway = "\n---\n".join(
        text for text in documents if any(f"kind: {kind}" in text for kind in ("Namespace", "VirtualGateway"))
    )
    rest = [json.loads(text) for text in json_values(api())]
    others = [item for item in rest if "virtualGatewayName" not in item or "gatewayRouteName" in item]
    found = parse_documents([Source("rest.json", json.dumps(others)), Source("gateway.yaml", gateway)], {})
    assert MeshSet(found.objects).objects == written.objects


def json_values(text: str) -> list[str]:
    decoder, at, found = json.JSONDecoder(), 0, []
    while at < len(text):
        _, end = decoder.raw_decode(text, at)
        found.append(text[at:end])
        at = end + 1
    return found


def test_what_is_ignored_is_noted() -> None:
    (note,) = from_cloudformation().findings
    assert (note.severity, note.rule) == ("note", "one resource is ignored: the type is not AWS::AppMesh::…")
    (note,) = parsed(KUBERNETES, "mesh.yaml", variables={}).findings
    assert note.severity == "note"
    assert note.rule == "a resource of kind Deployment (apps/v1) is ignored: App Mesh has no such kind"
    assert note.line == KUBERNETES.splitlines().index("apiVersion: apps/v1") + 1
