from __future__ import annotations

import re
from typing import Any

import pytest
from envoy.config.route.v3 import route_components_pb2
from hypothesis import given
from hypothesis import strategies as st

from meshca.envoy import rewrites
from meshca.envoy.matches import EXACT, PREFIX, REGEX, Match, Path
from meshca.envoy.rewrites import Form
from meshca.mesh.spec.gateway_routes import HttpRewrite

OFF = {"prefix": {"defaultPrefix": "DISABLED"}}


def _takes(path: Path, text: str) -> bool:
    if path.kind == EXACT:
        return text == path.value
    return text.startswith(path.value) if path.kind == PREFIX else re.fullmatch(path.value, text) is not None


def _rewritten(form: Form, text: str) -> str:
    """Do what Envoy does with the action of a form."""
    if form.rewrite is None:
        return text
    action: Any = route_components_pb2.RouteAction()
    rewrites.apply(action, form.match, form.rewrite)
    if action.prefix_rewrite:
        return str(action.prefix_rewrite) + text.removeprefix(form.match.path.value)
    substitution = action.regex_rewrite.substitution.replace("\\\\", "\\").replace("\\", "\\\\")
    return re.sub(action.regex_rewrite.pattern.regex, substitution, text, count=1)


@pytest.mark.parametrize(
    ("path", "rewrite", "asked", "found"),
    [
        pytest.param(Path(PREFIX, "/x"), None, "/x/y", "/y", id="default"),
        pytest.param(Path(PREFIX, "/x"), None, "/x", "/", id="default-itself"),
        pytest.param(Path(PREFIX, "/x/"), None, "/x/y", "/y", id="default-with-slash"),
        pytest.param(Path(PREFIX, "/"), None, "/x", "/x", id="default-of-everything"),
        pytest.param(Path(PREFIX, "/x"), {}, "/x/y", "/y", id="nothing-said"),
        pytest.param(Path(PREFIX, "/x"), OFF, "/xyz", "/xyz", id="kept"),
        pytest.param(Path(PREFIX, "/x/"), {"prefix": {"value": "/v/"}}, "/x/y", "/v/y", id="value"),
        pytest.param(Path(PREFIX, "/x"), {"prefix": {"value": "/v/"}}, "/x", "/v/", id="value-itself"),
        pytest.param(Path(EXACT, "/x"), None, "/x", "/x", id="path-is-kept"),
        pytest.param(Path(EXACT, "/x"), {"path": {"exact": "/p"}}, "/x", "/p", id="path"),
        pytest.param(Path(REGEX, "/x.*"), {"path": {"exact": "/p\\1"}}, "/xy", "/p\\1", id="path-of-a-regex"),
    ],
)
def test_what_a_path_becomes(path: Path, rewrite: dict[str, Any] | None, asked: str, found: str) -> None:
    written = None if rewrite is None else HttpRewrite.model_validate(rewrite)
    (form,) = [one for one in rewrites.forms(Match(path), written) if _takes(one.match.path, asked)]
    assert _rewritten(form, asked) == found


def test_a_rewritten_prefix_ends_at_a_slash() -> None:
    assert not [one for one in rewrites.forms(Match(Path(PREFIX, "/x")), None) if _takes(one.match.path, "/xyz")]


TEXT = st.text(st.sampled_from("ab/"), max_size=4).map("/{}".format)
PATHS = st.builds(Path, st.sampled_from([EXACT, PREFIX]), TEXT) | st.builds(
    Path, st.just(REGEX), st.sampled_from(["/a.*", "/[ab]+", "/a|/b", "/(a|b)*/a?", ".*", "/a+/b"])
)
REWRITES = st.sampled_from([None, OFF, {"prefix": {"value": "/a/"}}, {"path": {"exact": "/a/b"}}])


@given(PATHS, REWRITES, PATHS, TEXT)
def test_what_is_composed_takes_what_both_would_take_one_after_the_other(
    outer: Path, rewrite: dict[str, Any] | None, inner: Path, asked: str
) -> None:
    written = None if rewrite is None else HttpRewrite.model_validate(rewrite)
    for form in rewrites.forms(Match(outer), written):
        expected = _takes(form.match.path, asked) and _takes(inner, _rewritten(form, asked))
        composed = list(rewrites.compose(form, Match(inner)))
        taken = [
            one for one in composed if _takes(one.match.path, asked) and all(_takes(p, asked) for p in one.match.also)
        ]
        assert bool(taken) == expected
        for one in taken:
            assert _rewritten(one, asked) == _rewritten(form, asked)
