"""`meshca endpoint`: where nodes are that no DNS finds."""

from __future__ import annotations

import click

from meshca.cli.command import Noun, Settings, connect, pass_settings
from meshca.cli.output import show
from meshca.client.values import Endpoint

_COLUMNS = ("node", "address", "port")


@click.group("endpoint", cls=Noun, short_help="Say where nodes are that no DNS finds.")
def endpoint_command() -> None:
    """Say where nodes are that no DNS finds: those in Cloud Map, and those without service discovery.

    Each change reaches the Envoys of the node's callers at once, and nobody else. Endpoints are kept while their node
    is gone from its mesh, and come back with it.
    """


@endpoint_command.command("add", short_help="Add addresses at which NODE is to be found.")
@click.argument("node")
@click.argument("addresses", metavar="ADDRESS[:PORT]", nargs=-1, required=True)
@pass_settings
def add_command(settings: Settings, node: str, addresses: tuple[str, ...]) -> None:
    """Add addresses at which NODE is to be found; without a port, its listener's own. IPv6: [ADDRESS]:PORT."""
    with connect(settings) as client:
        found = client.add_endpoints(node, addresses)
    _show(settings, found)


@endpoint_command.command("remove", short_help="Remove endpoints of NODE, all or none.")
@click.argument("node")
@click.argument("addresses", metavar="ADDRESS[:PORT]", nargs=-1, required=True)
@pass_settings
def remove_command(settings: Settings, node: str, addresses: tuple[str, ...]) -> None:
    """Remove endpoints of NODE, all or none; each as it was added."""
    with connect(settings) as client:
        found = client.remove_endpoints(node, addresses)
    _show(settings, found)


@endpoint_command.command("list", short_help="List the endpoints of NODE, or of all.")
@click.argument("node", required=False)
@pass_settings
def list_command(settings: Settings, node: str | None) -> None:
    """List the endpoints of NODE, or of all nodes."""
    with connect(settings) as client:
        found = client.endpoints(node or "")
    _show(settings, found)


def _show(settings: Settings, endpoints: list[Endpoint]) -> None:
    rows = [{"node": e.node_id, "address": e.address, "port": e.port or None} for e in endpoints]
    show(settings.output, rows, columns=_COLUMNS)
