from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.mesh.mesh_objects import examples

from meshca.mesh.jsontext import read_json
from meshca.mesh.tree import DEEPEST, Report, UnreadableError
from meshca.mesh.variables import Variables


def read(text: str, variables: dict[str, str] | None = None) -> list[Any]:
    report = Report("a.json", text)
    documents = read_json(report)
    for document in documents:
        Variables(variables, report).fill_tree(document)
    assert report.findings == []
    return [document.plain() for document in documents]


def unreadable(text: str) -> UnreadableError:
    report = Report("a.json", text)
    with pytest.raises(UnreadableError) as caught:
        read_json(report)
    return caught.value


def test_values_may_follow_one_another() -> None:
    assert read('{"a": 1}{"b": 2}\n---\n[3]\n---\r\n') == [{"a": 1}, {"b": 2}, [3]]
    assert read(" \n") == []


def test_a_key_occurs_once_and_its_place_is_named() -> None:
    report = Report("a.json", '{"x": {"a": 1,\n  "a": 2}, "y": {"a": 3}}')
    read_json(report)
    (finding,) = report.findings
    assert (finding.rule, finding.value, finding.line, finding.column) == ("a key occurs once", "a", 2, 3)


def test_an_escaped_key_is_the_same_key() -> None:
    report = Report("a.json", '{"tls": 1, "\\u0074ls": 2}')
    read_json(report)
    assert [finding.value for finding in report.findings] == ["tls"]


@pytest.mark.parametrize(
    ("text", "rule", "value"),
    [
        pytest.param("{", "a key in double quotes", "the end of the text", id="open"),
        pytest.param("{a: 1}", "a key in double quotes", "a: 1}", id="bare-key"),
        pytest.param("{'a': 1}", "a key in double quotes", "'a': 1}", id="single-quotes"),
        pytest.param('{"a" 1}', "':'", "1}", id="no-colon"),
        pytest.param('{"a": 1,}', "another value after the comma", "}", id="comma-in-mapping"),
        pytest.param("[1,]", "another value after the comma", "]", id="comma-in-list"),
        pytest.param("[1 2]", "','", "2]", id="no-comma"),
        pytest.param("[01]", "','", "1]", id="leading-zero"),
        pytest.param("[1.]", "','", ".]", id="no-fraction"),
        pytest.param("[-]", "a number", "-]", id="no-digits"),
        pytest.param("[٣]", "a number", "٣]", id="digit-of-another-script"),
        pytest.param("[NaN]", "a value", "NaN]", id="nan"),
        pytest.param("[True]", "a value", "True]", id="python-word"),
        pytest.param("[truely]", "a value", "truely]", id="longer-word"),
        pytest.param("[$]", "a variable name", "$]", id="lone-dollar"),
        pytest.param("// note\n{}", "a value", "// note", id="comment"),
        pytest.param("[" + "1" * 19 + "]", "at most 18", "", id="long-number"),
        pytest.param('["a\nb"]', "not JSON", "", id="newline-in-text"),
        pytest.param('["a\0b"]', "not JSON", "", id="nul"),
        pytest.param('["\\x41"]', "not JSON", "", id="no-such-escape"),
        pytest.param('["a', "not JSON", "", id="open-text"),
        pytest.param('["\\u0000"]', "no NUL", "", id="escaped-nul"),
        pytest.param('["\\ud800"]', "surrogate", "", id="half-a-pair"),
        pytest.param('{"\\udc00": 1}', "surrogate", "", id="half-a-pair-in-a-key"),
    ],
)
def test_what_is_not_json_says_what_was_expected(text: str, rule: str, value: str) -> None:
    error = unreadable(text)
    assert rule in error.rule
    assert error.value == value


def test_a_pair_of_surrogates_is_one_character() -> None:
    assert read('["\\ud83d\\ude00"]') == [["\N{GRINNING FACE}"]]


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_nesting_is_limited(opening: str, closing: str) -> None:
    assert read(opening * DEEPEST + "1" + closing * DEEPEST)
    assert f"deeper than {DEEPEST}" in unreadable(opening * (DEEPEST + 1) + "1" + closing * (DEEPEST + 1)).rule


def test_values_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meshca.mesh.jsontext.MOST_NODES", 9)
    assert read("[" + ",".join("1" * 8) + "]") == [[1] * 8]
    error = unreadable("[" + ",".join("1" * 9) + "]")
    assert "more than 9" in error.rule
    assert error.remedy


def test_a_bare_variable_is_a_value() -> None:
    text = '{"a": $PORT, "b": "$PORT", "c": ${ON}, "d": $HOST}'
    assert read(text, {"PORT": "80", "ON": "true", "HOST": 'x", "e": "y'}) == [
        {"a": 80, "b": "80", "c": True, "d": 'x", "e": "y'}
    ]


_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**16), 10**16)
    | st.integers(-(10**9), 10**9).map(lambda number: number / 8)
    | st.text(st.characters(codec="utf-8", exclude_characters="\0$"), max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc$", max_size=3), inner, max_size=4),
    max_leaves=12,
)


@examples(40)
@given(_values, st.booleans(), st.sampled_from([None, 2]))
def test_what_python_writes_is_read_back(value: object, escaped: bool, indent: int | None) -> None:
    assert read(json.dumps([value], ensure_ascii=escaped, indent=indent)) == [[value]]


@examples(60)
@given(st.text(st.sampled_from('ab:-[]{},"\\$0.e \n\0tu'), max_size=40))
def test_what_is_read_is_what_python_reads_too(text: str) -> None:
    report = Report("a.json", text)
    try:
        found = [node.plain() for node in read_json(report)]
    except UnreadableError:
        return
    if len(found) == 1 and not report.findings and "$" not in text and "---" not in text:
        assert found[0] == json.loads(text)
