from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.mesh.mesh_objects import create_input, examples, parsed, refusal

from meshca.mesh.model import VirtualNode
from meshca.mesh.tree import Report
from meshca.mesh.variables import Variables

VALUES = {"V": "web", "PORT": "8080", "_X1": "x"}


def fill(text: str, values: dict[str, str] | None = None) -> str:
    report = Report("a", text)
    filled = Variables(VALUES if values is None else values, report).fill(text, 0)
    assert report.findings == []
    return filled


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("$V", "web"),
        ("${V}", "web"),
        ("$V.local", "web.local"),
        ("${V}s$_X1", "websx"),
        ("$$V", "$web"),
        ("^/path$", "^/path$"),
        ("$1", "$1"),
        ("${V", "${V"),
        ("${}", "${}"),
        ("$ V", "$ V"),
    ],
)
def test_a_dollar_and_a_name_are_a_variable(text: str, filled: str) -> None:
    assert fill(text) == filled


def test_a_value_is_not_filled_again() -> None:
    assert fill("$A", {"A": "$B", "B": "no"}) == "$B"


@pytest.mark.parametrize("name", ["Vs", "v", "GATEWAY_SAN"])
@pytest.mark.parametrize("form", ["${0}", "${{{0}}}"])
def test_a_variable_without_a_value_is_refused(name: str, form: str) -> None:
    text = form.format(name)
    spec = {"serviceDiscovery": {"dns": {"hostname": text}}}
    error = refusal(create_input("virtualNode", "n", spec), variables=VALUES)
    assert f"${name} has no value" in error.rule
    assert error.remedy == f"give --var {name}=VALUE"
    assert error.line == 1


def test_without_variables_a_dollar_is_a_dollar() -> None:
    (node,) = parsed(create_input("virtualNode", "n", {"serviceDiscovery": {"dns": {"hostname": "$V"}}})).objects
    assert isinstance(node, VirtualNode)
    assert node.spec.service_discovery is not None
    assert node.spec.service_discovery.dns is not None
    assert node.spec.service_discovery.dns.hostname == "$V"


@pytest.mark.parametrize(
    ("value", "scalar"),
    [
        ("80", 80),
        ("0", 0),
        ("999999999", 999999999),
        ("true", True),
        ("false", False),
        ("080", "080"),
        ("-1", "-1"),
        ("1234567890", "1234567890"),
        ("123456789012", "123456789012"),
        ("True", "True"),
        ("null", "null"),
        ("80\n", "80\n"),
        ("", ""),
    ],
)
def test_alone_outside_quotes_a_value_is_a_port_or_a_switch(value: str, scalar: object) -> None:
    found = Variables({"V": value}, Report("a", "")).fill_bare("$V", 0)
    assert (found, type(found)) == (scalar, type(scalar))


def test_a_port_is_filled_in_both_forms_of_text() -> None:
    text = 'meshName: m\nvirtualRouterName: r\nspec: {listeners: [{portMapping: {port: $PORT, protocol: "http"}}]}'
    as_json = '{"meshName": "m", "virtualRouterName": "r", "spec": {"listeners": [{"portMapping": {"port": $PORT, "protocol": "http"}}]}}'  # noqa: E501 - one text
    assert parsed(text, "a.yaml", variables=VALUES).objects == parsed(as_json, variables=VALUES).objects


@examples(60)
@given(st.text(st.characters(codec="utf-8"), max_size=20))
def test_no_value_adds_a_key(value: str) -> None:
    cloud_map = "{namespaceName: n, serviceName: s, attributes: [{key: k, value: 'x$V'}]}"
    text = f"meshName: m\nvirtualNodeName: n\nspec: {{serviceDiscovery: {{awsCloudMap: {cloud_map}}}}}"
    (node,) = parsed(text, "a.yaml", variables={"V": value}).objects
    attributes = [{"key": "k", "value": f"x{value}"}]
    found = {"namespaceName": "n", "serviceName": "s", "attributes": attributes}
    assert node.spec.plain() == {"serviceDiscovery": {"awsCloudMap": found}}
