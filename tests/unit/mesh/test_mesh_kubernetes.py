from __future__ import annotations

import json
from typing import Any

import pytest
from unit.mesh.mesh_objects import ARN, listener, parsed, refusal, refusals

from meshca.mesh.source import NamedSpec, Source, parse_documents

VERSION = "appmesh.k8s.aws/v1beta2"


def crd(kind: str, name: str, spec: Any = None, namespace: str | None = "ns", **metadata: Any) -> dict[str, Any]:
    placed = {} if namespace is None or kind == "Mesh" else {"namespace": namespace}
    said = {"name": name, **placed, **metadata}
    return {"apiVersion": VERSION, "kind": kind, "metadata": said, "spec": spec or {}}


def namespace(name: str = "ns", **labels: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def mesh(name: str = "shop", selector: Any = None) -> dict[str, Any]:
    return crd("Mesh", name, {} if selector is None else {"namespaceSelector": selector})


def labelled(**labels: str) -> dict[str, Any]:
    return {"matchLabels": labels}


def keys(*documents: Any, **said: Any) -> list[str]:
    return [str(item.key) for item in parsed(list(documents), **said).objects]


def plain(document: Any, *others: Any) -> Any:
    *_, item = parsed([mesh(), *others, document]).objects
    return item.spec.plain()


# -- names


@pytest.mark.parametrize(
    ("kind", "spec", "name"),
    [
        ("VirtualNode", {}, "it_ns"),
        ("VirtualRouter", {}, "it_ns"),
        ("VirtualGateway", {"listeners": [listener()]}, "it_ns"),
        ("VirtualService", {}, "it.ns"),
        ("VirtualNode", {"awsName": "own"}, "own"),
        ("VirtualService", {"awsName": "own.svc.cluster.local"}, "own.svc.cluster.local"),
    ],
)
def test_the_name_in_app_mesh(kind: str, spec: Any, name: str) -> None:
    kind_key = kind[0].lower() + kind[1:]
    assert keys(mesh(), crd(kind, "it", spec)) == ["mesh/shop", f"mesh/shop/{kind_key}/{name}"]


def test_a_mesh_is_named_after_itself() -> None:
    assert keys(crd("Mesh", "it")) == ["mesh/it"]
    assert keys(crd("Mesh", "it", {"awsName": "own", "meshOwner": "123456789012"})) == ["mesh/own"]
    (item,) = parsed(crd("Mesh", "it", {"meshOwner": "123456789012"})).objects
    assert item.owner == "123456789012"


def test_without_a_namespace_default_is_taken_and_noted() -> None:
    found = parsed([mesh(), crd("VirtualNode", "a", namespace=None), crd("VirtualNode", "b", namespace=None)])
    assert [item.name for item in found.objects] == ["shop", "a_default", "b_default"]
    (note,) = found.findings
    assert (note.severity, note.remedy) == ("note", "add metadata.namespace")


@pytest.mark.parametrize("metadata", [{}, {"name": ""}, {"name": 5}, {"generateName": "x-"}])
def test_a_resource_needs_a_name(metadata: Any) -> None:
    error = refusal({"apiVersion": VERSION, "kind": "VirtualNode", "metadata": metadata})
    assert (error.rule, error.field) == ("a VirtualNode needs a name, which is text", "metadata.name")


# -- references


TARGET = {"action": {"weightedTargets": [{"virtualNodeRef": {"name": "n"}, "weight": 1}]}, "match": {"prefix": "/"}}


def test_a_reference_means_the_referrers_namespace() -> None:
    backends = [
        {"virtualService": {"virtualServiceRef": {"name": "s"}}},
        {"virtualService": {"virtualServiceRef": {"name": "s", "namespace": "far"}}},
        {"virtualService": {"virtualServiceRef": {"name": "named"}}},
        {"virtualService": {"virtualServiceARN": f"{ARN}:mesh/shop/virtualService/by.arn"}},
    ]
    named = crd("VirtualService", "named", {"awsName": "own.name"})
    spec = plain(crd("VirtualNode", "n", {"backends": backends}), named)
    assert [item["virtualService"]["virtualServiceName"] for item in spec["backends"]] == [
        "s.ns", "s.far", "own.name", "by.arn",
    ]  # fmt: skip


def test_every_reference_becomes_a_name() -> None:
    provider = {"virtualNode": {"virtualNodeRef": {"name": "n", "namespace": "far"}}}
    assert plain(crd("VirtualService", "s", {"provider": provider}))["provider"] == {
        "virtualNode": {"virtualNodeName": "n_far"}
    }
    by_arn = {"virtualRouter": {"virtualRouterARN": f"{ARN}:mesh/shop/virtualRouter/r"}}
    assert plain(crd("VirtualService", "s", {"provider": by_arn}))["provider"] == {
        "virtualRouter": {"virtualRouterName": "r"}
    }
    route = plain(crd("VirtualRouter", "r", {"routes": [{"name": "x", "priority": 3, "httpRoute": TARGET}]}))
    assert route == {
        "priority": 3,
        "httpRoute": {"match": {"prefix": "/"}, "action": {"weightedTargets": [{"virtualNode": "n_ns", "weight": 1}]}},
    }


def test_routes_are_objects_of_their_own() -> None:
    spec = {"listeners": [listener()], "routes": [{"name": name, "httpRoute": TARGET} for name in ("a", "b")]}
    assert keys(mesh(), crd("VirtualRouter", "r", spec))[1:] == [
        "mesh/shop/virtualRouter/r_ns",
        "mesh/shop/virtualRouter/r_ns/route/a",
        "mesh/shop/virtualRouter/r_ns/route/b",
    ]
    twice = {"routes": [{"name": "a", "httpRoute": TARGET}] * 2}
    assert "described once" in refusal([mesh(), crd("VirtualRouter", "r", twice)]).rule
    assert "a route needs a name" in refusal([mesh(), crd("VirtualRouter", "r", {"routes": [{}]})]).rule


def service(**provider: Any) -> dict[str, Any]:
    return crd("VirtualService", "s", {"provider": {"virtualNode": provider}})


@pytest.mark.parametrize(
    ("document", "rule"),
    [
        (service(), "exactly one of virtualNodeRef and virtualNodeARN is needed"),
        (service(virtualNodeRef={"name": "n"}, virtualNodeARN="arn:x"), "exactly one of"),
        (service(virtualNodeRef={}), "a reference has a name"),
        (service(virtualNodeRef="n"), "a reference has a name"),
        (service(virtualNodeRef={"name": "n", "namespace": 5}), "a reference has a name"),
        (service(virtualNodeRef={"name": "n"}, virtualNodeName="n"), "Kubernetes spells 'virtualNodeName' 'virtual"),
        (service(virtualNodeARN="arn:aws:s3:::x"), "an ARN here must name a virtualNode"),
        (service(virtualNodeARN=f"{ARN}:mesh/shop/virtualRouter/n"), "an ARN here must name a virtualNode"),
        (service(virtualNodeARN=f"{ARN}:mesh/other/virtualNode/n"), "the ARN is of mesh other, this is of mesh shop"),
        (service(virtualNodeARN=["x"]), "an ARN here must name a virtualNode"),
    ],
)
def test_a_reference_that_leads_nowhere_is_refused(document: Any, rule: str) -> None:
    error = refusal([mesh(), document])
    assert rule in error.rule
    assert error.object == "VirtualService ns/s"


def test_what_a_reference_does_not_know_is_warned_of() -> None:
    (finding,) = parsed([mesh(), service(virtualNodeRef={"name": "n", "nmspace": "far"})]).findings
    assert (finding.severity, finding.rule) == ("warning", "a reference knows no key 'nmspace'; it is ignored")


# -- spellings


def test_kubernetes_spells_arns_in_capitals() -> None:
    tls = {"mode": "STRICT", "certificate": {"acm": {"certificateARN": "arn:aws:acm:x"}}}
    spec = plain(crd("VirtualNode", "n", {"listeners": [listener(tls=tls)]}))
    assert spec["listeners"][0]["tls"]["certificate"]["acm"] == {"certificateArn": "arn:aws:acm:x"}
    tls = {"mode": "STRICT", "certificate": {"acm": {"certificateArn": "arn:aws:acm:x"}}}
    errors = refusals([mesh(), crd("VirtualNode", "n", {"listeners": [listener(tls=tls)]})])
    assert "Kubernetes spells 'certificateArn' 'certificateARN' here" in [error.rule for error in errors]


def test_a_meshs_preference_has_its_own_key() -> None:
    (item,) = parsed(crd("Mesh", "m", {"meshServiceDiscovery": {"ipPreference": "IPv6_ONLY"}})).objects
    assert item.spec.plain() == {"serviceDiscovery": {"ipPreference": "IPv6_ONLY"}}
    wrong = crd("Mesh", "m", {"serviceDiscovery": {"ipPreference": "IPv6_ONLY"}})
    assert "Kubernetes spells 'serviceDiscovery' 'meshServiceDiscovery'" in refusal(wrong).rule


def policy(**tls: Any) -> dict[str, Any]:
    validation = {"trust": {"sds": {"secretName": "t"}}}
    return crd("VirtualNode", "n", {"backendDefaults": {"clientPolicy": {"tls": {"validation": validation, **tls}}}})


@pytest.mark.parametrize("tls", [{"mode": "STRICT"}, {"mode": "STRICT", "enforce": True}])
def test_a_mode_that_says_what_enforce_says_is_ignored(tls: Any) -> None:
    found = parsed([mesh(), policy(**tls)])
    (finding,) = found.findings
    assert finding.severity == "warning"
    assert "knows no key 'mode'" in finding.rule
    assert "mode" not in found.objects[1].spec.plain()["backendDefaults"]["clientPolicy"]["tls"]


@pytest.mark.parametrize(
    "tls", [{"mode": "PERMISSIVE"}, {"mode": "STRICT", "enforce": False}, {"modes": "STRICT"}, {"mode": None}]
)
def test_any_other_slip_under_tls_is_refused(tls: Any) -> None:
    assert "under tls nothing is ignored" in refusal([mesh(), policy(**tls)]).rule


# -- groups


def group(*services: Any, name: str = "g", namespace: str = "ns") -> dict[str, Any]:
    return crd("BackendGroup", name, {"virtualservices": list(services)}, namespace)


def grouped(*documents: Any, groups: Any, backends: Any = ()) -> list[str]:
    node = crd("VirtualNode", "n", {"backendGroups": groups, "backends": list(backends)})
    spec = plain(node, *documents)
    return [item["virtualService"]["virtualServiceName"] for item in spec["backends"]]


def test_a_groups_services_are_backends() -> None:
    far = group({"name": "c"}, name="far", namespace="far")
    near = group({"name": "a"}, {"name": "b", "namespace": "far"})
    assert grouped(near, far, groups=[{"name": "g"}, {"name": "far", "namespace": "far"}]) == ["a.ns", "b.far", "c.far"]


def test_a_backend_that_is_listed_keeps_its_policy() -> None:
    listed = {"virtualService": {"virtualServiceRef": {"name": "a"}, "clientPolicy": {}}}
    node = crd("VirtualNode", "n", {"backendGroups": [{"name": "g"}], "backends": [listed]})
    assert plain(node, group({"name": "a"}, {"name": "b"}))["backends"] == [
        {"virtualService": {"virtualServiceName": "a.ns", "clientPolicy": {}}},
        {"virtualService": {"virtualServiceName": "b.ns"}},
    ]


def test_a_star_is_every_service_of_a_namespace() -> None:
    services = [crd("VirtualService", name, namespace=where) for name, where in (("a", "ns"), ("b", "far"))]
    assert grouped(*services, groups=[{"name": "*"}]) == ["a.ns"]
    assert grouped(*services, groups=[{"name": "*", "namespace": "far"}]) == ["b.far"]


def test_a_group_that_is_not_there_is_an_error() -> None:
    error = refusal([mesh(), crd("VirtualNode", "n", {"backendGroups": [{"name": "gone"}]})])
    assert (error.rule, error.field) == ("the backend group ns/gone is not in the input", "spec.backendGroups")


# -- which mesh


@pytest.mark.parametrize(
    ("selector", "selects"),
    [
        (labelled(mesh="shop"), True),
        (labelled(mesh="other"), False),
        (labelled(mesh="shop", x="y"), False),
        ({}, True),
        (None, False),
        ({"matchExpressions": [{"key": "mesh", "operator": "In", "values": ["a", "shop"]}]}, True),
        ({"matchExpressions": [{"key": "mesh", "operator": "NotIn", "values": ["shop"]}]}, False),
        ({"matchExpressions": [{"key": "gone", "operator": "NotIn", "values": ["shop"]}]}, True),
        ({"matchExpressions": [{"key": "mesh", "operator": "Exists"}]}, True),
        ({"matchExpressions": [{"key": "mesh", "operator": "DoesNotExist"}]}, False),
        ({"matchExpressions": [{"key": "gone", "operator": "Exists"}]}, False),
        ({"matchLabels": {"mesh": "shop"}, "matchExpressions": [{"key": "gone", "operator": "Exists"}]}, False),
    ],
)
def test_a_mesh_selects_namespaces(selector: Any, selects: bool) -> None:
    documents = [namespace(mesh="shop"), mesh(selector=selector), mesh("other"), crd("VirtualNode", "n")]
    if selects:
        assert keys(*documents)[-1] == "mesh/shop/virtualNode/n_ns"
    else:
        error = refusal(documents)
        assert error.rule == "no mesh of the input selects the namespace ns"
        assert "--mesh" in error.remedy
        sources = [Source("a.json", json.dumps(documents[:3])), Source("b.json", json.dumps(documents[3]), mesh="shop")]
        assert str(parse_documents(sources).objects[-1].key) == "mesh/shop/virtualNode/n_ns"


@pytest.mark.parametrize(
    ("selector", "rule"),
    [
        ({"matchLabel": {}}, "not 'matchLabel'"),
        ("x", "a selector is a mapping"),
        ({"matchExpressions": [{"key": "a", "operator": "Is"}]}, "an operator of In, NotIn"),
    ],
)
def test_a_malformed_selector_selects_nothing_and_is_refused(selector: Any, rule: str) -> None:
    assert rule in refusals([namespace(), mesh(selector=selector), crd("VirtualNode", "n")])[0].rule


def test_several_meshes_are_told_apart_by_labels_alone() -> None:
    both = [mesh("one", {}), mesh("two", {})]
    error = refusal([namespace(), *both, crd("VirtualNode", "n")])
    assert error.rule == "several meshes select the namespace ns: one, two"
    error = refusal([*both, crd("VirtualNode", "n")])
    assert error.rule == "the input has several meshes, not the Namespace: one, two"


def test_without_its_namespace_the_one_mesh_is_meant() -> None:
    assert keys(mesh(), crd("VirtualNode", "n"))[1:] == ["mesh/shop/virtualNode/n_ns"]
    assert keys({"meshName": "api"}, crd("VirtualNode", "n"))[1:] == ["mesh/api/virtualNode/n_ns"]
    assert keys({"meshName": "api"}, namespace(), crd("VirtualNode", "n"))[1:] == ["mesh/api/virtualNode/n_ns"]
    error = refusal(crd("VirtualNode", "n"))
    assert (error.rule, error.object) == ("nothing says which mesh this is in", "VirtualNode ns/n")


def test_the_command_line_says_what_nothing_else_does() -> None:
    assert keys(crd("VirtualNode", "n"), mesh="m") == ["mesh/m/virtualNode/n_ns"]


def test_the_command_line_and_the_input_must_agree() -> None:
    node = crd("VirtualNode", "n", {"meshRef": {"name": "shop", "uid": "…"}})
    assert keys(node) == ["mesh/shop/virtualNode/n_ns"]
    assert keys(crd("Mesh", "shop", {"awsName": "own"}), node)[1:] == ["mesh/own/virtualNode/n_ns"]
    error = refusal(node, mesh="other")
    assert error.rule == "the input says 'shop', --mesh 'other'"


def test_meshes_and_resources_may_lie_in_different_texts() -> None:
    texts = [crd("VirtualNode", "n"), namespace(mesh="shop"), mesh(selector=labelled(mesh="shop")), mesh("other")]
    sources = [Source(f"{number}.json", json.dumps(text)) for number, text in enumerate(texts)]
    assert str(parse_documents(sources).objects[0].key) == "mesh/shop/virtualNode/n_ns"


# -- which gateway


def gateway(name: str = "door", **spec: Any) -> dict[str, Any]:
    return crd("VirtualGateway", name, {"listeners": [listener()], **spec})


def gateway_route(name: str = "in", **spec: Any) -> dict[str, Any]:
    target = {"virtualService": {"virtualServiceRef": {"name": "s"}}}
    return crd(
        "GatewayRoute", name, {"httpRoute": {"match": {"prefix": "/"}, "action": {"target": target}}, **spec}
    )  # fmt: skip


def adopted(*documents: Any, **said: Any) -> list[str]:
    return [key for key in keys(mesh(selector={}), *documents, **said) if "gatewayRoute" in key]


ROUTED = ["mesh/shop/virtualGateway/door_ns/gatewayRoute/in_ns"]


def test_the_one_gateway_takes_a_route_whose_namespace_is_unknown() -> None:
    assert adopted(gateway(), gateway_route()) == ROUTED
    error = refusal([mesh(), gateway(), gateway("other"), gateway_route()])
    assert error.rule == "the input has several gateways, not the Namespace: door_ns, other_ns"
    error = refusal([mesh(), gateway_route()])
    assert error.rule == "nothing says which gateway this is on"
    assert "-f gatewayRoute/GATEWAY/NAME=PATH" in error.remedy


def test_a_gateway_selects_namespaces_and_routes() -> None:
    doors = [
        gateway(namespaceSelector=labelled(door="open"), gatewayRouteSelector=labelled(way="in")),
        gateway("other", namespaceSelector=labelled(door="shut")),
    ]
    labelled_route = gateway_route()
    labelled_route["metadata"]["labels"] = {"way": "in"}
    assert adopted(namespace(door="open"), *doors, labelled_route) == ROUTED
    error = refusal([mesh(selector={}), namespace(door="open"), *doors, gateway_route()])
    assert error.rule == "no gateway of the input selects the namespace ns and this route"
    doors[1]["spec"]["namespaceSelector"] = {}
    error = refusal([mesh(selector={}), namespace(door="open"), *doors, labelled_route])
    assert error.rule == "several gateways select the namespace ns: door_ns, other_ns"


def test_a_gateway_may_be_named() -> None:
    known = gateway_route(virtualGatewayRef={"name": "door", "uid": "…"})
    assert adopted(known) == ROUTED
    assert adopted(gateway(awsName="own"), known) == ["mesh/shop/virtualGateway/own/gatewayRoute/in_ns"]
    named = NamedSpec("gatewayRoute", "in_ns", "door_ns")
    assert keys(gateway_route(), named=named, mesh="shop") == ROUTED
    other = NamedSpec("gatewayRoute", "in_ns", "other_ns")
    assert "the input says 'door_ns', the command line 'other_ns'" in refusal(known, named=other, mesh="shop").rule


# -- what else lies in manifests


def test_lists_are_read_item_by_item() -> None:
    listed = {"apiVersion": "v1", "kind": "List", "items": [mesh(), crd("VirtualNode", "n")]}
    assert keys(listed) == ["mesh/shop", "mesh/shop/virtualNode/n_ns"]
    bare = {"metadata": {"name": "n", "namespace": "ns"}, "spec": {}}
    typed = {"apiVersion": VERSION, "kind": "VirtualNodeList", "items": [bare]}
    assert keys(mesh(), typed) == ["mesh/shop", "mesh/shop/virtualNode/n_ns"]


def test_other_kinds_are_ignored_with_one_note_and_need_no_variables() -> None:
    deployment = {"apiVersion": "apps/v1", "kind": "Deployment", "spec": {"image": "${IMAGE}"}}
    found = parsed([mesh(), deployment, deployment, {"apiVersion": "v1", "kind": "Service"}], variables={})
    assert [note.rule for note in found.findings] == [
        "2 resources of kind Deployment (apps/v1) are ignored: App Mesh has no such kind",
        "a resource of kind Service (v1) is ignored: App Mesh has no such kind",
    ]


def test_variables_are_filled_before_names_are_compared() -> None:
    documents = [
        namespace("$NS", mesh="${M}"),
        mesh("$M", labelled(mesh="$M")),
        crd("VirtualNode", "n", namespace="$NS"),
    ]
    assert keys(*documents, mesh("other"), variables={"NS": "ns", "M": "shop"})[1] == "mesh/shop/virtualNode/n_ns"
    assert "has no value" in refusals(documents, variables={})[0].rule


@pytest.mark.parametrize(
    ("version", "kind", "rule"),
    [
        ("appmesh.k8s.aws/v1beta1", "VirtualNode", "resources of the old controller (appmesh.k8s.aws/v1beta1)"),
        ("appmesh.k8s.aws/v1", "VirtualNode", "a resource of App Mesh is one of Mesh, VirtualNode"),
        (VERSION, "Route", "a resource of App Mesh is one of Mesh, VirtualNode"),
    ],
)
def test_another_version_or_kind_is_refused(version: str, kind: str, rule: str) -> None:
    error = refusal({"apiVersion": version, "kind": kind, "metadata": {"name": "n"}})
    assert rule in error.rule
    assert version != "appmesh.k8s.aws/v1beta1" or "v1beta2" in error.remedy


def test_a_resource_names_itself() -> None:
    error = refusal(crd("VirtualNode", "n"), named=NamedSpec("virtualNode", "other"), mesh="m")
    assert error.rule == "the file describes virtualNode 'n_ns', the command line virtualNode 'other'"
    router = crd("VirtualRouter", "r", {"routes": [{"name": "x", "httpRoute": TARGET}]})
    assert len(keys(router, named=NamedSpec("virtualRouter", "r_ns"), mesh="m")) == 2


def test_places_are_those_of_the_manifest() -> None:
    text = f"""
apiVersion: {VERSION}
kind: VirtualRouter
metadata:
  name: r
spec:
  routes:
    - name: x
      httpRoute:
        match: {{prefix: /}}
        action:
          weightedTargets:
            - virtualNodeRef: {{name: n}}
              weight: 101
"""
    error = refusal(text, "r.yaml", mesh="m")
    assert (error.line, error.column) == (14, 15)
    assert error.object == "mesh/m/virtualRouter/r_default/route/x"
    assert error.field == "spec.httpRoute.action.weightedTargets[0].weight"
    stranger = refusals(text.replace("weight: 101", "wait: 1"), "r.yaml", mesh="m")
    assert {finding.line for finding in stranger} == {13}


def test_strange_keys_beside_the_spec_are_warned_of() -> None:
    (finding,) = parsed([mesh(), {**crd("VirtualNode", "n"), "specs": {}}]).findings
    assert finding.rule == "Kubernetes knows no key 'specs' here; it is ignored"
