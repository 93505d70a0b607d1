from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from unit.mesh.mesh_objects import examples

from meshca.mesh.tree import DEEPEST, Report, UnreadableError
from meshca.mesh.variables import MOST_TAGS_REPORTED, Variables
from meshca.mesh.yamltext import MOST_ALIASED_NODES, read_yaml


def read(text: str, variables: dict[str, str] | None = None) -> list[Any]:
    report = Report("a.yaml", text)
    documents = read_yaml(report)
    for document in documents:
        Variables(variables, report).fill_tree(document)
    assert report.findings == []
    return [document.plain() for document in documents]


def reported(text: str) -> tuple[str, str, int, int]:
    report = Report("a.yaml", text)
    for document in read_yaml(report):
        Variables(None, report).fill_tree(document)
    (finding,) = report.findings
    return finding.rule, finding.value, finding.line, finding.column


def unreadable(text: str) -> UnreadableError:
    report = Report("a.yaml", text)
    with pytest.raises(UnreadableError) as caught:
        read_yaml(report)
    return caught.value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("yes", "yes"),
        ("on", "on"),
        ("No", "No"),
        ("12:30", "12:30"),
        ("0123", "0123"),
        ("0x1f", "0x1f"),
        ("1_000", "1_000"),
        ("2026-01-01", "2026-01-01"),
        (".inf", ".inf"),
        (".", "."),
        ("1" * 19, "1" * 19),
        ("80", 80),
        ("-80", -80),
        ("0", 0),
        ("1.5", 1.5),
        ("1.", 1.0),
        (".5", 0.5),
        ("1e3", "1e3"),
        ("1.0e3", "1.0e3"),
        ("-.5", "-.5"),
        ("1.0e+3", 1000.0),
        ("true", True),
        ("True", True),
        ("FALSE", False),
        ("~", None),
        ("null", None),
        ("", None),
        ("'80'", "80"),
        ('"true"', "true"),
        ("!!str 80", "80"),
        ("! 80", "80"),
        ("|\n  80", "80"),
    ],
)
def test_plain_text_is_read_by_the_core_schema_of_yaml_1_2(text: str, value: object) -> None:
    ((found,),) = (document.values() for document in read(f"a: {text}"))
    assert (found, type(found)) == (value, type(value))


def test_documents_are_read_one_by_one_and_empty_ones_left_out() -> None:
    assert read("a: 1\n---\n---\n# nothing\n---\n- b\n...\n---\nnull") == [{"a": 1}, ["b"]]
    assert read("") == []


@pytest.mark.parametrize("text", ["a: 1\nb: 2\na: 3", "{a: 1, b: 2, a: 3}", 'a: 1\nb: 2\n"a": 3'])
def test_a_key_occurs_once(text: str) -> None:
    rule, value, *_ = reported(text)
    assert (rule, value) == ("a key occurs once", "a")


def test_a_finding_names_line_and_column_of_the_second_key() -> None:
    assert reported("mode: STRICT\n\ntls:\n  x: 1\n  x: 2\n") == ("a key occurs once", "x", 5, 3)


def test_equal_keys_of_different_mappings_are_no_duplicates() -> None:
    assert read("a: {x: 1}\nb: {x: 2}\n---\na: 3") == [{"a": {"x": 1}, "b": {"x": 2}}, {"a": 3}]


def test_an_alias_is_what_its_anchor_was() -> None:
    text = "a: &a {x: [1, &one 2]}\nb: *a\nc: *one\nd: [*a, *one]"
    assert read(text) == [{"a": {"x": [1, 2]}, "b": {"x": [1, 2]}, "c": 2, "d": [{"x": [1, 2]}, 2]}]


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        pytest.param("a: *gone", "an alias follows its anchor", id="no-anchor"),
        pytest.param("a: &a [*a]", "an alias follows its anchor", id="inside-itself"),
        pytest.param("a: &a 1\n---\nb: *a", "an alias follows its anchor", id="of-another-document"),
        pytest.param("a: &a b\n*a : 1", "a key is plain text", id="alias-as-key"),
        pytest.param("{[a]: 1}", "a key is plain text", id="list-as-key"),
        pytest.param("? {a: b}\n: 1", "a key is plain text", id="mapping-as-key"),
        pytest.param("a: &a 1\nb:\n  <<: *a", "a merge key (<<) takes a mapping", id="merge-of-a-scalar"),
        pytest.param("a: &a {x: 1}\nb:\n  <<: [*a, 1]", "a merge key (<<) takes a mapping", id="merge-of-a-list"),
        pytest.param("a: {!Ref b: 1}", "a key is plain text", id="tag-on-a-key"),
        pytest.param("a: [1", "not YAML", id="open-list"),
        pytest.param("a: b: c", "not YAML", id="two-colons"),
        pytest.param("a:\n\t- b", "not YAML", id="tab"),
        pytest.param("%YAML 3.0\n---\na: b", "not YAML", id="another-yaml"),
        pytest.param("a: \0", "a character that YAML forbids", id="nul"),
        pytest.param("a: \x1b[31m", "a character that YAML forbids", id="escape"),
        pytest.param("a: \ud800", "a character that YAML forbids", id="half-a-pair"),
        pytest.param('a: "\\ud800"', "not YAML", id="escaped-half-a-pair"),
        pytest.param('a: "\\0"', "no NUL", id="escaped-nul"),
        pytest.param('"a\\0b": 1', "no NUL", id="nul-in-a-key"),
    ],
)
def test_what_is_not_read_says_so(text: str, rule: str) -> None:
    assert rule in unreadable(text).rule


@pytest.mark.parametrize("tag", ["!python/object:os.system", "!Ref", "!<tag:example.org,2026:x>"])
def test_tags_of_others_are_refused(tag: str) -> None:
    rule, value, *_ = reported(f"a: {tag} x")
    assert rule == "tags are not read here"
    assert value == tag.removeprefix("!<").removesuffix(">")
    assert reported(f"a: {tag} [x]")[0] == rule


def test_so_many_tags_are_reported_that_others_findings_have_room() -> None:
    report = Report("a.yaml", "- !Ref a\n" * 200 + "- {a: 1, a: 2}")
    (document,) = read_yaml(report)
    Variables(None, report).fill_tree(document)
    assert len(report.findings) == MOST_TAGS_REPORTED + 1


def test_a_tag_is_kept_for_the_form_that_knows_it() -> None:
    report = Report("a.yaml", "a: !Ref b\nc: !If [x, !Sub y, {z: 1}]\nd: plain")
    (document,) = read_yaml(report)
    assert report.findings == []
    tags = {key: member.node.tag for key, member in document.members().items()}
    assert tags == {"a": "!Ref", "c": "!If", "d": ""}
    assert [item.tag for item in document.members()["c"].node.items()] == ["", "!Sub", ""]


def test_a_merge_key_brings_what_is_not_written_out() -> None:
    text = "a: &a {x: 1, y: 2}\nb: &b {y: 3, z: 4}\n"
    assert read(f"{text}c: {{<<: *a, x: 9}}")[0]["c"] == {"x": 9, "y": 2}
    assert read(f"{text}c:\n  x: 9\n  <<: [*a, *b]\n  w: 0")[0]["c"] == {"x": 9, "y": 2, "z": 4, "w": 0}
    assert read(text + 'c: {"<<": *a}')[0]["c"] == {"<<": {"x": 1, "y": 2}}


def test_merges_count_as_what_they_add() -> None:
    text = "a: &a {" + ", ".join(f"k{n}: 1" for n in range(99)) + "}\n"
    merges = "".join(f"b{n}: {{<<: *a}}\n" for n in range(MOST_ALIASED_NODES // 100))
    assert f"more than {MOST_ALIASED_NODES}" in unreadable(text + merges).rule


def test_no_tag_makes_an_object() -> None:
    assert read("a: !!python/name:os.system x\nb: !!python/object/apply:os.system [x]\nc: !!int '1'") == [
        {"a": "x", "b": ["x"], "c": "1"}
    ]


def test_an_alias_bomb_ends_long_before_memory_does() -> None:
    lines = ["l0: &l0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]" for n in range(1, 12)]
    error = unreadable("\n".join(lines))
    assert f"more than {MOST_ALIASED_NODES}" in error.rule
    assert error.remedy == "write the parts out"


def test_aliases_may_add_up_to_their_limit() -> None:
    size = 99  # a list of so many, and itself
    text = f"a: &a [{', '.join(['x'] * size)}]\nb:\n" + "- *a\n" * (MOST_ALIASED_NODES // (size + 1))
    assert len(read(text)[0]["b"]) == MOST_ALIASED_NODES // (size + 1)
    assert "aliases add" in unreadable(text + "- *a\n").rule


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ("{a: ", "}")])
def test_nesting_is_limited(opening: str, closing: str) -> None:
    assert read(opening * DEEPEST + "1" + closing * DEEPEST)
    assert f"deeper than {DEEPEST}" in unreadable(opening * (DEEPEST + 1) + "1" + closing * (DEEPEST + 1)).rule


def test_aliases_nest_no_deeper_than_what_is_written_out() -> None:
    half = DEEPEST // 2
    inner = "a: &a " + "[" * half + "1" + "]" * half
    fits, deeper = ("[" * count + "*a" + "]" * count for count in (half - 1, half))
    assert read(f"{inner}\nb: {fits}")
    assert "deeper than" in unreadable(f"{inner}\nb: {deeper}").rule
    assert "deeper than" in unreadable(f"{inner}\nb: &b {fits}\nc: [*b]").rule


def test_values_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meshca.mesh.yamltext.MOST_NODES", 9)
    assert read("[" + "x," * 8 + "]") == [["x"] * 8]
    error = unreadable("[" + "x," * 9 + "]")
    assert "more than 9" in error.rule
    assert error.remedy


def test_a_scalar_in_quotes_is_filled_but_stays_text() -> None:
    found = read("a: $PORT\nb: '$PORT'\nc: ${PORT}\nd: x-$PORT\n$PORT: 1", {"PORT": "80"})
    assert found == [{"a": 80, "b": "80", "c": 80, "d": "x-80", "$PORT": 1}]


_scalars = (
    st.none() | st.booleans() | st.integers(-(10**17), 10**17) | st.text(st.characters(codec="ascii"), max_size=8)
)
_documents = st.recursive(
    _scalars.filter(lambda value: value is None or "\0" not in str(value)),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text("abcxyz", min_size=1, max_size=3), inner, max_size=4)  # no key is a merge key
    ),
    max_leaves=12,
)


@examples(40)
@given(_documents)
def test_what_a_dumper_writes_is_read_back(document: object) -> None:
    found = read(yaml.safe_dump({"a": document}, default_flow_style=None))
    assert found == [{"a": document}]


@examples(60)
@given(st.text(st.sampled_from("ab:-[]{},&*!|>'\"#%? \n\t$<0\0"), max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    report = Report("a.yaml", text)
    with suppress(UnreadableError):
        read_yaml(report)
    assert all(finding.rule for finding in report.findings)
