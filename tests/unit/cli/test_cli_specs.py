"""`apply` and `validate`: reading what `-f` names, and saying what would change."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from meshca.client.values import Applied, Change, Permission
from meshca.mesh import deltas

if TYPE_CHECKING:
    from pathlib import Path

    from fakes.shell import Shell

STRICTER = {text for name, text in vars(deltas).items() if name.isupper() and isinstance(text, str)}
MESH = {"meshName": "m", "spec": {}}
NODE = {"meshName": "m", "virtualNodeName": "front", "spec": {}}
SERVICE = {
    "meshName": "m",
    "virtualServiceName": "s",
    "spec": {"provider": {"virtualNode": {"virtualNodeName": "gone"}}},
}


def write(folder: Path, name: str, *documents: Any) -> str:
    file = folder / name
    file.write_text("\n---\n".join(map(json.dumps, documents)))
    return str(file)


def sent(shell: Shell) -> list[dict[str, Any]]:
    (call,) = shell.admin.calls
    objects: list[dict[str, Any]] = call[1]
    return objects


def test_validate_works_without_a_server(alone: Shell, tmp_path: Path) -> None:
    document = alone.json("validate", "-f", write(tmp_path, "a.yaml", MESH, NODE))

    assert document["objects"] == [
        {"kind": "mesh", "mesh": "m", "name": "m", "parent": None},
        {"kind": "virtualNode", "mesh": "m", "name": "front", "parent": None},
    ]
    assert "front" in alone.run("validate", "-f", str(tmp_path / "a.yaml")).stdout


def test_validate_names_file_and_place_of_a_dangling_reference(alone: Shell, tmp_path: Path) -> None:
    result = alone.run("validate", "-f", write(tmp_path, "a.yaml", MESH, SERVICE), "-o", "json", code=1)

    assert f"{tmp_path}/a.yaml:3:" in result.stderr
    assert "gone" in result.stderr
    (found,) = json.loads(result.stdout)["findings"]
    assert (found["severity"], found["object"], found["value"]) == ("error", "mesh/m/virtualService/s", "gone")
    assert (found["file"], found["line"]) == (f"{tmp_path}/a.yaml", 3)


def test_validate_beside_a_server_changes_nothing(shell: Shell, tmp_path: Path) -> None:
    shell.json("validate", "-f", write(tmp_path, "a.yaml", NODE))

    assert shell.admin.calls == [("apply", [{"kind": "virtualNode", **NODE}], True, False)]


def test_apply_sends_the_objects_and_says_what_changed(shell: Shell, tmp_path: Path) -> None:
    shell.admin.applied = Applied(
        5,
        (Change("added", "mesh", "m", "m"), Change("changed", "route", "m", "x", "r")),
        (
            Permission("spiffe://a", "spiffe://b", 80, allowed=True),
            Permission("spiffe://a", "spiffe://c", 80, allowed=False),
        ),
        ("virtualNode/front spec.x: not generated yet",),
    )
    document = shell.json("apply", "-f", write(tmp_path, "a.yaml", MESH, NODE), "--prune")

    assert shell.admin.calls == [("apply", [{"kind": "mesh", **MESH}, {"kind": "virtualNode", **NODE}], False, True)]
    (stricter,) = document.pop("findings")
    assert (stricter["severity"], stricter["object"], stricter["line"]) == ("note", "mesh/m", 1)
    assert document == {
        "revision": 5,
        "changes": [
            {"change": "added", "kind": "mesh", "mesh": "m", "name": "m", "parent": None},
            {"change": "changed", "kind": "route", "mesh": "m", "name": "x", "parent": "r"},
        ],
        "permissions": [
            {"client": "spiffe://a", "server": "spiffe://b", "port": 80, "allowed": True},
            {"client": "spiffe://a", "server": "spiffe://c", "port": 80, "allowed": False},
        ],
        "warnings": ["virtualNode/front spec.x: not generated yet"],
        "effects": [],
    }
    result = shell.run("apply", "-f", str(tmp_path / "a.yaml"), "--dry-run")
    assert shell.admin.calls[-1][2] is True
    assert "changed   route/r/x in m" in result.stdout
    assert "no longer may call: spiffe://a -> spiffe://c port 80" in result.stdout
    assert "dry run: nothing was changed" in result.stdout
    assert "not generated yet" in result.stderr


def test_stdin(shell: Shell) -> None:
    shell.json("apply", "-f", "-", input=json.dumps(MESH))

    assert sent(shell) == [{"kind": "mesh", **MESH}]


def test_a_bare_spec_is_named_on_the_command_line(shell: Shell, tmp_path: Path) -> None:
    shell.json("apply", "-f", f"virtualNode/front={write(tmp_path, 'a.json', {'spec': {}})}", "--mesh", "m")

    assert sent(shell) == [{"kind": "virtualNode", **NODE}]
    assert "write route/" in shell.run("apply", "-f", "route/x=a.json", code=1).stderr


def test_a_folder_is_read_in_name_order_and_not_deeply(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    write(tmp_path / "deep", "c.json", SERVICE)
    write(tmp_path, "b.json", NODE)
    write(tmp_path, "a.yml", MESH)
    (tmp_path / "notes.txt").write_text("{")
    shell.json("apply", "-f", str(tmp_path))

    assert [found["kind"] for found in sent(shell)] == ["mesh", "virtualNode"]


def test_the_same_object_twice_in_one_folder_is_an_error_and_in_two_arguments_a_replacement(
    shell: Shell, tmp_path: Path
) -> None:
    other = {**NODE, "spec": {"logging": {}}}
    one, two = write(tmp_path, "a.json", NODE), write(tmp_path, "b.json", other)
    assert "twice" in shell.run("apply", "-f", str(tmp_path), code=1).stderr
    shell.json("apply", "-f", one, "-f", two)

    assert sent(shell) == [{"kind": "virtualNode", **other}]


def test_variables(shell: Shell, tmp_path: Path) -> None:
    file = write(tmp_path, "a.json", {**NODE, "virtualNodeName": "$N-${V}"})
    assert "'front-a=b'" in shell.run("apply", "-f", file, "--var", "N=front", "--var", "V=a=b", code=1).stderr
    shell.json("apply", "-f", file, "--var", "N=front", "--var", "V=x", "--var", "V=1")

    assert sent(shell)[0]["virtualNodeName"] == "front-1"
    assert "is not K=V" in shell.run("apply", "-f", file, "--var", "N", code=1).stderr


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "no object"), (b"\xff{}", "not UTF-8"), (b"a: 1\na: 2\n", "a.yaml:2"), (b"[" * 200, "a.yaml")],
)
def test_what_cannot_be_read_is_an_error_and_nothing_is_sent(
    shell: Shell, tmp_path: Path, content: bytes, words: str
) -> None:
    (tmp_path / "a.yaml").write_bytes(content)
    result = shell.run("apply", "-f", str(tmp_path / "a.yaml"), code=1)

    assert words in result.stderr
    assert shell.admin.calls == []


def test_a_file_that_is_not_there_and_an_empty_folder_are_errors(shell: Shell, tmp_path: Path) -> None:
    assert "No such file" in shell.run("apply", "-f", str(tmp_path / "none"), code=1).stderr
    assert "holds no .json" in shell.run("apply", "-f", str(tmp_path), code=1).stderr
    assert "-f" in shell.run("apply", code=2).stderr


@pytest.mark.parametrize("option", ["--wait", "--rollback-on-nack"])
def test_what_comes_later_is_not_offered(shell: Shell, option: str) -> None:
    shell.run("apply", "-f", "x", option, "y", code=2)


TEMPLATE = """
Parameters: {Name: {Type: String}, Port: {Type: Number, Default: 80}}
Resources:
  Queue: {Type: AWS::SQS::Queue}
  Mesh: {Type: AWS::AppMesh::Mesh, Properties: {MeshName: m}}
  Front:
    Type: AWS::AppMesh::VirtualNode
    Properties:
      MeshName: !GetAtt Mesh.MeshName
      VirtualNodeName: !Ref Name
      Spec:
        Listeners:
          - PortMapping: {Port: !Ref Port, Protocol: http}
            TLS: {Mode: STRICT, Certificate: {ACM: {CertificateArn: "arn:aws:acm:x"}}}
"""
MANIFEST = """
apiVersion: appmesh.k8s.aws/v1beta2
kind: VirtualService
metadata: {name: s, namespace: ns}
spec: {provider: {virtualNode: {virtualNodeRef: {name: front}}}}
---
apiVersion: apps/v1
kind: Deployment
"""


def port_of(envelope: dict[str, Any]) -> Any:
    return envelope["spec"]["listeners"][0]["portMapping"]["port"]


def test_the_three_forms_are_applied_together(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "a.template").write_text(TEMPLATE)
    (tmp_path / "b.yaml").write_text(MANIFEST)
    write(tmp_path, "c.json", {"meshName": "m", "virtualGatewayName": "g", "spec": {"listeners": [
        {"portMapping": {"port": 1, "protocol": "http"}}]}})  # fmt: skip
    (tmp_path / "p.txt").write_text('[{"ParameterKey": "Name", "ParameterValue": "front_ns"}]')
    document = shell.json("apply", "-f", str(tmp_path), "--parameters", str(tmp_path / "p.txt"))

    assert [(found["kind"], found["meshName"]) for found in sent(shell)] == [
        ("mesh", "m"), ("virtualNode", "m"), ("virtualService", "m"), ("virtualGateway", "m"),
    ]  # fmt: skip
    assert sent(shell)[2]["spec"]["provider"]["virtualNode"]["virtualNodeName"] == "front_ns"
    said = [found for found in document["findings"] if found["rule"] not in STRICTER]
    notes = [(found["severity"], found["file"], found["line"]) for found in said]
    assert notes == [("note", f"{tmp_path}/a.template", 4), ("note", f"{tmp_path}/b.yaml", 7)]


def test_a_variable_goes_before_a_parameter(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(TEMPLATE)
    (tmp_path / "p.json").write_text('{"Name": "front", "Port": 81}')
    files = ("-f", str(tmp_path / "a.yaml"), "--parameters", str(tmp_path / "p.json"))
    shell.json("apply", *files)
    shell.json("apply", *files, "--var", "Port=82")

    assert [port_of(call[1][1]) for call in shell.admin.calls] == [81, 82]
    assert "cannot read it" in shell.run("apply", "-f", "x", "--parameters", "gone", code=1).stderr
    missing = shell.run("apply", "-f", str(tmp_path / "a.yaml"), code=1).stderr
    assert f"{tmp_path}/a.yaml:10:24: error: Front Properties.VirtualNodeName: the parameter Name has no" in missing
    assert "give --var Name=VALUE" in missing


@pytest.mark.parametrize(
    ("arguments", "certificate"),
    [
        ((), {"acm": {"certificateArn": "arn:aws:acm:x"}}),
        (("--map-arn", "auto"), {"sds": {"secretName": "default"}}),
        (("--map-arn", "arn:aws:acm:x=auto"), {"sds": {"secretName": "default"}}),
        (("--map-arn", "auto", "--map-arn", "arn:aws:acm:x=spiffe://a/b"), {"sds": {"secretName": "spiffe://a/b"}}),
    ],
)
def test_arns_are_mapped(shell: Shell, tmp_path: Path, arguments: tuple[str, ...], certificate: object) -> None:
    (tmp_path / "a.yaml").write_text(TEMPLATE)
    shell.json("apply", "-f", str(tmp_path / "a.yaml"), "--var", "Name=front", *arguments)

    assert sent(shell)[1]["spec"]["listeners"][0]["tls"]["certificate"] == certificate


def test_half_a_mapping_is_refused(shell: Shell) -> None:
    assert "is not ARN=NAME" in shell.run("apply", "-f", "x", "--map-arn", "arn:aws:acm:x", code=1).stderr


def test_all_errors_are_findings_for_programs(alone: Shell, tmp_path: Path) -> None:
    bad = {**NODE, "spec": {"listeners": [{"portMapping": {"port": 0, "protocol": "x"}, "tls": {"odd": 1}}]}}
    result = alone.run("validate", "-f", write(tmp_path, "a.json", MESH, bad), "-o", "json", code=1)

    document = json.loads(result.stdout)
    assert [found["field"] for found in document["findings"]] == [
        "spec.listeners[0].tls.odd",
        "spec.listeners[0].portMapping.port",
        "spec.listeners[0].portMapping.protocol",
        "spec.listeners[0].tls.mode",
        "spec.listeners[0].tls.certificate",
    ]
    assert all(found["line"] and found["column"] and found["object"] for found in document["findings"])
    assert result.stderr.count("error:") == len(document["findings"])
