from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest
import yaml
from envoy_binary import envoy_binary
from hypothesis import given
from hypothesis import strategies as st
from unit.mesh.mesh_objects import create_input, examples, spec_refusal

from meshca.mesh.spec.regex import LARGEST_PROGRAM, check_regex

TAKEN = [
    "a", "(a)", "(?:a)", "(?P<n>a)", "(?<n>a)", "a*", "a+?", "a??", "a{2}", "a{2,}", "a{2,5}?", "a|b||c", "()",
    r"\d+\.\w*\s\S\D\W", r"\x41\x{0041}\pL\p{Greek}\P{^Lu}", r"[]a-z^-]", r"[^]]", r"[\d-z]", "[[:alpha:]_]",
    r"\bx\B\z", "(?i)a(?s-i:b)", "a{", "a{,3}", "a{1,", r"\-\/\_", "é", "a{996}", "(a+)+$", "((a*)*)*", "^/v[0-9]+$",
    r"[\x00-\x{ff}]", "[a&&b]", "",
]  # fmt: skip
REFUSED = {
    "(?=a)": "a group that RE2 does not know",
    "(?<!a)": "a group that RE2 does not know",
    "(?>a)": "a group that RE2 does not know",
    "(?(1)a|b)": "a group that RE2 does not know",
    r"(a)\1": r"the escape \1",
    r"\Z": r"the escape \Z",
    r"\u1234": r"the escape \u",
    r"\x{1F600}": r"the escape \x",
    "a\\": "the escape \\",
    "a**": "a repetition of a repetition",
    "a{2}{3}": "a repetition of a repetition",
    "*a": "a repetition of nothing",
    "{2}": "a repetition of nothing",
    "(": "an opening parenthesis without",
    "a)": "a closing parenthesis without",
    "[a": "an opening bracket without",
    "[z-a]": "a range in brackets that holds nothing",
    "[[:odd:]]": "a named class",
    "a{5,2}": "a repetition of {5,2}",
    "a{1001}": "a repetition of {1001}",
    "((a{10}){11}){10}": "more than 1000 repetitions",
    "(a{1,100}){1,100}": "more than 1000 repetitions",
    "a{997}": f"too large for Envoy: about 1001 steps of {LARGEST_PROGRAM}",
    "(abcde){200}": "too large for Envoy",
    "(" * 41 + ")" * 41: "groups nested deeper than 40",
}
_EXTENSIONS = "type.googleapis.com/envoy.extensions.filters"


@pytest.mark.parametrize("text", TAKEN)
def test_what_envoy_takes_is_taken(text: str) -> None:
    assert check_regex(text) == text


@pytest.mark.parametrize(("text", "rule"), REFUSED.items())
def test_what_envoy_refuses_is_refused(text: str, rule: str) -> None:
    with pytest.raises(ValueError, match=r"(?s).*") as caught:
        check_regex(text)
    assert rule in str(caught.value)


def envoy_takes(expressions: list[str], folder: Path) -> bool:
    routes = [
        {"match": {"safe_regex": {"regex": text}}, "direct_response": {"status": 200}} for text in expressions if text
    ]
    manager = {
        "@type": f"{_EXTENSIONS}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "x",
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{_EXTENSIONS}.http.router.v3.Router"},
            }
        ],
        "route_config": {"virtual_hosts": [{"name": "v", "domains": ["*"], "routes": routes}]},
    }
    listener = {
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
        "filter_chains": [
            {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
        ],
    }
    level = {"name": "s", "static_layer": {"re2.max_program_size.error_level": LARGEST_PROGRAM}}
    config = {"layered_runtime": {"layers": [level]}, "static_resources": {"listeners": [listener]}}
    file = folder / "envoy.yaml"
    file.write_text(yaml.safe_dump(config))
    done = subprocess.run([envoy_binary(), "--mode", "validate", "-c", file], capture_output=True, check=False)
    return done.returncode == 0


@pytest.mark.slow
def test_a_real_envoy_agrees(tmp_path: Path) -> None:
    assert envoy_takes(TAKEN, tmp_path)
    deep = [text for text in REFUSED if text.startswith("((((")]  # our own limit
    assert not any(envoy_takes([text], tmp_path) for text in REFUSED if text not in deep)


@examples(300)
@given(st.text(st.sampled_from(r"ab()[]{}*+?|\^$.-:,<>=!Pp0129xdw"), max_size=255))
def test_any_text_is_taken_or_refused_in_no_time(text: str) -> None:
    began = time.perf_counter()
    try:
        check_regex(text)
    except ValueError as error:
        assert "Envoy" in str(error)  # noqa: PT017 - either is right
    assert time.perf_counter() - began < 0.5


@pytest.mark.parametrize(
    "match", [{"path": {"regex": "(?=a)"}}, {"prefix": "/", "headers": [{"name": "h", "match": {"regex": "(a)\\1"}}]}]
)
def test_paths_and_headers_are_checked(match: dict[str, object]) -> None:
    action = {"weightedTargets": [{"virtualNode": "n", "weight": 1}]}
    error = spec_refusal("route", {"httpRoute": {"match": match, "action": action}}, "p")
    assert "Envoy takes RE2's regular expressions" in error.rule
    assert error.field.endswith("regex")
    assert create_input("route", "r", {}, "p")
