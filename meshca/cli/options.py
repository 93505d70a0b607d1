"""Types of options that several commands share."""

from __future__ import annotations

from datetime import timedelta

import click

from meshca.authority.lifetimes import LifetimeError, parse_duration


class Duration(click.ParamType[timedelta, str]):
    """A length of time: `90s 10m 1h 30d 10y`."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        """Read a duration; anything else is a usage error."""
        if isinstance(value, timedelta):
            return value
        try:
            return parse_duration(str(value), field=param.human_readable_name if param else "duration")
        except LifetimeError as error:
            self.fail(str(error), param, ctx)


DURATION = Duration()
