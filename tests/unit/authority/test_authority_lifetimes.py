from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshca.authority.lifetimes import (
    LONGEST,
    LifetimeError,
    Lifetimes,
    format_duration,
    parse_duration,
    parse_lifetimes,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("10m", 600), ("1h", 3600), ("30d", 2_592_000), ("10y", 315_360_000), ("100y", 3_153_600_000)],
)
def test_a_duration_is_a_number_and_a_unit(text: str, seconds: int) -> None:
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1",
        "h",
        "0s",
        "01h",
        "-1h",
        "+1h",
        "1.5h",
        "1 h",
        " 1h",
        "1h\n",
        "1H",
        "1h30m",
        "1w",
        "1ms",
        "\u0661h",
        "101y",
    ],
)
def test_anything_else_is_refused_and_shown(text: str) -> None:
    with pytest.raises(LifetimeError) as refused:
        parse_duration(text, field="ttl")
    assert refused.value.field == "ttl"
    assert refused.value.value == text


@given(st.integers(min_value=1, max_value=int(LONGEST.total_seconds())))
def test_what_is_written_reads_back(seconds: int) -> None:
    span = timedelta(seconds=seconds)
    assert parse_duration(format_duration(span)) == span


@given(st.text(max_size=12))
def test_whatever_is_read_is_written_equal_or_shorter(text: str) -> None:
    try:
        span = parse_duration(text)
    except LifetimeError:
        return
    assert parse_duration(format_duration(span)) == span


@pytest.mark.parametrize("span", [timedelta(0), timedelta(seconds=-1), timedelta(milliseconds=1500)])
def test_only_whole_positive_seconds_are_written(span: timedelta) -> None:
    with pytest.raises(LifetimeError):
        format_duration(span)


def test_the_defaults_hold_their_own_ratios() -> None:
    assert Lifetimes().as_text() == {"root": "10y", "issuing": "30d", "leaf": "1h"}


def test_exactly_a_third_is_allowed() -> None:
    lives = Lifetimes(root=timedelta(seconds=45), issuing=timedelta(seconds=15), leaf=timedelta(seconds=5))
    assert Lifetimes.from_text(lives.as_text()) == lives


@pytest.mark.parametrize(
    ("change", "field", "remedy"),
    [
        pytest.param({"leaf": timedelta(days=10, seconds=1)}, "lifetimes.leaf", "at most 10d", id="leaf"),
        pytest.param({"issuing": timedelta(days=1217)}, "lifetimes.issuing", "at most 29200h", id="issuing"),
        pytest.param({"leaf": timedelta(0)}, "lifetimes.leaf", "", id="zero"),
        pytest.param({"root": timedelta(days=36501)}, "lifetimes.root", "", id="too-long"),
    ],
)
def test_a_bad_set_of_lives_names_the_field(change: dict[str, timedelta], field: str, remedy: str) -> None:
    with pytest.raises(LifetimeError) as refused:
        Lifetimes(**change)
    assert refused.value.field == field
    assert refused.value.remedy == remedy


def test_lives_are_read_in_any_order_and_part() -> None:
    assert parse_lifetimes("leaf=10m,root=1y") == Lifetimes(root=timedelta(days=365), leaf=timedelta(minutes=10))


@pytest.mark.parametrize("text", ["", "leaf", "leaf=", "=1h", "twig=1h", "leaf=1h,leaf=2h", "leaf=1h,", "leaf=2y"])
def test_bad_lives_are_refused(text: str) -> None:
    with pytest.raises(LifetimeError):
        parse_lifetimes(text)
