"""`keys`: what is done to the private keys of CAs as they are kept.

The rules this module keeps:
- It works on the home and the database, and needs no server; a server that runs goes on.
- No passphrase is ever an argument or an answer.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from meshca.cli.command import Noun, Settings, pass_settings
from meshca.cli.output import note, show

if TYPE_CHECKING:
    from meshca.keys.passphrase import Passphrase
    from meshca.keys.rewrap import Rewrapped

_FILE = click.Path(path_type=Path)


@click.group("keys", cls=Noun, short_help="Change the passphrase of sealed keys.")
def keys_command() -> None:
    """Change the passphrase of sealed keys."""


@keys_command.command("rewrap", short_help="Put every sealed key under another passphrase.")
@click.option("--passphrase-file", type=_FILE, metavar="F", help="File with the present passphrase.")
@click.option("--new-passphrase-file", type=_FILE, metavar="F", help="File with the passphrase to have from now on.")
@pass_settings
def rewrap_command(settings: Settings, passphrase_file: Path | None, new_passphrase_file: Path | None) -> None:
    """Put every sealed key, in files and in the database, under another passphrase; nothing is issued anew.

    All keys change or none. Servers go on; each needs the new passphrase at its next start, and before it makes a key.
    Without --new-passphrase-file the terminal is asked; without one, a passphrase that was generated is generated anew.
    """
    done, new = _rewrap(settings, passphrase_file, new_passphrase_file)
    document = {
        "files": done.files,
        "rows": done.rows,
        "already": done.already,
        "passphrase": new.source,
    }
    text = f"{done.files} key files and {done.rows} keys in the database are under the passphrase of {new.source} now"
    if done.already:
        text += f"; {done.already} were already"
    show(settings.output, document, text=text)
    if not new.generated:
        note("servers go on; start each with the new passphrase next time (--passphrase-file)")


def _rewrap(settings: Settings, present: Path | None, new_file: Path | None) -> tuple[Rewrapped, Passphrase]:
    from meshca.cli.passphrases import sources
    from meshca.keys.passphrase import find, replacement
    from meshca.server.config import read_config
    from meshca.server.home import Home
    from meshca.server.rewrap import rewrap_home

    home = Home.at(settings.home)
    home.require_initialised()
    where = sources(home.path, present)
    old = find(where)
    new = replacement(where, old, new_file)
    return rewrap_home(home, read_config(home.config), where, (old, new)), new
