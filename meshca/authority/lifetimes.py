"""How long things live, and how people write that.

Rules: a duration is written `90s 10m 1h 30d 10y`: one positive whole number, one unit, nothing else; a child lives at
most a third of its parent's life, so that a parent can be replaced while its children live out theirs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta

from meshca.errors import InvalidInputError

# A year here is 365 days: a span of time, not a calendar date.
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "y": 365 * 86_400}
_DURATION = re.compile(r"([1-9][0-9]{0,9})([smhdy])")
LONGEST = timedelta(days=365 * 100)
RATIO = 3


class LifetimeError(InvalidInputError):
    """A duration or a set of lifetimes breaks a rule."""


def parse_duration(text: str, *, field: str = "duration") -> timedelta:
    """Read a duration.

    Raises:
        LifetimeError: It is not one positive whole number with one of the units s, m, h, d, y, or over 100 years.
    """
    match = _DURATION.fullmatch(text)
    if match is None:
        raise LifetimeError("not a duration", field=field, value=text, remedy="write it like 90s, 10m, 1h, 30d or 10y")
    seconds = int(match[1]) * _UNITS[match[2]]
    if seconds > LONGEST.total_seconds():
        raise LifetimeError("longer than 100 years", field=field, value=text)
    return timedelta(seconds=seconds)


def format_duration(span: timedelta) -> str:
    """Write a duration in the largest unit that divides it.

    Raises:
        LifetimeError: It is not a positive whole number of seconds.
    """
    seconds, rest = divmod(span, timedelta(seconds=1))
    if seconds <= 0 or rest:
        raise LifetimeError("only a positive whole number of seconds can be written", value=str(span))
    unit = max((name for name in _UNITS if seconds % _UNITS[name] == 0), key=_UNITS.__getitem__)
    return f"{seconds // _UNITS[unit]}{unit}"


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """The configured lives of root, issuing CA and leaf."""

    root: timedelta = timedelta(days=3650)
    issuing: timedelta = timedelta(days=30)
    leaf: timedelta = timedelta(hours=1)

    def __post_init__(self) -> None:
        """Check units and ratios.

        Raises:
            LifetimeError: A life cannot be written, or exceeds a third of its parent's.
        """
        for name in ("root", "issuing", "leaf"):
            _require_writable(name, getattr(self, name))
        _require_ratio("leaf", self.leaf, "issuing", self.issuing)
        _require_ratio("issuing", self.issuing, "root", self.root)

    def as_text(self) -> dict[str, str]:
        """Return the lives as people write them."""
        return {
            "root": format_duration(self.root),
            "issuing": format_duration(self.issuing),
            "leaf": format_duration(self.leaf),
        }

    @classmethod
    def from_text(cls, lives: dict[str, str]) -> Lifetimes:
        """Read lives by name; a name that is absent takes its default.

        Raises:
            LifetimeError: A name is unknown, a duration is none, or a ratio does not hold.
        """
        if unknown := sorted(lives.keys() - {"root", "issuing", "leaf"}):
            raise LifetimeError("no such lifetime", value=unknown[0], remedy="there are root, issuing and leaf")
        return cls(**{name: parse_duration(text, field=f"lifetimes.{name}") for name, text in lives.items()})


def parse_lifetimes(text: str) -> Lifetimes:
    """Read `root=10y,issuing=30d,leaf=1h`, any part of it.

    Raises:
        LifetimeError: A part is not NAME=DURATION, is named twice, or breaks a rule of ``Lifetimes``.
    """
    lives: dict[str, str] = {}
    for part in text.split(","):
        name, equals, duration = part.partition("=")
        if not equals or name in lives:
            fault = "named twice" if name in lives else "not NAME=DURATION"
            raise LifetimeError(
                fault, field="lifetimes", value=part, remedy="write it like root=10y,issuing=30d,leaf=1h"
            )
        lives[name] = duration
    return Lifetimes.from_text(lives)


def _require_writable(name: str, life: timedelta) -> None:
    try:
        format_duration(life)
    except LifetimeError as error:
        raise LifetimeError(error.message, field=f"lifetimes.{name}", value=str(life)) from error
    if life > LONGEST:
        raise LifetimeError("longer than 100 years", field=f"lifetimes.{name}", value=format_duration(life))


def _require_ratio(child: str, life: timedelta, parent: str, parent_life: timedelta) -> None:
    if life * RATIO > parent_life:
        raise LifetimeError(
            f"longer than a third of lifetimes.{parent} ({format_duration(parent_life)})",
            field=f"lifetimes.{child}",
            value=format_duration(life),
            remedy=f"at most {format_duration(parent_life // RATIO // timedelta(seconds=1) * timedelta(seconds=1))}",
        )
