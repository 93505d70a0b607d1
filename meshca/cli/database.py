"""`meshca db`: the schema of the home's database, without a server.

The rules this module keeps:
- A schema only moves forward, so whoever upgrades is told to have a backup first.
- No server may run on the home while its schema changes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from meshca.cli.command import Noun, Settings, pass_settings
from meshca.cli.output import show, warn

if TYPE_CHECKING:
    from meshca.server.home import Home


@click.group("db", cls=Noun, short_help="Check and upgrade the database's schema.")
def db_command() -> None:
    """Check and upgrade the schema of the home's database; no server is needed."""


@db_command.command("check", short_help="Say whether the schema is this version's, and the file undamaged.")
@pass_settings
def check_command(settings: Settings) -> None:
    """Say whether the schema is the one that this version needs, and whether the database file is undamaged."""
    from meshca.server.home import Home
    from meshca.store.engine import check

    found = check(_url(Home.at(settings.home)))
    show(settings.output, {"schema": found, "current": True}, text=f"schema {found}: current")


@db_command.command("upgrade", short_help="Bring the schema to what this version needs.")
@pass_settings
def upgrade_command(settings: Settings) -> None:
    """Bring the schema to what this version needs; there is no way back but a backup."""
    from meshca.server.home import Home
    from meshca.store.engine import schema_of, upgrade

    home = Home.at(settings.home)
    url = _url(home)
    lock = home.lock()
    try:
        before = schema_of(url)
        upgrade(url)
        after = schema_of(url)
    finally:
        lock.release()
    if before not in {None, after}:
        warn("a backup made before an upgrade can only be restored with the version that made it: make a new one")
    document = {"before": before, "after": after}
    show(settings.output, document, text=f"schema {after}" + ("" if before == after else f", before {before}"))


def _url(home: Home) -> str:
    from meshca.server.config import read_config
    from meshca.server.house import store_url

    home.require_initialised()
    return store_url(home, read_config(home.config))
