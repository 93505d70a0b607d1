"""`meshca ca` and `meshca bundle`: what is trusted."""

from __future__ import annotations

import json

import click

from meshca.cli.command import Command, Noun, Settings, connect, pass_settings
from meshca.cli.output import rfc3339, show
from meshca.client.values import Authority

_COLUMNS = ("role", "id", "state", "not_after", "generation", "waiting_for")


@click.group("ca", cls=Noun, short_help="Look at the certificate authorities.")
def ca_command() -> None:
    """Look at the certificate authorities."""


@ca_command.command("show", short_help="Show roots and issuing CAs.")
@pass_settings
def show_command(settings: Settings) -> None:
    """Show roots and issuing CAs, and whom a prepared one waits for."""
    with connect(settings) as client:
        found = client.authorities()
    roots, issuing = list(map(_document, found.roots)), list(map(_document, found.issuing))
    if settings.output == "table":
        rows = [{"role": "root", **row} for row in roots] + [{"role": "issuing", **row} for row in issuing]
        show(settings.output, rows, columns=_COLUMNS)
    else:
        show(settings.output, {"roots": roots, "issuing": issuing})


@click.command("bundle", cls=Command, short_help="Print the trust bundle.")
@click.option("--format", "form", type=click.Choice(("pem", "spiffe", "jwks")), default="pem", show_default=True)
@pass_settings
def bundle_command(settings: Settings, form: str) -> None:
    """Print the trust bundle: the roots."""
    with connect(settings) as client:
        bundle = client.bundle(form).decode()
    show(settings.output, {"bundle": bundle} if form == "pem" else json.loads(bundle), text=bundle)


def _document(authority: Authority) -> dict[str, object]:
    return {
        "id": authority.id,
        "state": authority.state,
        "not_after": rfc3339(authority.not_after),
        "generation": authority.generation,
        "waiting_for": list(authority.waiting_for),
    }
