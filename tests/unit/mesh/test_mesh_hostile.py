"""Input that was written to do harm: refused in less than a second of work, in few words, with little memory."""

from __future__ import annotations

import json
import time
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.mesh.mesh_objects import examples

from meshca.mesh.crdspec import MOST_GROUPED
from meshca.mesh.findings import SpecError
from meshca.mesh.parameterfile import parse_parameters
from meshca.mesh.source import Source, parse_documents
from meshca.mesh.variables import MOST_VARIABLES

MESH = "AWS::AppMesh::Mesh"
CRD = "appmesh.k8s.aws/v1beta2"
PATH_REGEX = "(a{1,1000}){1,1000}"


def stack(properties: dict[str, Any], **template: Any) -> str:
    resources = {name: {"Type": MESH, "Properties": {"MeshName": value}} for name, value in properties.items()}
    return json.dumps({"Resources": resources, **template})


def tagged(*tags: Any, **template: Any) -> str:
    properties = {"MeshName": "m", "Tags": list(tags)}
    return json.dumps({"Resources": {"A": {"Type": MESH, "Properties": properties}}, **template})


def crd(kind: str, name: str, spec: Any, namespace: str = "n") -> dict[str, Any]:
    return {"apiVersion": CRD, "kind": kind, "metadata": {"name": name, "namespace": namespace}, "spec": spec}


def bomb(head: str = "") -> str:
    lines = ["l0: &l0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]" for n in range(1, 10)]
    return head + "\n".join(lines)


def merge_bomb() -> str:
    lines = ["l0: &l0 {" + ", ".join(f"k{n}: 1" for n in range(1000)) + "}"]
    return "\n".join([*lines, *(f"m{n}: {{<<: *l0}}" for n in range(1000))])


def growing() -> str:
    """Names that double thirty times."""
    names: dict[str, Any] = {f"A{n}": {"Fn::Sub": f"${{A{n + 1}.MeshName}}" * 2} for n in range(30)}
    return stack({**names, "A30": "x"})


def route(regex: str) -> str:
    match = {"path": {"regex": regex}}
    action = {"weightedTargets": [{"virtualNode": "n", "weight": 1}]}
    spec = {"httpRoute": {"match": match, "action": action}}
    return json.dumps({"meshName": "m", "virtualRouterName": "r", "routeName": "x", "spec": spec})


def unknown_keys() -> str:
    return json.dumps({"meshName": "m", "virtualNodeName": "n", "spec": dict.fromkeys(map(str, range(20_000)), 1)})


def stars() -> str:
    services = [crd("VirtualService", f"s{n}", {}) for n in range(500)]
    nodes = [crd("VirtualNode", f"n{n}", {"backendGroups": [{"name": "*"}]}) for n in range(500)]
    return json.dumps([crd("Mesh", "m", {}), *services, *nodes])


def selecting() -> str:
    meshes = [crd("Mesh", f"m{n}", {"namespaceSelector": {"matchLabels": {"a": "b"}}}) for n in range(500)]
    spaces = [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": f"n{n}"}} for n in range(500)]
    return json.dumps([*meshes, *spaces, *(crd("VirtualNode", "x", {}, f"n{n}") for n in range(500))])


def conditions(count: int) -> dict[str, Any]:
    both = {f"C{n}": {"Fn::And": [{"Condition": f"C{n + 1}"}, {"Condition": f"C{n + 1}"}]} for n in range(count)}
    return {"Conditions": {**both, f"C{count}": {"Fn::Equals": ["a", "a"]}}}


LONG = "x" * 60_000
HOSTILE = {
    "alias-bomb": (bomb(), "aliases add more than"),
    "alias-bomb-in-a-manifest": (bomb(f"apiVersion: {CRD}\nkind: Mesh\n"), "aliases add more than"),
    "merge-bomb": (merge_bomb(), "aliases add more than"),
    "100-megabytes": ("meshName: " + "x" * 100_000_000, "a text has at most 8 MiB"),
    "deep-json": ("[" * 10_000, "nested deeper than 64 levels"),
    "deep-yaml": ("a: " + "[" * 10_000, "nest"),
    "deep-mapping": ("{a: " * 10_000, "nest"),
    "deep-functions": (stack({"A": json.loads('{"Fn::Sub": ["x", {"v": ' * 20 + "1" + "}]}" * 20)}), ""),
    "regex": (route(PATH_REGEX), "more than 1000 repetitions"),
    "sub-of-itself": (stack({"A": {"Fn::Sub": "${A.MeshName}"}}), "MeshName of A depends on itself"),
    "sub-in-its-own-variable": (
        stack({"A": {"Fn::Sub": ["${V}", {"V": {"Fn::Sub": ["${V}", {"V": {"Ref": "V"}}]}}]}}),
        "neither a parameter nor a resource",
    ),
    "names-in-a-circle": (
        stack({"A": {"Fn::GetAtt": ["B", "MeshName"]}, "B": {"Fn::GetAtt": ["A", "MeshName"]}}),
        "depends on itself",
    ),
    "names-that-double": (growing(), "has at most 65536 characters"),
    "map-of-a-million": (tagged(Mappings={"M": {"a": {f"{n}": 1 for n in range(10**6)}}}), "a text "),
    "join": (tagged({"Fn::Join": [LONG, ["a", "b", LONG]]}), "has at most 65536 characters"),
    "joins": (
        tagged(*[{"Fn::Sub": "${P}"}] * 400, Parameters={"P": {"Type": "String", "Default": LONG}}),
        "8388608 in all",
    ),
    "long-sub": (tagged({"Fn::Sub": "${!x}" * 20_000}), "the text of Fn::Sub has at most"),
    "many-placeholders": (tagged(*[{"Fn::Sub": "${!x}" * 13_000}] * 20), "more than 200000 steps"),
    "condition-of-itself": (
        json.dumps({"Conditions": {"C": {"Condition": "C"}}, "Resources": {"A": {"Type": MESH, "Condition": "C"}}}),
        "a condition depends on itself",
    ),
    "deep-conditions": (
        json.dumps({**conditions(2000), "Resources": {"A": {"Type": MESH, "Condition": "C0"}}}),
        "conditions are nested deeper than 64 levels",
    ),
    "many-lines": ("#\n" * 5_000_000, "a text has at most 8 MiB"),
    "unknown-keys": (unknown_keys(), "at most 500 different unknown keys"),
    "stars": (stars(), f"backend groups add more than {MOST_GROUPED} backends"),
    "selectors": (selecting(), "no mesh of the input selects"),
    "variables": ('meshName: "' + "$A" * 1_000_000 + '"', f"more than {MOST_VARIABLES} variables"),
}


def test_what_is_allowed_deep_down_is_still_no_name() -> None:
    with pytest.raises(SpecError):
        parse_documents([Source("a.json", HOSTILE["deep-functions"][0].replace('"x"', '"x/y"'))])


@pytest.mark.parametrize("name", [name for name in HOSTILE if name != "deep-functions"])
def test_harm_is_refused_at_once(name: str) -> None:
    text, rule = HOSTILE[name]
    path = "a.json" if text.startswith(("[", '{"')) else "a.yaml"
    began = time.process_time()
    with pytest.raises(SpecError, match=rule) as caught:
        parse_documents([Source(path, text)], {"A": "v" * 100})
    assert time.process_time() - began < 1
    assert len(str(caught.value)) < 50_000
    assert all(finding.rule and len(str(finding)) < 1000 for finding in caught.value.findings)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        (bomb(), "aliases add more than"),
        ("meshName: " + "x" * 100_000_000, "a text has at most 8 MiB"),
        ("#\n" * 5_000_000, "a text has at most 8 MiB"),
        ("[" * 10_000, "nested deeper than 64 levels"),
        ("- " * 10_000, "nested deeper than 64 levels"),
        ("a: 1\n" * 1000, "a key occurs once"),
        ('a: "\\0"', "text holds no NUL character"),
    ],
    ids=["alias-bomb", "100-megabytes", "lines", "deep-json", "deep-yaml", "the-same-key", "NUL"],
)
def test_harm_in_a_parameter_file_is_refused_at_once(text: str, rule: str) -> None:
    began = time.process_time()
    with pytest.raises(SpecError, match=rule) as caught:
        parse_parameters(text, "p.json" if text.startswith("[") else "p.yaml")
    assert time.process_time() - began < 1
    assert len(str(caught.value)) < 50_000


@pytest.mark.parametrize("name", ["a/b", "..", "a\nb", "a\x1b[31m", "\u202e"])
def test_no_parameter_brings_a_bad_name(name: str) -> None:
    template = stack({"A": {"Ref": "P"}}, Parameters={"P": {"Type": "String"}})
    with pytest.raises(SpecError, match="becomes a path segment") as caught:
        parse_documents([Source("a.json", template)], parameters=parse_parameters(json.dumps({"P": name}), "p.json"))
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["alias-bomb", "merge-bomb", "names-that-double", "joins", "stars", "variables"])
def test_harm_costs_little_memory(name: str) -> None:
    text, _ = HOSTILE[name]
    tracemalloc.start()
    try:
        with pytest.raises(SpecError):
            parse_documents([Source("a.json" if text.startswith(("[", '{"')) else "a.yaml", text)], {"A": "v" * 100})
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 64 * 1024 * 1024


@pytest.mark.parametrize("name", ["a/b", "..", ".", "a\nb", "a\x00b", "a\x1b[31m", "", "x" * 256, "a b", "\u202e"])
@pytest.mark.parametrize("form", ["api", "cloudformation", "kubernetes"])
def test_no_form_lets_a_bad_name_in(form: str, name: str) -> None:
    text: Any = {"meshName": name, "spec": {}}
    if form == "cloudformation":
        text = {"Resources": {"A": {"Type": MESH, "Properties": {"MeshName": name}}}}
    elif form == "kubernetes":
        text = {"apiVersion": CRD, "kind": "Mesh", "metadata": {"name": "m"}, "spec": {"awsName": name or "/"}}
    with pytest.raises(SpecError) as caught:
        parse_documents([Source("a.json", json.dumps(text))])
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["a\nError: b", "a\tb", "a\x1b[31m", "\u202e"])
def test_no_name_forges_a_line_where_something_else_is_wrong_with_its_object(name: str) -> None:
    with pytest.raises(SpecError, match="nothing says which mesh") as caught:
        parse_documents([Source("a.json", json.dumps(crd("VirtualNode", name, {})))])
    assert str(caught.value).isprintable()


# -- anything

_KEYS = [
    "apiVersion", "kind", "metadata", "name", "namespace", "labels", "spec", "items", "awsName", "meshRef",
    "namespaceSelector", "matchLabels", "matchExpressions", "key", "operator", "values", "routes", "backends",
    "backendGroups", "virtualService", "virtualServiceRef", "virtualServiceARN", "provider", "virtualNode",
    "virtualNodeRef", "clientPolicy", "tls", "mode", "certificate", "trust", "acm", "certificateARN", "virtualservices",
    "Resources", "Type", "Properties", "MeshName", "VirtualNodeName", "Spec", "Tags", "Key", "Value", "Parameters",
    "Conditions", "Mappings", "Default", "AllowedValues", "Condition", "Ref", "Fn::Sub", "Fn::If", "Fn::Join",
    "Fn::GetAtt", "Fn::FindInMap", "Fn::Equals", "Fn::Not", "Listeners", "PortMapping", "TLS", "Backends", "A",
    "meshName", "virtualNodeName", "virtualRouterName", "routeName", "tags", "meshOwner", "listeners", "portMapping",
    "subjectAlternativeNames", "exact", "httpRoute", "match", "action", "weightedTargets", "path", "regex",
]  # fmt: skip
_TEXTS = [
    CRD, "v1", "List", "Mesh", "Namespace", "VirtualNode", "VirtualService", "VirtualRouter", "GatewayRoute",
    "VirtualGateway", "BackendGroup", "VirtualNodeList", MESH, "AWS::AppMesh::VirtualNode", "A", "A.MeshName", "*",
    "In",
    "${A}", "${A.MeshName}", "AWS::NoValue", "arn:aws:appmesh:::mesh/m/virtualNode/n", "STRICT", "$A", "", "m",
]  # fmt: skip
_values = st.recursive(
    st.sampled_from(_TEXTS) | st.none() | st.booleans() | st.integers(-1, 70000) | st.floats(0, 9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_KEYS), inner, max_size=5),
    max_leaves=25,
)


def _template(properties: Any, extra: Any) -> Any:
    resources = {"A": {"Type": "AWS::AppMesh::VirtualNode", "Properties": properties}, "B": extra}
    return {"Resources": resources, "Parameters": {"A": extra}, "Conditions": {"A": extra}, "Mappings": extra}


_documents = st.one_of(
    _values,
    st.builds(
        lambda kind, metadata, spec: {"apiVersion": CRD, "kind": kind, "metadata": metadata, "spec": spec},
        st.sampled_from(["Mesh", "VirtualNode", "VirtualService", "VirtualRouter", "GatewayRoute", "BackendGroup"]),
        st.fixed_dictionaries({"name": st.just("A")}, optional={"labels": _values, "namespace": _values}),
        _values,
    ),
    st.builds(_template, _values, _values),
    st.builds(lambda spec: {"meshName": "m", "virtualNodeName": "n", "spec": spec, "tags": spec}, _values),
)


@examples(200)
@given(st.lists(_documents, min_size=1, max_size=4), st.sampled_from([None, {}, {"A": "m"}]))
def test_any_documents_are_read_or_refused(documents: list[Any], variables: dict[str, str] | None) -> None:
    try:
        found = parse_documents([Source("a.json", json.dumps(documents))], variables)
    except SpecError as error:
        refused = error.findings
    else:
        refused = ()
        assert found.objects
    assert all(finding.rule for finding in refused)
    assert all(finding.line for finding in refused if finding.file)
