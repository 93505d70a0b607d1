from __future__ import annotations

import json
from typing import Any

import pytest

from meshca.mesh.findings import SpecError
from meshca.mesh.parameterfile import parse_parameters

LISTED = [{"ParameterKey": "A", "ParameterValue": "1"}, {"ParameterKey": "B", "ParameterValue": "b"}]


@pytest.mark.parametrize(
    "text",
    [
        {"A": "1", "B": "b"},
        {"A": 1, "B": "b"},
        LISTED,
        {"Parameters": LISTED},
        {"Parameters": {"A": "1", "B": "b"}, "Tags": {"x": "y"}},
    ],
)
def test_a_file_is_a_list_or_a_map(text: Any) -> None:
    assert parse_parameters(json.dumps(text), "p.json") == {"A": "1", "B": "b"}


def test_yaml_and_lists_are_read() -> None:
    assert parse_parameters("A: [x, 1]\nB: true\n", "p.yaml") == {"A": "x,1", "B": "true"}


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("", "one list or map"),
        ("1", "a list or a map"),
        ("{", "not JSON"),
        ('{"A": {"b": 1}}', "a parameter's value is text"),
        ('[{"ParameterKey": "A", "UsePreviousValue": true}]', "a ParameterKey and a ParameterValue"),
        ('{"A": "1", "A": "2"}', "a key occurs once"),
    ],
)
def test_what_is_neither_is_refused(text: str, rule: str) -> None:
    with pytest.raises(SpecError, match=rule):
        parse_parameters(text, "p.json")
