"""`meshca rotate`: replace certificates before their time."""

from __future__ import annotations

import click

from meshca.cli.command import Noun, Settings, connect, pass_settings
from meshca.cli.output import show


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
