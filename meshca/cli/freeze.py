"""`meshca freeze` and `meshca unfreeze`: no certificate for anybody, until somebody says otherwise."""

from __future__ import annotations

import click

from meshca.cli.command import Command, Settings, connect, pass_settings
from meshca.cli.output import absent, rfc3339, show


@click.command("freeze", cls=Command, short_help="Issue nothing to anybody from now on.")
@click.option("--reason", default="", metavar="TEXT", help="Why; shown to whoever is refused, and audited.")
@pass_settings
def freeze_command(settings: Settings, reason: str) -> None:
    """Issue nothing to anybody from now on.

    Certificates that exist are served until they expire; revocation and CRLs go on.
    """
    with connect(settings) as client:
        since = client.freeze(reason)
    show(settings.output, {"frozen_since": rfc3339(since), "reason": absent(reason)})


@click.command("unfreeze", cls=Command, short_help="Issue certificates again.")
@pass_settings
def unfreeze_command(settings: Settings) -> None:
    """Issue certificates again."""
    with connect(settings) as client:
        client.unfreeze()
    show(settings.output, {"frozen_since": None})
