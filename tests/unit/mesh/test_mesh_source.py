from __future__ import annotations

import json
from typing import Any

import pytest
from unit.mesh.mesh_objects import MESH, create_input, key, listener, parsed, refusal, refusals

from meshca.errors import InvalidInputError
from meshca.mesh.findings import Finding, SpecError
from meshca.mesh.model import Tag
from meshca.mesh.source import NamedSpec, Source, parse_documents, parse_envelope, parse_file_argument
from meshca.mesh.tree import LONGEST_TEXT, MOST_ERRORS, MOST_NODES, MOST_WARNINGS

NODE = create_input("virtualNode", "web", {"listeners": [listener()]})
BAD = create_input("virtualNode", "web", {"listeners": [listener(0)]})


def names(*sources: Source) -> list[str]:
    return [str(item.key) for item in parse_documents(sources).objects]


def test_json_and_yaml_say_the_same() -> None:
    yaml = """
meshName: shop
virtualNodeName: web
spec:
  listeners:
  - portMapping: {port: 80, protocol: http}
"""
    assert parsed(yaml, "a.yaml").objects == parsed(NODE).objects == parsed(json.dumps(NODE), "a.yaml").objects


@pytest.mark.parametrize("path", ["a.yaml", "a.json", "-", ""])
def test_json_is_read_whatever_the_files_name(path: str) -> None:
    assert names(Source(path, "\n" + json.dumps(NODE)), Source("b", "\ufeff" + json.dumps(NODE))) == [
        f"mesh/{MESH}/virtualNode/web"
    ]


def test_yaml_under_the_name_of_json_is_not_guessed() -> None:
    assert "not JSON" in refusal("meshName: shop", "a.json").rule
    assert names(Source("a.txt", "meshName: shop")) == ["mesh/shop"]


def test_the_order_of_objects_is_that_of_the_texts() -> None:
    texts = [create_input("virtualService", name, {}) for name in ("b", "a", "c")]
    assert [item.name for item in parsed(texts).objects] == ["b", "a", "c"]


@pytest.mark.parametrize("text", ["", " \n", "---\n---\n", "# nothing", "[]", "null"])
def test_input_without_any_object_is_an_error(text: str) -> None:
    error = refusal(text, "a.yaml")
    assert (error.rule, error.remedy) == ("the input holds no object", "give a file that describes one")
    with pytest.raises(SpecError, match="no object"):
        parse_documents([])


def test_an_object_is_described_once_within_one_argument() -> None:
    error = refusal(json.dumps(NODE) + "\n" + json.dumps(NODE), "a.json")
    assert "described once, this one already at a.json:1" in error.rule
    assert (error.object, error.line) == (f"mesh/{MESH}/virtualNode/web", 2)
    assert error.remedy


def test_files_of_one_folder_share_their_argument() -> None:
    twice = [Source(path, json.dumps(NODE), argument="specs/") for path in ("specs/a.json", "specs/b.json")]
    with pytest.raises(SpecError, match=r"b\.json:1:.*already at specs/a\.json:1"):
        parse_documents(twice)


def test_a_duplicate_does_not_hide_a_fault() -> None:
    rules = [error.rule for error in refusals([BAD, NODE])]
    assert len(rules) == 2
    assert rules[0] == "at least 1 is needed"


def test_a_later_argument_replaces_an_earlier_one() -> None:
    other = create_input("virtualNode", "web", {})
    found = parse_documents([Source("a.json", json.dumps([NODE, create_input("virtualService", "s", {})])),
                             Source("b.json", json.dumps(other))])  # fmt: skip
    assert [item.name for item in found.objects] == ["s", "web"]
    assert found.objects[1] == parsed(other).objects[0]


def test_all_findings_of_all_texts_are_raised_together() -> None:
    sources = [
        Source("a.json", json.dumps([BAD, create_input("virtualService", "s", {"provider": {}})])),
        Source("b.yaml", "a: ["),
        Source("c.json", json.dumps(create_input("virtualNode", "a/b", {}))),
    ]
    with pytest.raises(SpecError) as caught:
        parse_documents(sources)
    assert [finding.file for finding in caught.value.findings] == ["a.json", "a.json", "b.yaml", "c.json"]
    assert str(caught.value).count("\n") == 3
    assert isinstance(caught.value, InvalidInputError)


def test_a_finding_names_place_object_field_and_value() -> None:
    text = "meshName: shop\nvirtualNodeName: web\nspec:\n  listeners:\n  - portMapping:\n      port: 70000\n      protocol: http\n"  # noqa: E501
    error = refusal(text, "web.yaml")
    assert error == Finding(
        "error", "at most 65535 is allowed", "mesh/shop/virtualNode/web", "spec.listeners[0].portMapping.port",
        "70000", "", "web.yaml", 6, 7,
    )  # fmt: skip
    assert str(error) == (
        "web.yaml:6:7: error: mesh/shop/virtualNode/web spec.listeners[0].portMapping.port: "
        "at most 65535 is allowed (got '70000')"
    )


def test_warnings_are_returned() -> None:
    found = parsed(create_input("virtualNode", "web", {"hostName": "x"}, note="y"))
    assert [(finding.severity, finding.field) for finding in found.findings] == [
        ("warning", "note"),
        ("warning", "spec.hostName"),
    ]


def test_findings_of_later_checks_get_their_place() -> None:
    text = "meshName: shop\nvirtualServiceName: s\nspec:\n  provider:\n    virtualNode:\n      virtualNodeName: gone\n"
    found = parsed(text, "s.yaml")
    service = "mesh/shop/virtualService/s"
    deep, missing, whole, stranger, placed = found.placed(
        [
            Finding("error", "r", service, "spec.provider.virtualNode.virtualNodeName", "gone", "mend"),
            Finding("error", "r", service, "spec.provider.virtualRouter.virtualRouterName"),
            Finding("error", "r", service, "meshName"),
            Finding("error", "r", "mesh/shop/virtualService/other", "spec.provider"),
            Finding("error", "r", service, "spec.provider", file="elsewhere", line=9),
        ]
    )
    assert (deep.file, deep.line, deep.column, deep.value, deep.remedy) == ("s.yaml", 6, 7, "gone", "mend")
    assert (missing.line, missing.column) == (4, 3)
    assert whole.line == 2
    assert stranger.file == ""
    assert (placed.file, placed.line) == ("elsewhere", 9)


def test_a_place_is_found_in_a_list() -> None:
    text = (
        "meshName: shop\nvirtualNodeName: n\nspec:\n  listeners:\n"
        "  - portMapping: {port: 1, protocol: tcp}\n  - portMapping: {port: 2, protocol: tcp}\n"
    )
    found = parsed(text, "n.yaml")
    (second, beyond) = found.placed(
        [Finding("note", "r", "mesh/shop/virtualNode/n", f"spec.listeners[{index}].tls") for index in (1, 7)]
    )
    assert (second.line, beyond.line) == (6, 4)


# -- limits


def test_a_text_may_be_as_long_as_its_limit_and_no_longer() -> None:
    text = json.dumps(NODE)
    assert names(Source("a.json", text + " " * (LONGEST_TEXT - len(text))))
    error = refusal(text + " " * (LONGEST_TEXT - len(text) + 1))
    assert error.rule == "a text has at most 8 MiB"
    assert error.remedy


@pytest.mark.parametrize("path", ["a.json", "a.yaml"])
def test_what_holds_too_many_values_is_not_even_read(path: str) -> None:
    error = refusal("[" + "," * (MOST_NODES + 1), path)
    assert error.rule == f"a text holds at most {MOST_NODES} values"


def test_after_a_hundred_errors_a_text_is_left() -> None:
    spec = {"listeners": [listener(0) for _ in range(MOST_ERRORS + 10)]}
    errors = refusals([create_input("virtualNode", "n", spec), create_input("virtualNode", "m", {"x": 1})])
    assert len(errors) == MOST_ERRORS + 1
    assert errors[-1].rule == f"more than {MOST_ERRORS} errors; the rest of this text was not looked at"


def test_at_most_two_hundred_warnings_are_kept() -> None:
    spec = {f"unknown{number}": 1 for number in range(MOST_WARNINGS + 10)}
    assert len(parsed(create_input("virtualNode", "n", spec)).findings) == MOST_WARNINGS


def test_of_many_errors_the_first_hundred_are_shown() -> None:
    shown = str(SpecError([Finding("note", "n"), *(Finding("error", f"e{number}") for number in range(103))]))
    assert shown.splitlines()[:2] == ["error: e0", "error: e1"]
    assert shown.splitlines()[-1] == "… and 3 more"


def test_a_hostile_value_cannot_forge_a_line() -> None:
    error = refusal(create_input("virtualService", "s\nb.json:1: error: x", {}))
    assert "\n" not in str(error)
    assert len(str(refusal(create_input("virtualNode", "n" * 5000, {})))) < 500


# -- names, owners, tags


@pytest.mark.parametrize(
    ("kind", "name", "rule"),
    [
        ("virtualNode", "a b", "only A-Z a-z 0-9 . _ -"),
        ("virtualNode", "a/b", "only A-Z a-z 0-9 . _ -"),
        ("virtualNode", "ä", "only A-Z a-z 0-9 . _ -"),
        ("virtualNode", "a\n", "only A-Z a-z 0-9 . _ -"),
        ("virtualNode", "..", "neither '.' nor '..'"),
        ("virtualGateway", ".", "neither '.' nor '..'"),
        ("virtualGateway", "a@b", "only A-Z a-z 0-9 . _ -"),
        ("virtualNode", "", "1 to 255 characters"),
        ("virtualNode", "n" * 256, "1 to 255 characters"),
        ("virtualRouter", "r" * 256, "1 to 255 characters"),
        ("virtualService", "s" * 1025, "1 to 1024 characters"),
        ("virtualRouter", "a/b", "no slash, space or control"),
        ("virtualService", "a b", "no slash, space or control"),
        ("virtualService", "a\x00b".replace("\x00", "\x1f"), "no slash, space or control"),
        ("virtualService", "a\x9b1m", "no slash, space or control"),
        ("virtualService", "a\u2028b", "no slash, space or control"),
    ],
)
def test_a_name_keeps_its_rule(kind: str, name: str, rule: str) -> None:
    error = refusal(create_input(kind, name, {"listeners": [listener()]} if kind == "virtualGateway" else {}))
    assert rule in error.rule
    assert (error.field, error.value) == (f"{kind}Name", name)


@pytest.mark.parametrize(
    ("kind", "name"),
    [("virtualNode", "..."), ("virtualNode", "A.b_c-9"), ("virtualNode", "n" * 255), ("virtualService", "s" * 1024),
     ("virtualService", "*.shop.local:80"), ("virtualRouter", "routé")],
)  # fmt: skip
def test_a_name_may_be_odd(kind: str, name: str) -> None:
    assert [item.name for item in parsed(create_input(kind, name, {})).objects] == [name]


def test_mesh_and_parent_are_checked_as_well() -> None:
    text = {**create_input("route", "r", {"tcpRoute": {"action": {"weightedTargets": []}}}, "a b"), "meshName": ".."}
    assert [(error.field, error.value) for error in refusals(text)] == [
        ("meshName", ".."),
        ("virtualRouterName", "a b"),
    ]


@pytest.mark.parametrize("owner", ["12345678901", "1234567890123", 123456789012, "12345678901٣", ["1"], ""])
def test_an_owner_is_an_account_number(owner: Any) -> None:
    error = refusal(create_input("virtualNode", "n", {}, meshOwner=owner))
    assert "12 digits" in error.rule
    assert (error.object, error.field, error.value) == (str(key("n")), "meshOwner", str(owner))


TAG = {"key": "k", "value": "v"}


@pytest.mark.parametrize(
    ("tags", "rule"),
    [
        pytest.param({"k": "v"}, "a list of at most 50", id="mapping"),
        pytest.param([TAG] * 51, "a list of at most 50", id="51"),
        pytest.param(["k"], "a key of 1 to 128", id="text"),
        pytest.param([{"value": "v"}], "a key of 1 to 128", id="no-key"),
        pytest.param([{"key": "", "value": "v"}], "a key of 1 to 128", id="empty-key"),
        pytest.param([{"key": "k" * 129}], "a key of 1 to 128", id="long-key"),
        pytest.param([{"key": "k", "value": "v" * 257}], "at most 256", id="long-value"),
        pytest.param([{"key": "k", "value": 1}], "at most 256", id="number"),
    ],
)
def test_tags_keep_their_bounds(tags: Any, rule: str) -> None:
    error = refusal(create_input("virtualNode", "n", {}, tags=tags))
    assert rule in error.rule
    assert (error.object, error.field) == (str(key("n")), "tags")


def test_owner_and_tags_are_kept() -> None:
    tags = [{"key": "k" * 128, "value": "v" * 256}, {"key": "empty"}]
    (node,) = parsed(create_input("virtualNode", "n", {}, meshOwner="123456789012", tags=tags)).objects
    assert node.owner == "123456789012"
    assert node.tags == (Tag("k" * 128, "v" * 256), Tag("empty", ""))
    (bare,) = parsed(create_input("virtualNode", "n", {}, meshOwner=None, tags=None)).objects
    assert (bare.owner, bare.tags) == ("", ())


# -- one envelope


def test_one_envelope_is_one_object_and_its_dollars_are_dollars() -> None:
    found = parse_envelope(
        json.dumps(create_input("virtualNode", "n", {"serviceDiscovery": {"dns": {"hostname": "$V"}}}))
    )
    assert found.spec.plain() == {"serviceDiscovery": {"dns": {"hostname": "$V"}}}


@pytest.mark.parametrize("text", ["", "[]", json.dumps([NODE, create_input("virtualService", "s", {})])])
def test_another_number_of_objects_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match="one object is needed"):
        parse_envelope(text)


def test_a_refused_envelope_gives_its_own_errors_alone() -> None:
    with pytest.raises(SpecError) as caught:
        parse_envelope(json.dumps(BAD), "store")
    assert [(finding.rule, finding.file) for finding in caught.value.findings] == [("at least 1 is needed", "store")]


def test_an_envelope_with_too_many_errors_is_refused_like_any_other() -> None:
    text = json.dumps(create_input("virtualNode", "n", {"listeners": [listener(0)] * (MOST_ERRORS + 1)}))
    with pytest.raises(SpecError) as caught:
        parse_envelope(text)
    assert len(caught.value.findings) == MOST_ERRORS + 1


# -- -f


@pytest.mark.parametrize(
    ("argument", "named", "path"),
    [
        ("a.yaml", None, "a.yaml"),
        ("-", None, "-"),
        ("route/a.yaml", None, "route/a.yaml"),
        ("my=file.yaml", None, "my=file.yaml"),
        ("other/x=a.yaml", None, "other/x=a.yaml"),
        ("./mesh/x=a.yaml", None, "./mesh/x=a.yaml"),
        ("mesh/m=a.json", NamedSpec("mesh", "m"), "a.json"),
        ("virtualService/a.b:80=x=y", NamedSpec("virtualService", "a.b:80"), "x=y"),
        ("route/r/a=a.json", NamedSpec("route", "a", "r"), "a.json"),
        ("gatewayRoute/g/a=-", NamedSpec("gatewayRoute", "a", "g"), "-"),
    ],
)
def test_an_argument_may_name_its_object(argument: str, named: NamedSpec | None, path: str) -> None:
    assert parse_file_argument(argument) == (named, path)


@pytest.mark.parametrize(
    ("argument", "form"),
    [
        ("mesh/=a", "mesh/NAME=PATH"),
        ("mesh/m=", "mesh/NAME=PATH"),
        ("virtualNode/a/b=c", "virtualNode/NAME=PATH"),
        ("route/a=b", "route/virtualRouter/NAME=PATH"),
        ("route//a=b", "route/virtualRouter/NAME=PATH"),
        ("route/r/=b", "route/virtualRouter/NAME=PATH"),
        ("gatewayRoute/g/a/b=c", "gatewayRoute/virtualGateway/NAME=PATH"),
    ],
)
def test_half_a_name_is_refused_with_the_form(argument: str, form: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        parse_file_argument(argument)
    assert caught.value.message == f"write {form}"
    assert (caught.value.field, caught.value.value) == ("-f", argument)
