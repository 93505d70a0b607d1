"""`meshca admin`: who may call the server over TCP."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import click

from meshca.cli.command import Noun, Settings, connect, pass_settings
from meshca.cli.options import DURATION
from meshca.cli.output import rfc3339, show

_ROLES = ("viewer", "operator", "admin")


@click.group("admin", cls=Noun, short_help="Let people call the server over TCP.")
def admin_command() -> None:
    """Let people call the server over TCP."""


@admin_command.command("add", short_help="Make an identity for NAME.")
@click.argument("name")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder; made if missing.")
@click.option("--role", type=click.Choice(_ROLES), default="viewer", show_default=True, help="What NAME may do.")
@click.option("--ttl", type=DURATION, help="Life of the certificate; the profile caps it.")
@pass_settings
def add_command(settings: Settings, name: str, out: Path, role: str, ttl: timedelta | None) -> None:
    """Make an identity with which NAME may call the server over TCP: svid.pem, svid_key.pem and bundle.pem in --out.

    The key is made here. Copy the folder to where `meshca --server HOST:PORT --identity DIR` runs; the certificate is
    renewed there whenever it is used past half of its life.
    """
    from meshca.cli.remote import IdentityFolder
    from meshca.keys.requesting import new_request

    key_pem, csr = new_request()
    with connect(settings) as client:
        made = client.add_admin(name, role, csr, ttl)
    IdentityFolder(out).put(made, key_pem)
    document = {
        "name": name,
        "spiffe_id": made.issued.spiffe_id,
        "role": made.role,
        "serial": made.issued.serial,
        "not_after": rfc3339(made.issued.not_after),
        "directory": str(out.absolute()),
    }
    show(settings.output, document)
