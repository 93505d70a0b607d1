"""Times in the database: whole microseconds since 1970 in UTC, the same integer in SQLite and PostgreSQL."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def micros(moment: datetime) -> int:
    """Return an aware time as microseconds.

    Raises:
        TypeError: the time has no zone, so that nobody can know what it means.
    """
    return (moment - _EPOCH) // _MICROSECOND


def moment(value: int) -> datetime:
    """Return what ``micros`` was given."""
    return _EPOCH + timedelta(microseconds=value)


def optional_moment(value: int | None) -> datetime | None:
    """Return the time, or None where the column is null."""
    return None if value is None else moment(value)
