"""`meshca register`, `registrations` and `unregister`: which processes may hold which identity."""

from __future__ import annotations

import click

from meshca.cli.command import Command, Settings, connect, pass_settings
from meshca.cli.output import show
from meshca.client.values import Registration


@click.command("register", cls=Command, short_help="Entitle processes to the identity of NODE.")
@click.argument("node")
@click.option(
    "--selector",
    "selectors",
    multiple=True,
    required=True,
    metavar="S",
    help="Such as unix:uid:N, unix:path:/P, systemd:unit:U, k8s:ns:N; repeatable, all of them must hold.",
)
@click.option("--parent", default="", metavar="AGENT", help="Only behind this agent.")
@click.option(
    "--federates-with",
    multiple=True,
    metavar="TD",
    help="A federated trust domain whose bundle they may have; repeatable.",
)
@pass_settings
def register_command(
    settings: Settings, node: str, selectors: tuple[str, ...], parent: str, federates_with: tuple[str, ...]
) -> None:
    """Entitle processes for which all selectors hold to the identity of NODE."""
    with connect(settings) as client:
        registration = client.register(node, selectors, parent=parent, federates_with=federates_with)
    show(settings.output, _document(registration))


@click.command("registrations", cls=Command, short_help="List the registrations.")
@pass_settings
def registrations_command(settings: Settings) -> None:
    """List the registrations."""
    with connect(settings) as client:
        found = client.registrations()
    show(settings.output, [_document(registration) for registration in found])


@click.command("unregister", cls=Command, short_help="Remove one registration.")
@click.argument("id")
@pass_settings
def unregister_command(settings: Settings, /, **arguments: str) -> None:
    """Remove one registration; streams that rest on it alone end."""
    with connect(settings) as client:
        client.unregister(arguments["id"])
    show(settings.output, {"id": arguments["id"]})


def _document(registration: Registration) -> dict[str, object]:
    return {
        "id": registration.id,
        "spiffe_id": registration.spiffe_id,
        "selectors": list(registration.selectors),
        **({"parent": registration.parent} if registration.parent else {}),
        **({"federates_with": list(registration.federates_with)} if registration.federates_with else {}),
    }
