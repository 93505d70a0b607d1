from __future__ import annotations

from typing import Any

import pytest
from unit.mesh.mesh_objects import MESH, create_input, listener, parsed, refusal, refusals

from meshca.mesh.model import KINDS, PARENT_KINDS
from meshca.mesh.source import NamedSpec

TARGETS = {"weightedTargets": [{"virtualNode": "n", "weight": 1}]}
SPECS: dict[str, Any] = {
    "mesh": {"egressFilter": {"type": "ALLOW_ALL"}},
    "virtualNode": {"listeners": [listener()]},
    "virtualService": {"provider": {"virtualNode": {"virtualNodeName": "n"}}},
    "virtualRouter": {"listeners": [listener()]},
    "route": {"httpRoute": {"match": {"prefix": "/"}, "action": TARGETS}},
    "virtualGateway": {"listeners": [listener()]},
    "gatewayRoute": {
        "httpRoute": {
            "match": {"prefix": "/"},
            "action": {"target": {"virtualService": {"virtualServiceName": "s"}}},
        }
    },
}
METADATA = {"arn": "arn:…", "createdAt": 1.5, "uid": "…", "version": 3}


def written(kind: str, **envelope: Any) -> dict[str, Any]:
    parent = "p" if kind in PARENT_KINDS else ""
    if kind == "mesh":
        return {"meshName": MESH, "spec": SPECS[kind], **envelope}
    return create_input(kind, "it", SPECS[kind], parent, **envelope)


def named(kind: str) -> NamedSpec:
    return NamedSpec(kind, MESH if kind == "mesh" else "it", "p" if kind in PARENT_KINDS else "")


@pytest.mark.parametrize("kind", KINDS)
def test_each_form_of_an_object_is_the_same_object(kind: str) -> None:
    (created,) = parsed(written(kind)).objects
    assert created.kind == kind
    assert created.spec.plain() == SPECS[kind]
    described = written(kind, metadata=METADATA, status={"status": "ACTIVE"})
    forms = {
        "describe output": parsed({kind: described}),
        "describe output of an SDK": parsed({kind: described, "ResponseMetadata": {"RequestId": "…"}}),
        "create input of the CLI": parsed(written(kind, clientToken="t")),
        "canonical": parsed({"kind": kind, **written(kind)}),
        "in a list": parsed([[written(kind)]]),
        "bare spec": parsed(SPECS[kind], named=named(kind), mesh=MESH),
        "spec alone": parsed({"spec": SPECS[kind]}, named=named(kind), mesh=MESH),
        "described spec alone": parsed({kind: {"spec": SPECS[kind]}}, named=named(kind), mesh=MESH),
        "named twice": parsed(written(kind), named=named(kind), mesh=MESH),
    }
    for form, found in forms.items():
        assert found.objects == (created,), form
        assert found.findings == (), form


def test_a_mesh_alone_may_leave_its_spec_out() -> None:
    (mesh,) = parsed({"meshName": MESH}).objects
    assert (mesh.kind, mesh.spec.plain()) == ("mesh", {})
    error = refusal({"meshName": MESH, "virtualNodeName": "n"})
    assert (error.field, error.rule) == ("spec", "this key is required")
    assert refusal({"meshName": MESH, "virtualNodeName": "n", "spec": None}).field == "spec"


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "mesh"])
def test_a_spec_without_a_name_is_never_guessed(kind: str) -> None:
    error = refusal({"spec": SPECS[kind]})
    assert error.rule == "nothing says which object this is"
    assert "-f KIND/NAME=PATH" in error.remedy
    assert refusal({"meshName": MESH, "spec": SPECS[kind]}).rule == "this carries the name of a mesh but is no mesh"


@pytest.mark.parametrize(
    "spec",
    [
        {"serviceDiscovery": {"dns": {"hostname": "h"}}},
        {"serviceDiscovery": {"awsCloudMap": {"namespaceName": "n", "serviceName": "s"}}},
        {"serviceDiscovery": {}, "backends": []},
        {"unheardOf": 1},
    ],
)
def test_the_spec_of_a_node_never_passes_for_a_mesh(spec: dict[str, Any]) -> None:
    assert "is no mesh" in refusal({"meshName": MESH, "spec": spec}).rule


@pytest.mark.parametrize(
    ("kind", "missing"),
    [("virtualNode", "meshName"), ("route", "meshName"), ("route", "virtualRouterName"),
     ("gatewayRoute", "virtualGatewayName")],
)  # fmt: skip
def test_a_missing_name_is_asked_for(kind: str, missing: str) -> None:
    text = {name: value for name, value in written(kind).items() if name != missing}
    error = refusal(text)
    assert (error.field, error.rule) == (missing, f"{missing} is missing")
    assert "--mesh M" in error.remedy


def test_a_bare_spec_needs_its_mesh() -> None:
    errors = refusals(SPECS["virtualService"], named=NamedSpec("virtualService", "s"))
    assert errors[0].rule == "meshName is missing"


@pytest.mark.parametrize(
    ("said", "rule"),
    [
        ({"named": NamedSpec("virtualNode", "other")}, "the file says 'it', the command line 'other'"),
        ({"mesh": "other"}, f"the file says '{MESH}', the command line 'other'"),
        ({"named": NamedSpec("virtualRouter", "it")}, "virtualNode and virtualRouter"),
    ],
)
def test_file_and_command_line_must_agree(said: dict[str, Any], rule: str) -> None:
    assert rule in refusal(written("virtualNode"), **said).rule


def test_the_parent_must_agree_as_well() -> None:
    error = refusal(written("route"), named=NamedSpec("route", "it", "other"))
    assert (error.field, error.rule) == ("virtualRouterName", "the file says 'p', the command line 'other'")
    assert error.remedy


def test_a_kind_in_the_text_must_agree_with_the_names() -> None:
    assert "virtualNode and route" in refusal({**written("virtualNode"), "kind": "route"}).rule
    error = refusal({**written("virtualNode"), "kind": {"a": 1}})
    assert error.rule.startswith("a kind is one of mesh, virtualNode")
    assert error.value == "{'a': 1}"


def test_the_command_line_names_one_object() -> None:
    error = refusal([{"spec": {}}, {"spec": {}}], named=NamedSpec("virtualService", "s"), mesh=MESH)
    assert error.rule == "a name on the command line is for one object, here are several"


def test_an_object_has_one_name() -> None:
    rules = [error.rule for error in refusals(written("virtualNode", virtualServiceName="s"))]
    assert "virtualNodeName and virtualServiceName" in rules[0]


@pytest.mark.parametrize("name", [5, True, ["n"], {"a": "b"}])
def test_a_name_is_text(name: Any) -> None:
    error = refusal(written("virtualNode", virtualNodeName=name))
    assert (error.rule, error.field, error.value) == ("a name is text", "virtualNodeName", str(name))
    assert error.remedy == "put it in quotes"


@pytest.mark.parametrize("text", ['"text"', "5", "[5]", "[null, true]"])
def test_an_object_is_a_mapping(text: str) -> None:
    assert {error.rule for error in refusals(text)} == {"an object is a mapping"}


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ({"meshes": []}, "a list of meshes holds no specs: describe each"),
        ({"virtualNodes": [written("virtualNode")]}, "a list of virtualNodes holds no specs: describe each"),
        ({"gatewayRoutes": []}, "a list of gatewayRoutes holds no specs"),
    ],
)
def test_list_output_is_refused_by_name(text: Any, rule: str) -> None:
    error = refusal(text)
    assert rule in error.rule
    assert "aws appmesh describe-" in error.remedy
    assert rule in refusal([text]).rule


def test_tags_are_cloudformations_alone() -> None:
    error = refusal("meshName: !Ref M\nspec: {}\n", "a.yaml")
    assert (error.rule, error.value, error.line, error.column) == ("tags are not read here", "!Ref", 1, 11)


def test_each_document_is_of_its_own_form() -> None:
    template = {"Resources": {"M": {"Type": "AWS::AppMesh::Mesh", "Properties": {"MeshName": "two"}}}}
    crd = {"apiVersion": "appmesh.k8s.aws/v1beta2", "kind": "Mesh", "metadata": {"name": "three"}}
    found = parsed([{"meshName": "one"}, template, [crd]])
    assert [item.name for item in found.objects] == ["one", "two", "three"]


def test_keys_that_app_mesh_does_not_know_are_warned_of() -> None:
    (finding,) = parsed(written("route", virtualNodeNames="x")).findings
    assert (finding.severity, finding.field) == ("warning", "virtualNodeNames")


@pytest.mark.parametrize(("status", "warned"), [("DELETED", True), ("INACTIVE", False), (["DELETED"], False)])
def test_a_deleted_object_is_applied_with_a_warning(status: Any, warned: bool) -> None:
    found = parsed(written("virtualNode", status={"status": status}))
    assert len(found.objects) == 1
    assert ["had deleted" in finding.rule for finding in found.findings] == [True] * warned
