"""Lead a small mesh of real Envoys through its life, and show in a live table what held."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live
from rich.table import Table

from meshca.cli.demo.acts import ACTS
from meshca.cli.demo.stage import Stage, open_stage
from meshca.errors import MeshcaError

if TYPE_CHECKING:
    from collections.abc import Callable

_MARKS = {"waiting": "·", "running": "[yellow]…[/]", "held": "[green]✔[/]", "failed": "[red]✘[/]"}


@dataclass
class Line:
    """One row of the table."""

    title: str
    state: str = "waiting"
    text: str = ""
    seconds: float = 0.0


def run(seconds: float) -> list[Line]:
    """Play the whole demo with ``seconds`` of load in its rotation, and return what was seen.

    Raises:
        NotFoundError: there is no Envoy binary.
    """
    lines = [Line("home, server, mesh and Envoys"), *(Line(act.title) for act in ACTS)]
    console = Console()
    with open_stage() as stage, Live(_table(lines), console=console, refresh_per_second=8) as live:
        _play(lines[0], lines, live, partial(_set_up, stage))
        for line, act in zip(lines[1:], ACTS, strict=True):
            if lines[0].state == "failed":
                break
            _play(line, lines, live, partial(act.play, stage, seconds))
        if any(line.state == "failed" for line in lines):
            console.print(stage.evidence(), markup=False, highlight=False)
    return lines


def _set_up(stage: Stage) -> str:
    stage.start_server()
    stage.start_mesh()
    stage.start_envoys()
    return f"{len(stage.envoys)} Envoys live on {stage.net}.0/24"


def _play(line: Line, lines: list[Line], live: Live, play: Callable[[], str]) -> None:
    line.state = "running"
    live.update(_table(lines), refresh=True)
    began = time.monotonic()
    try:
        line.text = play()
        line.state = "held"
    except (MeshcaError, OSError) as error:
        line.text, line.state = str(error), "failed"
    line.seconds = time.monotonic() - began
    live.update(_table(lines), refresh=True)


def _table(lines: list[Line]) -> Table:
    table = Table(title="meshca demo", title_justify="left", expand=False)
    table.add_column("")
    table.add_column("shown", no_wrap=True)
    table.add_column("seen", overflow="fold")
    table.add_column("s", justify="right")
    for line in lines:
        table.add_row(_MARKS[line.state], line.title, line.text, f"{line.seconds:.1f}" if line.seconds else "")
    return table
