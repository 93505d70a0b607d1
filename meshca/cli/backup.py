"""`meshca backup` and `meshca restore`: all that a server is in one sealed file, and a server made from it.

The rules this module keeps:
- A running server makes its own backup, through admin.sock; of a home without one the command reads it.
- The file is 0600, appears whole or not at all, and replaces nothing.
- The passphrase is not in it, which is said each time.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from meshca.cli.command import Command, Settings, connect, has_server, pass_settings
from meshca.cli.output import rfc3339, show, warn
from meshca.client.values import BackupSummary
from meshca.errors import ConflictError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


@click.command("backup", cls=Command, short_help="Write all that the server is into one sealed file.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--passphrase-file",
    type=click.Path(path_type=Path),
    metavar="F",
    help="The keys' passphrase, for a server that is stopped or keeps no key itself.",
)
@pass_settings
def backup_command(settings: Settings, file: Path, passphrase_file: Path | None) -> None:
    """Write all that the server is into FILE: database, sealed keys, meshca.toml and audit checkpoint.

    It is sealed under the passphrase of the keys, which is not in it: keep that elsewhere. The server may be running.
    """
    if file.exists():
        raise ConflictError("there is a file already; it is not replaced", field="FILE", value=str(file))
    running = has_server(settings)
    pieces = _of_server(settings, passphrase_file) if running else _of_home(settings, passphrase_file)
    summary, size = _write(file, pieces)
    warnings = _warnings(summary, settings.home / "passphrase")
    for text in warnings:
        warn(text)
    document = {
        "file": str(file),
        "bytes": size,
        "made_at": rfc3339(summary.made_at),
        "rows": summary.rows,
        "sealed_keys": summary.sealed_keys,
        "keys_elsewhere": list(summary.keys_elsewhere),
        "warnings": warnings,
    }
    show(settings.output, document, text=f"{file}: {size:,} bytes, {summary.rows:,} rows, {summary.sealed_keys} keys")


@click.command("restore", cls=Command, short_help="Make a home, and fill its database, from a backup.")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--database", default="", metavar="URL", help="Another database than before; `home`: SQLite in the home.")
@click.option("--passphrase-file", type=click.Path(path_type=Path), metavar="F", help="What FILE was sealed under.")
@pass_settings
def restore_command(settings: Settings, file: Path, database: str, passphrase_file: Path | None) -> None:
    """Make a new home from FILE. The home and the database must be empty, and the original server must be gone."""
    from meshca.cli.passphrases import sources
    from meshca.keys import passphrase
    from meshca.server.home import Home
    from meshca.server.restore import RestoreOptions, restore

    found = passphrase.find(sources(settings.home, passphrase_file))
    made = restore(Home.at(settings.home), RestoreOptions(file, found.value, database))
    warnings = [
        "the original server must not run any more: two servers of one CA contradict each other",
        f"`serve` needs the passphrase, which is not in the home: it came from {found.source}",
        "what happened after the backup is unknown here: see `meshca status` once the server runs",
    ]
    for text in warnings:
        warn(text)
    document = {
        "home": str(made.home.path),
        "trust_domain": made.trust_domain,
        "backup_made_at": rfc3339(made.restoration.backup_at),
        "restored_at": rfc3339(made.restoration.restored_at),
        "rows": made.rows,
        "sealed_keys": made.sealed_keys,
        "warnings": warnings,
    }
    text = f"{made.home.path}: {made.trust_domain} as of {rfc3339(made.restoration.backup_at)}, {made.rows:,} rows"
    show(settings.output, document, text=text)


def _of_server(settings: Settings, passphrase_file: Path | None) -> Iterator[bytes | BackupSummary]:
    from meshca.cli.passphrases import sources
    from meshca.keys import passphrase

    given = passphrase.find(sources(settings.home, passphrase_file)).value if passphrase_file else b""
    with connect(settings) as client:
        yield from client.backup(given)


def _of_home(settings: Settings, passphrase_file: Path | None) -> Iterator[bytes | BackupSummary]:
    from meshca.cli.passphrases import sources
    from meshca.keys import passphrase
    from meshca.server.backup import Backup
    from meshca.server.config import read_config
    from meshca.server.home import Home
    from meshca.server.house import store_url
    from meshca.store.engine import open_store

    home = Home.at(settings.home)
    home.require_initialised()
    found = passphrase.find(sources(home.path, passphrase_file))
    lock = home.lock()
    try:
        with open_store(store_url(home, read_config(home.config))) as store:
            store.require_current()
            backup = Backup(home, store)
            yield from backup.pieces(found.value)
            made: Any = backup.summary()
            yield BackupSummary(made.made_at, made.rows, made.sealed_keys, made.keys_elsewhere)
    finally:
        lock.release()


def _write(file: Path, pieces: Iterable[bytes | BackupSummary]) -> tuple[BackupSummary, int]:
    """Write the pieces beside the file and rename them into place; what fails on the way leaves nothing."""
    draft = file.with_name(f".{file.name}.{os.urandom(6).hex()}")
    summary, size = None, 0
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as target:
            for piece in pieces:
                if isinstance(piece, BackupSummary):
                    summary = piece
                else:
                    size += target.write(piece)
            target.flush()
            os.fsync(target.fileno())
        if summary is None:
            raise UnavailableError("the server ended before the backup did", remedy="make it again")
        os.link(draft, file)  # unlike a rename, fails if the name was taken meanwhile
    except OSError as error:
        raise UnavailableError(f"cannot be written: {error.strerror}", field="FILE", value=str(file)) from error
    finally:
        with suppress(OSError):
            draft.unlink()
    _sync(file.parent)
    return summary, size


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _warnings(summary: BackupSummary, generated: Path) -> list[str]:
    kept = f"; `init` left it in {generated}" if generated.exists() else ""
    found = [f"without the passphrase nobody can restore this, and it is not in the file: keep it elsewhere{kept}"]
    if summary.keys_elsewhere:
        places = ", ".join(summary.keys_elsewhere)
        found.append(f"of these keys only the references are in the file, back up their key stores as well: {places}")
    return found
