"""A home and a database made from a backup.

Rules:
- All of the file is read and checked before anything is written; the second reading is checked again.
- A home or a database that holds something is refused. The database is filled in one transaction, and only then does
  the home appear.
- What has to change in a restored database stands in store/restoring.py.
"""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

from meshca.errors import NotFoundError, UnavailableError
from meshca.keys.chest import ChestError, unseal
from meshca.keys.files import write_new
from meshca.server.backup import KEY_FILE
from meshca.server.building import new_home, require_free
from meshca.server.config import Config, parse_config, write_config
from meshca.server.home import PRIVATE_FOLDER, Home
from meshca.server.house import SystemClock, store_url
from meshca.store import migrate
from meshca.store.connections import parse_url
from meshca.store.dump import Loader
from meshca.store.restoring import Restoration, fill, load, require_empty

IN_HOME = "home"
_NAMES = re.compile(rf"meshca\.toml|audit\.checkpoint|keys/{KEY_FILE.pattern}")


@dataclass(frozen=True, slots=True)
class RestoreOptions:
    """What `meshca restore` was told; ``database`` empty: as meshca.toml says, ``home``: SQLite in the home."""

    file: Path
    passphrase: bytes = field(repr=False)
    database: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Restored:
    """What was made."""

    home: Home
    trust_domain: str
    restoration: Restoration
    rows: int
    sealed_keys: int


@dataclass(frozen=True, slots=True)
class _Contents:
    """What a backup holds beside its rows, and how many these are."""

    manifest: dict[str, str]
    files: dict[str, bytes] = field(repr=False)
    counts: dict[str, int]


def restore(home: Home, options: RestoreOptions) -> Restored:
    """Make the home and fill its database.

    Raises:
        HomeExistsError: The home holds something; nothing was changed.
        ConflictError: The database does; nothing was changed.
        ChestError: The file is no whole backup, or the passphrase does not fit; nothing was changed.
    """
    require_free(home)
    with _opened(options.file) as file:
        contents = _check(file, options)
        config = _config(contents, options.database)
        if config.store_url:
            require_empty(config.store_url)
        restoration = Restoration(SystemClock().now(), datetime.fromisoformat(contents.manifest["made_at"]))
        with new_home(home) as folder:
            _write_files(Home(folder), contents.files)
            lines = _body(_lines(file, options))
            fill(store_url(Home(folder), config), lines, restoration, f"uid:{os.getuid()}")
    return Restored(
        home=home,
        trust_domain=contents.manifest["trust_domain"],
        restoration=restoration,
        rows=sum(contents.counts.values()),
        sealed_keys=contents.counts["sealed_keys"] + sum(name.endswith(".key") for name in contents.files),
    )


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise NotFoundError(f"the backup cannot be read: {error.strerror}", field=str(path)) from error


def _check(file: BinaryIO, options: RestoreOptions) -> _Contents:
    name = str(options.file)
    lines = _lines(file, options)
    manifest = _ours(next(lines, None), name)
    files: dict[str, bytes] = {}
    loader = Loader()
    load(loader, _body(lines, files))
    if "meshca.toml" not in files or not all(map(_NAMES.fullmatch, files)):
        raise ChestError("the backup holds other files than a server has", field=name)
    return _Contents(manifest, files, loader.counts)


def _lines(file: BinaryIO, options: RestoreOptions) -> Iterator[Any]:
    """Yield the documents of a backup."""
    rest = b""
    for chunk in unseal(file, options.passphrase, str(options.file)):
        *lines, rest = (rest + chunk).split(b"\n")
        yield from map(json.loads, lines)
    if rest:
        raise ChestError("the backup ends within a line", field=str(options.file))


def _body(lines: Iterator[Any], files: dict[str, bytes] | None = None) -> Iterator[Any]:
    """Yield what belongs to the database; files are put into ``files``, which stand before it."""
    for line in lines:
        if isinstance(line, dict) and "file" in line:
            if files is not None:
                files[line["file"]] = base64.b64decode(line["content"], validate=True)
        elif not (isinstance(line, dict) and "meshca" in line):
            yield line


def _ours(manifest: Any, name: str) -> dict[str, str]:
    """Return the manifest of a backup that this version can restore."""
    if not isinstance(manifest, dict) or "schema" not in manifest:
        raise ChestError("the backup does not begin with what it is", field=name)
    if manifest["schema"] != migrate.newest():
        raise ChestError(
            f"made by meshca {manifest['meshca']}, whose database has schema {manifest['schema']}; "
            f"this one has {migrate.newest()}",
            field=name,
            remedy=f"restore it with meshca {manifest['meshca']}, then run `meshca db upgrade` with a newer one",
        )
    return {key: str(value) for key, value in manifest.items()}


def _config(contents: _Contents, database: str) -> Config:
    """Return the configuration to use; with another database it replaces the file's text."""
    found = parse_config(contents.files["meshca.toml"].decode(), "meshca.toml in the backup")
    if not database:
        return found
    changed = replace(found, store_url="" if database == IN_HOME else database)
    if changed.store_url:
        parse_url(changed.store_url)
    contents.files["meshca.toml"] = write_config(changed).encode()
    return changed


def _write_files(building: Home, files: dict[str, bytes]) -> None:
    building.keys.mkdir(mode=PRIVATE_FOLDER)
    for name, content in files.items():
        try:
            write_new(building.path / name, content)
        except OSError as error:
            raise UnavailableError(f"cannot write {name}: {error.strerror}", remedy="free some space") from error
