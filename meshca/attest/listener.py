"""The public Unix socket: its path, its mode, and what a former server left behind.

Rules this module keeps:
- The socket never exists with a wider mode than asked for, not for a moment.
- Only a socket nobody listens on is cleaned away; anything else at its path is an error and stays.
- A path the kernel can't hold is refused with a remedy, never cut.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from pathlib import Path

from meshca.errors import ConflictError, InvalidInputError

MAX_PATH_BYTES = 107  # sun_path is 108 bytes with its final NUL, unix(7)
_BACKLOG = 4096


class SocketPathError(InvalidInputError):
    """The socket can't be made at this path."""


class SocketInUseError(ConflictError):
    """Another process listens at this path."""


def require_path(path: Path) -> None:
    """Raise unless the kernel can hold the path of a Unix socket.

    Raises:
        SocketPathError: it is too long.
    """
    if (length := len(os.fsencode(path))) > MAX_PATH_BYTES:
        raise SocketPathError(
            f"the path of a Unix socket has at most {MAX_PATH_BYTES} bytes, this one has {length}",
            value=str(path),
            remedy="choose a shorter --home",
        )


def listen(path: Path, mode: int) -> socket.socket:
    """Return a non-blocking socket that listens at ``path`` with exactly this mode.

    Raises:
        SocketPathError: the path is too long, or something other than a socket is there.
        SocketInUseError: another process listens there.
    """
    require_path(path)
    remove_stale(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # Before bind, the mode of the descriptor becomes that of the file (Linux, unix_bind), whatever the umask.
        os.fchmod(listener.fileno(), mode & 0o600)
        # What is accepted inherits it, so that no byte comes without its sender (pipe.py).
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        listener.bind(os.fsencode(path))
        listener.listen(_BACKLOG)
        path.chmod(mode)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener


def remove_stale(path: Path) -> None:
    """Remove a socket that a dead server left at ``path``.

    Raises:
        SocketPathError: something other than a socket is there.
        SocketInUseError: another process listens there.
    """
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise SocketPathError("there is something other than a socket", value=str(path), remedy="move it away")
    if _somebody_listens(path):
        raise SocketInUseError("another process listens there", value=str(path), remedy="stop it first")
    path.unlink()


def remove_own(path: Path, inode: int) -> None:
    """Remove the socket at ``path`` if it is still the one with this inode."""
    with contextlib.suppress(FileNotFoundError):
        if path.lstat().st_ino == inode:
            path.unlink()


def _somebody_listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        code = probe.connect_ex(os.fsencode(path))
    return code != errno.ECONNREFUSED
