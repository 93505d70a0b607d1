"""The folder of a drop: numbered generations, and a link to the one in force.

    DIR/current                -> generation-00000007
    DIR/.working               -> generation-00000007      the newest whose command succeeded
    DIR/generation-00000007/   svid.pem svid_key.pem bundle.pem crl.pem (layouts.py)
    DIR/status.json            what has become of it (status.py)

The rules this module keeps:
- A generation is written under another name, fsynced file by file and as a folder, renamed, and only then linked by
  one atomic rename. Whoever reads through ``current`` sees one generation, whole.
- A crash at any point leaves the old generation in force; the next run removes what was left behind.
- Everything is done relative to an open folder and without following links: a link planted in DIR leads nowhere. How
  DIR itself is opened, and whom it has to belong to: folders.py.
- Keys are deleted once a newer generation works; that one, and the one that worked before it, are kept.
- Folders are 0700 and files 0600, whatever the umask, unless an Access says otherwise; folders are ours in any case.
- Modification times of a later generation are later by whole seconds: gRPC's file watcher knows by them whether what it
  has read, file by file, was of one generation.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat
from collections.abc import Callable, Mapping
from pathlib import Path

from meshca.drop.folders import FOLDER, PRIVATE, Access, open_own_folder
from meshca.errors import ConflictError, UnavailableError

CURRENT = "current"
_WORKING = ".working"
_NAME = re.compile(r"generation-([0-9]{8})")
_UNFINISHED = re.compile(r"\.(generation-[0-9]{8}|current|\.working|status\.json)\.new")
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class GenerationFolder:
    """The folder of one drop, open and locked; a context manager."""

    def __init__(self, path: Path, access: Access = PRIVATE) -> None:
        # Path has dropped a trailing slash, which would make O_NOFOLLOW follow a link after all.
        self.path = path.absolute()
        self._access = access
        self._fd = open_own_folder(self.path, access)
        try:
            self._lock()
            self._require_replaceable()
            self._clean()
        except BaseException:
            os.close(self._fd)
            raise

    def __enter__(self) -> GenerationFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the folder back."""
        os.close(self._fd)

    @property
    def current(self) -> str | None:
        """The name of the generation in force."""
        return self._linked(CURRENT)

    @property
    def working(self) -> str | None:
        """The name of the newest generation whose command has succeeded."""
        return self._linked(_WORKING)

    def put(self, files: Mapping[str, bytes], secret: frozenset[str] = frozenset()) -> str:
        """Write a new generation, put it in force and return its name; ``secret`` are the files that hold a key.

        Raises:
            UnavailableError: the disk did not take it; the old generation stays.
        """
        name = f"generation-{self._newest() + 1:08d}"
        replaced = self.current
        try:
            self._write_generation(name, files, secret)
            self._link(CURRENT, name)
        except OSError as error:
            self._undo(name)
            raise UnavailableError(f"cannot write {self.path / name}: {error.strerror}") from error
        # What never worked and is no longer linked goes at once; a reader may still be in the one just replaced.
        working = self.working or ""
        self._delete({old for old in self._generations() if working < old < (replaced or "")})
        return name

    def settle(self) -> None:
        """Record that the generation in force works, and delete all but it and the one that worked before."""
        current, before = self.current, self.working
        if current is None:
            return
        names = self._generations()
        earlier = before if before != current else max((name for name in names if name < current), default=None)
        self._link(_WORKING, current)
        self._delete(names - {current, earlier})

    def note(self, name: str, content: bytes) -> None:
        """Put a file beside the generations in place of its predecessor.

        Raises:
            UnavailableError: the disk did not take it.
        """
        new = f".{name}.new"
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(new, dir_fd=self._fd)
            write_new(self._fd, new, content, lambda fd: self._access.apply_to_file(fd, secret=False))
            os.rename(new, name, src_dir_fd=self._fd, dst_dir_fd=self._fd)
        except OSError as error:
            raise UnavailableError(f"cannot write {self.path / name}: {error.strerror}") from error

    def _lock(self) -> None:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in {errno.EWOULDBLOCK, errno.EACCES}:
                raise
            raise ConflictError(
                "another drop writes to this folder", field="--dir", value=str(self.path), remedy="give each its own"
            ) from error

    def _require_replaceable(self) -> None:
        for name in (CURRENT, _WORKING):
            with contextlib.suppress(FileNotFoundError):
                if not stat.S_ISLNK(os.lstat(name, dir_fd=self._fd).st_mode):
                    raise ConflictError(
                        f"{self.path / name} is not a link of meshca's", remedy="remove it, or use another --dir"
                    )

    def _clean(self) -> None:
        """Remove what a killed run left: unfinished names, and generations that were never put in force."""
        self._discard_unfinished()
        current = self.current
        if current is not None:
            self._delete({name for name in self._generations() if name > current})

    def _discard_unfinished(self) -> None:
        self._delete({name for name in os.listdir(self._fd) if _UNFINISHED.fullmatch(name)})

    def _undo(self, name: str) -> None:
        with contextlib.suppress(OSError):
            self._discard_unfinished()
            if self.current != name and name in self._generations():
                self._delete({name})

    def _generations(self) -> set[str]:
        return {name for name in os.listdir(self._fd) if _NAME.fullmatch(name)}

    def _newest(self) -> int:
        return max((int(name.removeprefix("generation-")) for name in self._generations()), default=0)

    def _linked(self, link: str) -> str | None:
        try:
            target = os.readlink(link, dir_fd=self._fd)
        except OSError:
            return None
        return target if _NAME.fullmatch(target) else None

    def _link(self, link: str, target: str) -> None:
        new = f".{link}.new"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(new, dir_fd=self._fd)
        os.symlink(target, new, dir_fd=self._fd)
        os.rename(new, link, src_dir_fd=self._fd, dst_dir_fd=self._fd)
        os.fsync(self._fd)

    def _write_generation(self, name: str, files: Mapping[str, bytes], secret: frozenset[str]) -> None:
        new = f".{name}.new"
        os.mkdir(new, 0o700, dir_fd=self._fd)
        folder = os.open(new, FOLDER, dir_fd=self._fd)
        try:
            stamp = self._stamp(folder)
            for file, content in files.items():
                write_new(folder, file, content, self._finish(stamp, secret=file in secret))
            self._access.apply_to_folder(folder)
            os.utime(folder, (stamp, stamp))
            os.fsync(folder)
        finally:
            os.close(folder)
        os.rename(new, name, src_dir_fd=self._fd, dst_dir_fd=self._fd)
        os.fsync(self._fd)

    def _finish(self, stamp: int, *, secret: bool) -> Callable[[int], None]:
        def finish(fd: int) -> None:
            self._access.apply_to_file(fd, secret=secret)
            os.utime(fd, (stamp, stamp))

        return finish

    def _stamp(self, folder: int) -> int:
        """Return the time for a new generation: now, but a second after the newest one at least."""
        now = int(os.fstat(folder).st_mtime)
        newest = max(self._generations(), default=None)
        return now if newest is None else max(now, int(os.lstat(newest, dir_fd=self._fd).st_mtime) + 1)

    def _delete(self, names: set[str]) -> None:
        for name in sorted(names):
            self._delete_one(name)
        if names:
            os.fsync(self._fd)

    def _delete_one(self, name: str) -> None:
        if not stat.S_ISDIR(os.lstat(name, dir_fd=self._fd).st_mode):
            os.unlink(name, dir_fd=self._fd)
            return
        folder = os.open(name, FOLDER, dir_fd=self._fd)
        try:
            for entry in os.listdir(folder):
                # A folder in there is not ours: it stays, and so does the generation around it, without our files.
                with contextlib.suppress(IsADirectoryError, PermissionError):
                    os.unlink(entry, dir_fd=folder)
        finally:
            os.close(folder)
        with contextlib.suppress(OSError):
            os.rmdir(name, dir_fd=self._fd)


def _keep_private(fd: int) -> None:
    os.fchmod(fd, 0o600)


def write_new(folder: int, name: str, content: bytes, finish: Callable[[int], None] = _keep_private) -> None:
    """Write a file that does not exist yet into an open folder, fsynced, no link followed.

    It is ours alone until ``finish`` has been called with its descriptor.
    """
    fd = os.open(name, _NEW_FILE, 0o600, dir_fd=folder)
    with open(fd, "wb") as file:
        file.write(content)
        file.flush()
        finish(fd)
        os.fsync(fd)
