"""Options that several commands share, and types of options."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import click

from meshca.authority.lifetimes import LifetimeError, parse_duration

if TYPE_CHECKING:
    from meshca.attest.pods import Pods


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


class Moment(click.ParamType[datetime, str]):
    """A moment: RFC 3339 (`2026-11-25T12:00:00Z`), a date (its beginning in UTC), or how long ago (`36h`)."""

    name = "time"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Read a moment; anything else is a usage error."""
        if isinstance(value, datetime):
            return value
        text = str(value)
        try:
            return datetime.now(UTC) - parse_duration(text)
        except (LifetimeError, OverflowError):
            pass
        try:
            found = datetime.fromisoformat(text)
        except ValueError:
            self.fail(
                f"{text!r} is no time: write 2026-11-25T12:00:00Z, 2026-11-25, or 36h for 36 hours ago", param, ctx
            )
        if found.tzinfo is None:
            if len(text) > len("2026-11-25"):
                self.fail(f"{text!r} has no zone: end it with Z for UTC", param, ctx)
            return found.replace(tzinfo=UTC)
        return found


DURATION = Duration()


def preferred(key_types: Sequence[str]) -> str:
    """Return the key type that a server prefers for a node's certificates."""
    return key_types[0] if key_types else "ec-p256"


MOMENT = Moment()

kubernetes_node_option = click.option(
    "--kubernetes-node",
    envvar="MESHCA_KUBERNETES_NODE",
    metavar="NAME",
    help="List the pods of this node, for k8s:ns and k8s:sa; or MESHCA_KUBERNETES_NODE.",
)


def pods_of(node: str | None) -> Pods | None:
    """Return the pods of a node, of the cluster that this process runs in; no node, no pods.

    Raises:
        InvalidInputError: It is no name of a node, or this is no pod.
    """
    if node is None:
        return None
    from meshca.attest.pods import pods_of_node

    return pods_of_node(node, os.environ)
