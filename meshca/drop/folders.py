"""Opening the folder of a drop, so that nobody else can decide where its files go.

The rules this module keeps:
- The path is walked from the root, each part opened relative to the one before it. Every folder on the way belongs to
  root or to the user who runs this, and nobody else may write to it, unless it is sticky as ``/tmp`` is.
- A link on the way is followed only if root or that user made it; the last part is never a link.
- The folder itself is that user's, and neither readable nor writable to everybody.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from meshca.errors import RefusedError

FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MOST_LINKS = 40
_REMEDY = "name a folder that belongs to the user who runs this"


@dataclass(frozen=True, slots=True)
class Access:
    """Whom the files are for; -1 is whoever runs this. Folders stay ours: nobody exchanges what is in them."""

    uid: int = -1
    gid: int = -1
    mode: int = 0o600
    key_mode: int = 0o600

    @property
    def folder_mode(self) -> int:
        """The mode of folders: a group that may read files has to get to them."""
        return 0o700 if self.gid == -1 else 0o750

    def apply_to_folder(self, folder: int) -> None:
        """Let the group in, and nobody else."""
        if self.gid != -1:
            os.fchown(folder, -1, self.gid)
        os.fchmod(folder, self.folder_mode)

    def apply_to_file(self, file: int, *, secret: bool) -> None:
        """Give a file its owner, then its mode, which a change of owner may clear."""
        if (self.uid, self.gid) != (-1, -1):
            os.fchown(file, self.uid, self.gid)
        os.fchmod(file, self.key_mode if secret else self.mode)


PRIVATE = Access()


def open_own_folder(path: Path, access: Access = PRIVATE) -> int:
    """Open a folder, made if it is missing, and return its descriptor.

    Raises:
        RefusedError: it, or a folder that leads to it, is not safe from others.
    """
    try:
        fd = _walk(path)
    except OSError as error:
        odd = error.errno in {errno.ELOOP, errno.ENOTDIR}
        raise _refused(
            "not a folder (a link is not followed)" if odd else str(error.strerror), path, _REMEDY
        ) from error
    try:
        _require_private(os.fstat(fd), path)
        _let_in(fd, access, path)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _walk(path: Path) -> int:
    fd, parts, links = os.open("/", FOLDER), deque(path.parts[1:]), 0
    try:
        while parts:
            _require_trustworthy(os.fstat(fd), path)
            name = parts.popleft()
            found = _found(fd, name, is_last=not parts)
            if parts and stat.S_ISLNK(found.st_mode):
                links += 1
                _require_followed(found, links, path)
                target = Path(os.readlink(name, dir_fd=fd))
                parts.extendleft(reversed([part for part in target.parts if part != "/"]))
                inner = os.open("/", FOLDER) if target.is_absolute() else os.dup(fd)
            else:
                inner = os.open(name, FOLDER, dir_fd=fd)
            os.close(fd)
            fd = inner
    except BaseException:
        os.close(fd)
        raise
    return fd


def _found(fd: int, name: str, *, is_last: bool) -> os.stat_result:
    try:
        return os.lstat(name, dir_fd=fd)
    except FileNotFoundError:
        # What leads to the folder is made as mkdir -p does; the folder itself is nobody else's business.
        os.mkdir(name, 0o700 if is_last else 0o755, dir_fd=fd)
        return os.lstat(name, dir_fd=fd)


def _require_trustworthy(found: os.stat_result, path: Path) -> None:
    if found.st_uid not in {0, os.geteuid()}:
        raise _refused(f"a folder on the way belongs to uid {found.st_uid}, who could put another in its place", path)
    if found.st_mode & 0o022 and not found.st_mode & stat.S_ISVTX:
        raise _refused("others may write to a folder on the way, and could put another in its place", path)


def _require_followed(found: os.stat_result, links: int, path: Path) -> None:
    if links > _MOST_LINKS:
        raise _refused("too many links on the way", path)
    if found.st_uid not in {0, os.geteuid()}:
        raise _refused(f"a link on the way belongs to uid {found.st_uid}", path)


def _require_private(found: os.stat_result, path: Path) -> None:
    if found.st_uid != os.geteuid():
        raise _refused(f"belongs to uid {found.st_uid}, not to the user who runs this", path)
    if found.st_mode & 0o022:
        raise _refused("others may write to it", path, f"chmod go-w {path}")
    if found.st_mode & 0o004:
        raise _refused("everybody may read it", path, f"chmod o-r {path}")


def _let_in(fd: int, access: Access, path: Path) -> None:
    if access.gid == -1:
        return
    try:
        access.apply_to_folder(fd)
    except OSError as error:
        raise _refused(
            f"cannot be given to group {access.gid}: {error.strerror}",
            path,
            "run it as root or as a member of the group",
        ) from error


def _refused(message: str, path: Path, remedy: str = "") -> RefusedError:
    return RefusedError(message, field="--dir", value=str(path), remedy=remedy)
