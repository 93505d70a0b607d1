"""A home appears whole, or not at all.

Rules: it is built beside its place (or, where the folder exists already, inside) and renamed into place; what fails on
the way is taken away again; a place that holds anything is refused.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from meshca.errors import ConflictError, UnavailableError
from meshca.server.home import PRIVATE_FOLDER, PUBLIC_FOLDER, Home

_HIDDEN = ".meshca-init-"


class HomeExistsError(ConflictError):
    """There is something at the home already."""


def require_free(home: Home) -> None:
    """Raise unless a home may be made there.

    Raises:
        HomeExistsError: Something is there.
        SocketPathError: The kernel could not take its sockets' paths.
    """
    if home.path.is_symlink() or (home.path.exists() and not home.path.is_dir()):
        raise HomeExistsError(f"{home.path} is no folder; nothing was changed", remedy="choose another --home")
    if home.path.is_dir() and any(home.path.iterdir()):
        raise HomeExistsError(
            f"{home.path} is not empty; nothing was changed",
            remedy="`meshca serve` runs what is there; for a new one choose another --home",
        )
    home.require_short_sockets()


@contextmanager
def new_home(home: Home) -> Iterator[Path]:
    """Lend a new folder that becomes the home at the end, or disappears."""
    inside = home.path.is_dir()
    parent = home.path if inside else home.path.parent
    folder = parent / f"{_HIDDEN}{os.urandom(6).hex()}"
    try:
        parent.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
        folder.mkdir(mode=PRIVATE_FOLDER)
    except OSError as error:
        raise UnavailableError(f"cannot make {folder}: {error.strerror}", remedy="choose another --home") from error
    try:
        yield folder
        _put_in_place(folder, home.path, inside=inside)
    except OSError as error:
        raise UnavailableError(f"cannot make {home.path}: {error.strerror}", remedy="nothing was changed") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _put_in_place(folder: Path, home: Path, *, inside: bool) -> None:
    if not inside:
        folder.chmod(PUBLIC_FOLDER)
        folder.rename(home)
        sync(home.parent)
        return
    # The configuration comes last: without it there is no home (Home.require_initialised).
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.suffix == ".toml"):
        entry.rename(home / entry.name)
    home.chmod(PUBLIC_FOLDER)
    sync(home)


def sync(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
