"""`meshca rotate`: replace certificates before their time."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from meshca.cli.command import Noun, Settings, connect, pass_settings
from meshca.cli.output import note, rfc3339, show

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from meshca.client.values import RotationProgress

_NAMED = 5


@click.group("rotate", cls=Noun, short_help="Replace certificates before their time.")
def rotate_command() -> None:
    """Replace certificates before their time."""


@rotate_command.command("leaf", short_help="Give a node's live streams new keys and leaves.")
@click.argument("node")
@pass_settings
def leaf_command(settings: Settings, node: str) -> None:
    """Give every live stream of NODE a new key and leaf."""
    with connect(settings) as client:
        streams = client.rotate_leaf(node)
    show(settings.output, {"streams": streams})


_wait = click.option("--wait", is_flag=True, help="Wait until it signs, and show who has acknowledged it.")


@rotate_command.command("issuing", short_help="Replace the issuing CA.")
@_wait
@pass_settings
def issuing_command(settings: Settings, wait: bool) -> None:
    """Replace the issuing CA: it is prepared now, and signs once every holder of a leaf has acknowledged its CRL."""
    _rotate(settings, "issuing", wait=wait)


@rotate_command.command("root", short_help="Replace the root, and the issuing CA below it.")
@_wait
@pass_settings
def root_command(settings: Settings, wait: bool) -> None:
    """Replace the root: it is prepared now, and signs once every holder of a leaf has acknowledged it.

    An issuing CA below it follows in the same way, then leaves. The old root goes when nobody needs it any more.
    """
    _rotate(settings, "root", wait=wait)


@rotate_command.command("jwt", short_help="Replace the key that signs JWT-SVIDs.")
@_wait
@pass_settings
def jwt_command(settings: Settings, wait: bool) -> None:
    """Replace the key that signs JWT-SVIDs.

    It is in the bundle now, and signs once everybody who follows the bundle was given it and those who fetch it over
    HTTP have had the time to (5 minutes). The old one goes when its last token has expired.
    """
    _rotate(settings, "jwt", wait=wait)


def _rotate(settings: Settings, role: str, *, wait: bool) -> None:
    with connect(settings) as client:
        ca_id = client.rotate_authority(role)
        steps = client.watch_rotation(ca_id)
        last = _followed(steps) if wait else next(steps, None)
    document = {
        "id": ca_id,
        "state": last.state if last else "prepared",
        "waiting_for": list(last.waiting_for) if last else [],
        "deadline": rfc3339(last.deadline) if last else None,
    }
    show(settings.output, document)


def _followed(steps: Iterable[RotationProgress]) -> RotationProgress | None:
    """Show each step, and return the last one."""
    if not sys.stderr.isatty():
        return _noted(steps)
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bars

    last: RotationProgress | None = None
    tasks: dict[str, TaskID] = {}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[who]}"))
    with Bars(*columns, console=Console(stderr=True)) as bars:
        for last in steps:
            _draw(bars, tasks, last)
    return last


def _draw(bars: Progress, tasks: dict[str, TaskID], step: RotationProgress) -> None:
    if step.id not in tasks:
        tasks[step.id] = bars.add_task(_called(step), total=step.holders, who="")
    waiting = step.waiting_for if step.state == "prepared" else ()
    bars.update(tasks[step.id], total=step.holders, completed=step.holders - len(waiting), who=_said(step))


def _noted(steps: Iterable[RotationProgress]) -> RotationProgress | None:
    last: RotationProgress | None = None
    for last in steps:
        note(f"{_called(last)}: {_said(last)}")
    return last


def _called(step: RotationProgress) -> str:
    return f"JWT signing key {step.id}" if step.role == "jwt" else f"{step.role} CA {step.id}"


def _said(step: RotationProgress) -> str:
    if step.state != "prepared" or not step.waiting_for:
        return step.state
    more = f" and {len(step.waiting_for) - _NAMED} more" if len(step.waiting_for) > _NAMED else ""
    until = f", until {rfc3339(step.deadline)}" if step.deadline else ""
    return f"prepared, waits for {', '.join(step.waiting_for[:_NAMED])}{more}{until}"
