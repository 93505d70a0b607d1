"""Files that belong together, replaced together.

The rules this module keeps:
- All new files are written and fsynced beside the old ones before the first is replaced; each is replaced by one
  rename, the private key and its certificate right after each other. What fails on the way is put back.
- Files are 0600 and a new folder 0700, whatever the umask. A link in a file's place is replaced, not followed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Mapping
from pathlib import Path

from meshca.drop.generation import write_new
from meshca.errors import UnavailableError


def replace_files(folder: Path, files: Mapping[str, bytes]) -> dict[str, str]:
    """Write files into a folder, which is made if it doesn't exist, and return their paths.

    Raises:
        UnavailableError: the folder or the disk did not take them; the old files stay.
    """
    try:
        if not folder.exists():
            folder.mkdir(mode=0o700, parents=True)
        opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise UnavailableError(f"cannot use the folder: {error.strerror}", field="--out", value=str(folder)) from error
    try:
        fcntl.flock(opened, fcntl.LOCK_EX)
        _replace(opened, files)
    except OSError as error:
        raise UnavailableError(f"cannot write to it: {error.strerror}", field="--out", value=str(folder)) from error
    finally:
        os.close(opened)
    return {name: str(folder / name) for name in files}


def _replace(folder: int, files: Mapping[str, bytes]) -> None:
    with contextlib.ExitStack() as leftovers:
        for name, content in files.items():
            _remove(folder, _new(name))
            leftovers.callback(_remove, folder, _new(name))
            write_new(folder, _new(name), content)
        with contextlib.ExitStack() as undo:
            for name in files:
                leftovers.callback(_remove, folder, _old(name))
                undo.callback(_restore, folder, name, kept=_keep(folder, name))
                os.rename(_new(name), name, src_dir_fd=folder, dst_dir_fd=folder)
            os.fsync(folder)
            undo.pop_all()


def _keep(folder: int, name: str) -> bool:
    """Give the old file a second name, if there is one."""
    _remove(folder, _old(name))
    try:
        os.link(name, _old(name), src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _restore(folder: int, name: str, *, kept: bool) -> None:
    if kept:
        os.rename(_old(name), name, src_dir_fd=folder, dst_dir_fd=folder)
    else:
        _remove(folder, name)


def _remove(folder: int, name: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=folder)


def _new(name: str) -> str:
    return f".{name}.new"


def _old(name: str) -> str:
    return f".{name}.old"
