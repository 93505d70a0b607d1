from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import pytest
from fakes.ca import T0

from meshca.server.clockwatch import ClockWatch, Reading

SECOND = timedelta(seconds=1)
NOTHING = Reading(None, None)


@dataclass
class Times:
    """A wall clock and a monotonic one that a test moves."""

    wall: datetime = T0
    steady: float = 100.0
    reading: Reading = NOTHING

    def watch(self) -> ClockWatch:
        watch = ClockWatch(lambda: self.wall, lambda: self.steady, lambda: self.reading)
        watch.tick()
        return watch

    def passes(self, seconds: float, jump: timedelta = timedelta(0)) -> None:
        self.steady += seconds
        self.wall += timedelta(seconds=seconds) + jump


def test_a_clock_that_runs_is_believed() -> None:
    times = Times()
    watch = times.watch()
    for _ in range(3):
        times.passes(3600, jump=2 * SECOND)  # a slow drift is no jump
        watch.tick()
    assert watch.warnings == ()


@pytest.mark.parametrize(
    ("jump", "said"),
    [(timedelta(hours=1), "set forward by 1:00:00"), (timedelta(days=-2), "set back by 2 days, 0:00:00")],
)
def test_a_jump_is_named_for_an_hour(jump: timedelta, said: str) -> None:
    times = Times()
    watch = times.watch()
    times.passes(10, jump)
    watch.tick()
    times.passes(10)
    watch.tick()
    (warning,) = watch.warnings
    assert said in warning
    assert "0:00:10 ago" in warning
    times.passes(3600)
    watch.tick()
    assert watch.warnings == ()


def test_a_record_from_the_future_is_a_skew_while_it_lasts() -> None:
    times = Times(reading=Reading(T0 + timedelta(minutes=5), None))
    watch = times.watch()
    (warning,) = watch.warnings
    assert "0:05:00 ahead of this clock" in warning
    times.passes(296)
    watch.tick()
    assert watch.warnings == ()


@pytest.mark.parametrize(
    ("database", "said"),
    [(T0 + 30 * SECOND, "0:00:30 behind the database server's"), (T0 - 30 * SECOND, "0:00:30 ahead of the database")],
)
def test_the_database_servers_clock_is_compared(database: datetime, said: str) -> None:
    (warning,) = Times(reading=Reading(None, database)).watch().warnings
    assert said in warning


def test_what_is_tolerated_is_not_told() -> None:
    assert Times(reading=Reading(T0 + 5 * SECOND, T0 - 5 * SECOND)).watch().warnings == ()
