from __future__ import annotations

from typing import Any

import pytest
from unit.mesh.mesh_objects import MESH, parsed, refusal, refusals

from meshca.mesh.findings import Finding, SpecError
from meshca.mesh.model import Tag
from meshca.mesh.source import NamedSpec, Source, parse_documents

HEAD = """
Parameters:
  Port: {Type: Number, Default: 80, MinValue: 1, MaxValue: 99999}
  Host: {Type: String}
  Ports: {Type: List<Number>, Default: "80, 81"}
  Stage: {Type: String, Default: prod, AllowedValues: [prod, test]}
  Secret: {Type: "AWS::SSM::Parameter::Value<String>", Default: /name/of/it}
Conditions:
  IsProd: !Equals [!Ref Stage, prod]
  IsTest: !Not [!Condition IsProd]
  IsBoth: {"Fn::And": [{Condition: IsProd}, !Condition IsTest]}
  IsEither: !Or [!Condition IsProd, !Condition IsTest]
  Loop: !Not [!Condition Loop]
  Odd: !Contains [a, b]
Mappings:
  Hosts: {prod: {a: a.prod, list: [x, y]}}
Resources:
  Queue: {Type: AWS::SQS::Queue}
"""
_NODE_HEAD = """
  Node:
    Type: AWS::AppMesh::VirtualNode
    Properties:
      MeshName: shop
      VirtualNodeName: web
      Spec:
"""
NODE = HEAD + _NODE_HEAD + """
        Logging:
          AccessLog:
            File:
              Path: {value}
"""  # fmt: skip


def worked_out(value: str, **values: str) -> Any:
    (item,) = parsed(NODE.replace("{value}", value), "t.yaml", variables=values).objects
    return item.spec.plain()["logging"]["accessLog"]["file"]["path"]


def refused(value: str, **values: str) -> Finding:
    return refusal(NODE.replace("{value}", value), "t.yaml", variables=values)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("!Ref Host", "h"),
        ("{Ref: Host}", "h"),
        ('!Sub "${Host}.${AWS::URLSuffix}"', "h.amazonaws.com"),
        ('!Sub "${!Host}.${ Host }"', "${Host}.h"),
        ('!Sub ["${A}-${Host}", {A: !Ref Port}]', "80-h"),
        ('!Sub ["${Host}", {Host: inner}]', "inner"),
        ('!Sub "${Node.VirtualNodeName}.$x"', "web.$x"),
        ("!Join ['-', [a, !Ref Host, 1]]", "a-h-1"),
        ("!Join [',', !Ref Ports]", "80,81"),
        ("!Join ['', [!If [IsTest, a, !Ref AWS::NoValue], b]]", "b"),
        ("!If [IsProd, a, b]", "a"),
        ("!If [IsTest, a, b]", "b"),
        ("!If [IsBoth, a, b]", "b"),
        ("!If [IsEither, a, !ImportValue x]", "a"),
        ("!FindInMap [Hosts, !Ref Stage, a]", "a.prod"),
        ("!GetAtt Node.VirtualNodeName", "web"),
        ("!GetAtt [Node, MeshName]", "shop"),
        ("!GetAtt Node.Arn", "arn:aws:appmesh:eu-west-1::mesh/shop/virtualNode/web"),
        ("!Ref Node", "arn:aws:appmesh:eu-west-1::mesh/shop/virtualNode/web"),
        ("!GetAtt Queue.QueueName", "q"),
        ("!Ref AWS::Region", "eu-west-1"),
        ("!Ref Secret", "s"),
        ("!Ref Unheard", "u"),
    ],
)
def test_a_function_gives_what_it_would_in_a_stack(value: str, text: str) -> None:
    given = {"Host": "h", "Queue.QueueName": "q", "AWS::Region": "eu-west-1", "Secret": "s", "Unheard": "u"}
    assert worked_out(value, **given) == text


@pytest.mark.parametrize(
    ("value", "rule", "shown"),
    [
        ("!Ref Host", "the parameter Host has no value", "Host"),
        ("!Ref Secret", "the parameter Secret has no value", "Secret"),
        ("!Ref AWS::StackName", "the pseudo-parameter AWS::StackName has no value", "AWS::StackName"),
        ("!GetAtt Queue.Arn", "the attribute Queue.Arn has no value", "Queue.Arn"),
        ("!GetAtt Node.Uid", "the attribute Node.Uid has no value", "Node.Uid"),
        ("!Ref Queue", "the value of the resource Queue has no value", "Queue"),
        ("!Ref Gone", "neither a parameter nor a resource", "Gone"),
        ("!GetAtt Gone.Arn", "no resource of the template", "Gone"),
        ("!GetAtt Gone", "Fn::GetAtt takes a resource and an attribute", ""),
        ("!Ref [a]", "Ref takes a name", ""),
        ("!ImportValue x", "the function Fn::ImportValue is not read here", "Fn::ImportValue"),
        ("!Select [0, [a]]", "the function Fn::Select is not read here", "Fn::Select"),
        ("{'Fn::GetAZs': ''}", "the function Fn::GetAZs is not read here", "Fn::GetAZs"),
        ("!Equals [a, b]", "the function Fn::Equals is not read here", "Fn::Equals"),
        ("{'Fn::Sub': a, Other: b}", "Fn::Sub stands alone in its mapping", "Fn::Sub"),
        ("!Sub [a]", "Fn::Sub takes text", ""),
        ('!Sub "${Ports}"', "text is needed here, not a list", ""),
        ("!Join [a, b]", "Fn::Join takes a separator and a list", ""),
        ("!Join [a]", "Fn::Join takes a separator and a list", ""),
        ("!If [IsProd, a]", "Fn::If takes the name of a condition", ""),
        ("!If [Gone, a, b]", "no condition of the template", "Gone"),
        ("!If [Loop, a, b]", "a condition depends on itself", "Loop"),
        ("!If [Odd, a, b]", "a condition is Fn::Equals of two", "Fn::Contains"),
        ("!FindInMap [Hosts, test, a]", "Mappings have no such entry", "Hosts.test.a"),
        ("!FindInMap [Hosts, prod]", "takes a map and two keys", ""),
        ("!Sub '${Node.VirtualNodeName}${Gone.Name}'", "no resource of the template", "Gone"),
    ],
)
def test_what_cannot_be_worked_out_is_named(value: str, rule: str, shown: str) -> None:
    error = refused(value)
    assert rule in error.rule
    assert error.value == shown
    assert error.line


def test_a_missing_parameter_is_asked_for_once() -> None:
    text = NODE.replace("{value}", "!Ref Host") + "        ServiceDiscovery: {DNS: {Hostname: !Sub '${Host}.local'}}\n"
    error = refusal(text, "t.yaml", variables={})
    assert error.remedy == "give --var Host=VALUE, or --parameters FILE"


@pytest.mark.parametrize(
    ("declared", "given", "rule"),
    [
        ("{Type: String, AllowedValues: [a, b]}", "c", "the parameter P allows a, b"),
        ("{Type: Number}", "x", "the parameter P is a number"),
        ("{Type: Number, MinValue: 5}", "4", "the parameter P is at least 5"),
        ("{Type: Number, MaxValue: '5'}", "6", "the parameter P is at most 5"),
        ("{Type: String, MinLength: 2}", "a", "the length of the parameter P is at least 2"),
        ("{Type: String, MaxLength: 2}", "abc", "the length of the parameter P is at most 2"),
        ("{Type: String, Default: [a]}", None, "a default is text or a number"),
    ],
)
def test_a_parameter_keeps_its_own_bounds(declared: str, given: str | None, rule: str) -> None:
    text = NODE.replace("{value}", "!Ref P").replace("Parameters:\n", f"Parameters:\n  P: {declared}\n")
    values = {} if given is None else {"P": given}
    assert rule in refusal(text, "t.yaml", variables=values).rule


def test_a_pattern_of_a_parameter_is_not_looked_at() -> None:
    declared = "{Type: String, AllowedPattern: '(a+)+$'}"
    text = NODE.replace("{value}", "!Ref P").replace("Parameters:\n", f"Parameters:\n  P: {declared}\n")
    assert parsed(text, "t.yaml", variables={"P": "a" * 200 + "b"}).objects


# -- places


def place_of(text: str, needle: str) -> tuple[int, int]:
    line = next(number for number, line in enumerate(text.split("\n"), start=1) if needle in line)
    return line, text.split("\n")[line - 1].index(needle) + 1


LISTENER = HEAD.replace("Default: 80,", "Default: 70000,").replace("{a: a.prod", "{port: 70001, a: a.prod")
LISTENER += (
    _NODE_HEAD
    + """
        Listeners:
          - PortMapping:
              Port: {value}
              Protocol: http
"""
)


@pytest.mark.parametrize(
    ("value", "needle"),
    [
        ("70002", "Port: 70002"),
        ("!Ref Port", "70000"),
        ("!FindInMap [Hosts, prod, port]", "70001"),
        ("!If [IsProd, 70003, 1]", "70003"),
        ("!Sub '${Port}'", "Port: !Sub"),
    ],
)
def test_an_error_is_placed_where_its_value_was_written(value: str, needle: str) -> None:
    text = LISTENER.replace("{value}", value)
    error = refusal(text, "t.yaml", variables={})
    assert (error.line, error.column) == place_of(text, needle)
    assert (error.object, error.field) == (f"mesh/{MESH}/virtualNode/web", "spec.listeners[0].portMapping.port")
    assert error.rule == "at most 65535 is allowed"


def test_a_value_from_outside_is_placed_at_its_reference() -> None:
    text = LISTENER.replace("{value}", "!Ref Port")
    error = refusal(text, "t.yaml", variables={"Port": "99999"})
    assert (error.line, error.column) == place_of(text, "Port: !Ref")


# -- resources


def resource(kind: str, name: str = "It", **properties: Any) -> dict[str, Any]:
    return {"Resources": {name: {"Type": f"AWS::AppMesh::{kind}", "Properties": {"MeshName": MESH, **properties}}}}


def test_a_resource_without_a_name_has_its_logical_id() -> None:
    found = parsed(resource("VirtualNode", Spec={}))
    assert [item.name for item in found.objects] == ["It"]
    (note,) = found.findings
    assert note.rule == "VirtualNodeName is not given: the logical ID It is taken, where CloudFormation made a name up"


def test_a_mesh_may_leave_everything_out() -> None:
    found = parsed({"Resources": {"Shop": {"Type": "AWS::AppMesh::Mesh"}}})
    assert [str(item.key) for item in found.objects] == ["mesh/Shop"]


def test_owner_and_tags_are_kept() -> None:
    tags = [{"Key": "k", "Value": 1}]
    (item,) = parsed(resource("VirtualNode", VirtualNodeName="n", Spec={}, MeshOwner=123456789012, Tags=tags)).objects
    assert (item.owner, item.tags) == ("123456789012", (Tag("k", "1"),))


def test_numbers_and_switches_may_be_text_and_text_numbers() -> None:
    text = """
Resources:
  It:
    Type: AWS::AppMesh::VirtualNode
    Properties:
      MeshName: shop
      VirtualNodeName: 7
      Spec:
        Listeners: [{PortMapping: {Port: "80", Protocol: http}}]
        ServiceDiscovery: {AWSCloudMap: {NamespaceName: 5, ServiceName: s}}
        BackendDefaults:
          ClientPolicy: {TLS: {Enforce: "False", Validation: {Trust: {SDS: {SecretName: t}}}}}
"""
    (item,) = parsed(text, "t.yaml").objects
    assert item.name == "7"
    assert item.spec.plain() == {
        "listeners": [{"portMapping": {"port": 80, "protocol": "http"}}],
        "serviceDiscovery": {"awsCloudMap": {"namespaceName": "5", "serviceName": "s"}},
        "backendDefaults": {
            "clientPolicy": {"tls": {"enforce": False, "validation": {"trust": {"sds": {"secretName": "t"}}}}}
        },
    }


@pytest.mark.parametrize(
    ("spec", "rule"),
    [
        ({"listeners": []}, "CloudFormation spells this key 'Listeners'"),
        (
            {"Listeners": [{"PortMapping": {"Port": 1, "Protocol": "http"}, "tls": {}}]},
            "CloudFormation spells this key 'TLS'",
        ),
        ({"Listeners": [{"PortMapping": {"Port": 1, "Protocol": "http"}, "Tls": {}}]}, "App Mesh knows no key 'Tls'"),
        ({"ServiceDiscovery": {"AwsCloudMap": {}}}, "exactly one of dns, awsCloudMap is needed"),
    ],
)
def test_another_spelling_is_refused(spec: Any, rule: str) -> None:
    assert rule in refusals(resource("VirtualNode", VirtualNodeName="n", Spec=spec))[0].rule


def test_a_property_that_is_not_known_is_warned_of() -> None:
    (finding,) = parsed(resource("VirtualNode", VirtualNodeName="n", Spec={}, Colour="red")).findings
    assert (finding.severity, finding.rule) == ("warning", "App Mesh knows no property 'Colour' here; it is ignored")


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ({"AWSTemplateFormatVersion": "2010-09-09"}, "a template has Resources"),
        ({"Resources": []}, "a template has Resources"),
        (resource("Virtual"), "App Mesh has no resource of this type"),
        (resource("VirtualNode", VirtualNodeName="n"), "this key is required"),
        (resource("Route", RouteName="r", Spec={}), "VirtualRouterName is missing"),
        (resource("VirtualNode", VirtualNodeName=["n"], Spec={}), "a name is text"),
        (resource("VirtualNode", VirtualNodeName="n", Spec="x"), "a mapping is needed"),
        ({"Resources": {"It": {"Type": "AWS::AppMesh::Mesh", "Properties": []}}}, "Properties is a mapping"),
        (
            {"Resources": {"Fn::ForEach::N": ["X", ["a"], {"It": {"Type": "AWS::AppMesh::Mesh"}}]}},
            "the function Fn::ForEach is not read here",
        ),
    ],
)
def test_what_is_no_object_is_refused(text: Any, rule: str) -> None:
    assert rule in refusal(text).rule


def test_a_loop_over_other_resources_is_ignored() -> None:
    text = resource("Mesh")
    text["Resources"]["Fn::ForEach::N"] = ["X", ["a"], {"It": {"Type": "AWS::SQS::Queue"}}]
    assert len(parsed(text).objects) == 1


def test_a_resource_whose_condition_does_not_hold_is_left_out() -> None:
    text = NODE.replace("{value}", "x").replace(
        "    Type: AWS::AppMesh", "    Condition: IsTest\n    Type: AWS::AppMesh"
    )
    text += "  Mesh: {Type: AWS::AppMesh::Mesh, Properties: {MeshName: shop}}\n"
    found = parsed(text, "t.yaml", variables={})
    assert [str(item.key) for item in found.objects] == ["mesh/shop"]
    assert "Node is left out: its condition does not hold" in [finding.rule for finding in found.findings]
    assert len(parsed(text, "t.yaml", variables={"Stage": "test"}).objects) == 2
    other = "  S: {Type: AWS::AppMesh::VirtualService, Properties: {MeshName: !GetAtt Node.MeshName, Spec: {}}}\n"
    assert "is not created" in refusal(text + other, "t.yaml", variables={}).rule
    assert "no condition" in refusal(text.replace("n: IsTest", "n: Gone"), "t.yaml", variables={}).rule


def test_a_name_never_depends_on_itself() -> None:
    text = {
        "Resources": {
            "A": {
                "Type": "AWS::AppMesh::Mesh",
                "Properties": {"MeshName": {"Fn::Sub": "${B.MeshName}"}},
            },
            "B": {
                "Type": "AWS::AppMesh::Mesh",
                "Properties": {"MeshName": {"Fn::GetAtt": ["A", "MeshName"]}},
            },
        }
    }
    rules = [error.rule for error in refusals(text)]
    assert any("depends on itself" in rule for rule in rules)


def test_all_errors_of_a_resource_are_shown() -> None:
    text = NODE.replace("{value}", "!ImportValue x") + (
        "        Listeners: [{PortMapping: {Port: 0, Protocol: http}, TLS: {Mode: !Select [0, []], Odd: 1}}]\n"
    )
    rules = [error.rule for error in refusals(text, "t.yaml", variables={})]
    assert len([rule for rule in rules if "is not read here" in rule]) == 2
    assert "at least 1 is needed" in rules
    assert "App Mesh knows no key 'Odd' here, and under tls nothing is ignored" in rules


def test_the_command_line_must_agree() -> None:
    text = resource("VirtualNode", VirtualNodeName="n", Spec={})
    assert parsed(text, named=NamedSpec("virtualNode", "n"), mesh=MESH).objects
    assert "'other'" in refusal(text, mesh="other").rule
    assert "the command line virtualNode 'm'" in refusal(text, named=NamedSpec("virtualNode", "m")).rule
    bare = {"Resources": {"It": {"Type": "AWS::AppMesh::VirtualNode", "Properties": {"Spec": {}}}}}
    assert "MeshName is missing" in refusal(bare).rule
    assert parsed(bare, mesh=MESH).objects


def test_parameters_go_behind_variables_and_before_defaults() -> None:
    source = [Source("t.yaml", NODE.replace("{value}", "!Sub '${Host}-${Stage}'"))]
    (item,) = parse_documents(source, {"Host": "v"}, parameters={"Host": "p", "Stage": "test"}).objects
    assert item.spec.plain()["logging"]["accessLog"]["file"]["path"] == "v-test"
    with pytest.raises(SpecError, match="has no value"):
        parse_documents(source)
