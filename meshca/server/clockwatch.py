"""Whether this machine's clock can be believed: what jumped, and who disagrees.

Rules: nothing is decided here, only said; a jump is told by the monotonic clock, which nobody sets; what the ledger or
the database server says of the time is compared each tick, so that a skew is named while it lasts, and a jump for an
hour.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import structlog

_log = structlog.get_logger(__name__)

# What is back-dated by a minute bears half of that without anybody noticing.
TOLERATED = timedelta(seconds=5)
_REMEMBERED = timedelta(hours=1)
_REMEDY = "set the clock (chrony, systemd-timesyncd)"


@dataclass(frozen=True, slots=True)
class Reading:
    """What others say of the time; None: nothing."""

    newest_record: datetime | None  # of the audit log
    database: datetime | None


@dataclass(slots=True)
class ClockWatch:
    """Compares the clock with itself and with others."""

    now: Callable[[], datetime]
    monotonic: Callable[[], float]
    read: Callable[[], Reading]
    _last: tuple[datetime, float] | None = None
    _jump: tuple[timedelta, float] | None = None
    _skews: tuple[str, ...] = field(default=())

    def tick(self) -> None:
        """Look again; call this now and then."""
        self._compare_with_itself()
        self._compare_with_others(self.read())

    @property
    def warnings(self) -> tuple[str, ...]:
        """Return what is wrong with the clock."""
        if self._jump is None or self.monotonic() - self._jump[1] > _REMEMBERED.total_seconds():
            return self._skews
        size, at = self._jump
        ago = timedelta(seconds=round(self.monotonic() - at))
        jump = f"the clock was set {_direction(size)} by {_span(size)}, {ago} ago; {_effect(size)}"
        return (jump, *self._skews)

    def _compare_with_itself(self) -> None:
        wall, steady = self.now(), self.monotonic()
        if self._last is not None:
            size = (wall - self._last[0]) - timedelta(seconds=steady - self._last[1])
            if abs(size) > TOLERATED:
                self._jump = (size, steady)
                _log.warning("clock set", direction=_direction(size), by=_span(size), now=wall.isoformat())
        self._last = (wall, steady)

    def _compare_with_others(self, reading: Reading) -> None:
        now, found = self.now(), []
        if reading.newest_record is not None and reading.newest_record - now > TOLERATED:
            ahead = _span(reading.newest_record - now)
            found.append(
                f"the ledger holds a record that is {ahead} ahead of this clock: it was set back, or another replica's "
                f"is ahead; {_REMEDY}"
            )
        if reading.database is not None and abs(reading.database - now) > TOLERATED:
            skew = now - reading.database
            found.append(f"the clock is {_span(skew)} {_side(skew)} the database server's; {_REMEDY} on both")
        if found and not self._skews:
            _log.warning("clock skew", findings=found)
        self._skews = tuple(found)


def _direction(size: timedelta) -> str:
    return "forward" if size > timedelta(0) else "back"


def _side(size: timedelta) -> str:
    return "ahead of" if size > timedelta(0) else "behind"


def _effect(size: timedelta) -> str:
    if size > timedelta(0):
        return "what it made expire is renewed over some ticks; peers whose clocks are behind refuse what is newer"
    return "what is not valid yet by this clock is not used"


def _span(size: timedelta) -> str:
    return str(timedelta(seconds=round(abs(size).total_seconds())))
