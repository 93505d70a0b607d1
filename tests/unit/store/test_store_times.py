"""Times as microseconds."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshca.store.times import micros, moment, optional_moment


@given(st.datetimes(timezones=st.just(UTC)))
def test_a_time_comes_back_as_it_was(time: datetime) -> None:
    assert moment(micros(time)) == time


def test_a_zone_does_not_change_the_moment() -> None:
    time = datetime(2026, 11, 25, 12, tzinfo=timezone(timedelta(hours=2)))
    assert micros(time) == micros(datetime(2026, 11, 25, 10, tzinfo=UTC)) == 1_795_600_800_000_000


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(TypeError):
        micros(datetime(2026, 11, 25))  # noqa: DTZ001


def test_null_is_none() -> None:
    assert optional_moment(None) is None
    assert optional_moment(0) == datetime(1970, 1, 1, tzinfo=UTC)
