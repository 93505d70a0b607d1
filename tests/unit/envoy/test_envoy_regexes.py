from __future__ import annotations

import contextlib
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshca.envoy.regexes import UndecidedError, after, takes

CHARS = st.sampled_from("ab/")
ATOMS = st.sampled_from(["a", "b", "/", ".", "[ab]", "[^a]", r"\w", r"\/"])


@st.composite
def regexes(draw: st.DrawFn, depth: int = 3) -> str:
    kind = draw(st.sampled_from(["atom", "cat", "alt", "rep"])) if depth else "atom"
    if kind == "atom":
        return draw(ATOMS)
    one = draw(regexes(depth - 1))
    if kind == "rep":
        return f"(?:{one}){draw(st.sampled_from(['*', '+', '?', '{2}', '{1,3}', '{0,}', '*?']))}"
    other = draw(regexes(depth - 1))
    return one + other if kind == "cat" else f"({one}|{other})"


@given(regexes(), st.text(CHARS, max_size=5), st.text(CHARS, max_size=4))
def test_what_follows_a_text_is_what_the_whole_expression_takes(regex: str, text: str, rest: str) -> None:
    whole = re.fullmatch(regex, text + rest) is not None
    assert takes(regex, text + rest) == whole
    remaining = after(regex, text)
    assert (remaining is not None and re.fullmatch(remaining, rest) is not None) == whole


@pytest.mark.parametrize(
    ("regex", "literal", "rest"),
    [
        ("/c[a-z]+/[0-9]+", "/", "c[a-z]+/[0-9]+"),
        ("/c[a-z]+/[0-9]+", "/color/", "[0-9]+"),
        ("^/a.*$", "/a", ".*"),
        ("/a.*", "/b", None),
        (r"/v\d{1,2}/x", "/v1", r"(?:\d?/x)"),
    ],
)
def test_some_of_them_to_look_at(regex: str, literal: str, rest: str | None) -> None:
    found = after(regex, literal)
    if rest is None or found is None:
        assert found == rest
    else:
        for text in ("", "/", "x", "/1", "r/1", "1/x", "/x", "color/1"):
            assert (re.fullmatch(found, text) is None) == (re.fullmatch(rest, text) is None)


@pytest.mark.parametrize(
    "regex",
    ["(?i)/a", r"/\bA", "/[[:alpha:]]", r"/\pL", "/a|^b", "/a$b", "(", "a**", "a{2000}", "^a|b", r"\Q/a\E", ")"],
)
def test_what_is_not_understood_is_an_error(regex: str) -> None:
    with pytest.raises(UndecidedError, match=r"match\.path\.regex"):
        after(regex, "/")


@pytest.mark.parametrize("regex", ["(a+)+b", "(a|a)*b", "a*a*a*a*a*a*a*a*a*a*b", "(a{1,9}){1,9}b", "(a?){50}a{50}"])
def test_nothing_explodes(regex: str) -> None:
    began = time.monotonic()
    with contextlib.suppress(UndecidedError):
        assert not takes(regex, "a" * 254 + "c")
    assert time.monotonic() - began < 20
