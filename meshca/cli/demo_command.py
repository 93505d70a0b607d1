"""`meshca demo`: the command; what it runs is imported when it runs."""

from __future__ import annotations

import contextlib
import sys

import click

from meshca.cli.command import Command, Settings, pass_settings
from meshca.cli.output import show

_HELD = "held"


@click.command("demo", cls=Command, short_help="Show meshca at work with real Envoys.")
@click.option("--seconds", type=click.FloatRange(min=1), default=10.0, show_default=True, help="Seconds of load.")
@pass_settings
def demo_command(settings: Settings, seconds: float) -> None:
    """Show meshca at work with real Envoys, in a temporary home; exit code 0 only if all that it shows holds."""
    from meshca.cli.demo.run import run

    # The live table is for people: where a document is asked for, stdout is the document's alone.
    live = contextlib.nullcontext() if settings.output == "table" else contextlib.redirect_stdout(sys.stderr)
    with live:
        lines = run(seconds)
    if settings.output != "table":
        rows = [{"shown": x.title, "held": x.state == _HELD, "seen": x.text, "seconds": x.seconds} for x in lines]
        show(settings.output, rows)
    raise click.exceptions.Exit(0 if all(line.state == _HELD for line in lines) else 1)
