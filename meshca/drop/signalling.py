"""A signal to the program that is to read its files again, and to no other.

The rules this module keeps:
- The process is opened as a descriptor, then looked at, then signalled through that descriptor: a process id that is
  given to another program meanwhile is never signalled.
- It has to run the program that the configuration names, so that a stale or forged pid file leads nowhere. When it was
  started is not compared with the age of the file: a clock that was set in between would make a good file look stale,
  and a process of the same program that is not the one meant is found out by the check of the port.
- A pid file is read without following a link, and has to belong to root, to us or to that process's user.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import signal
import stat
from dataclasses import dataclass
from pathlib import Path

from meshca.errors import MeshcaError, RefusedError

_PID = re.compile(rb"\s*([0-9]{1,9})\s*(?:\n|$)")
_LONGEST = 4096
_DELETED = " (deleted)"


class SignalError(MeshcaError):
    """The program was not signalled; the files are in place, and it will be tried again."""


@dataclass(frozen=True, slots=True)
class Signal:
    """Which signal goes to which process: the one in ``pid_file``, else ``pid``."""

    number: signal.Signals
    program: Path
    pid_file: Path | None = None
    pid: int = 0

    def send(self) -> None:
        """Send it.

        Raises:
            SignalError: there is no such process, or no pid file.
            RefusedError: the process runs another program, or the pid file is not to be trusted.
        """
        pid, owner = (self.pid, None) if self.pid_file is None else _read(self.pid_file)
        if pid < 1:
            raise SignalError("no process id", field="pid", value=str(pid))
        try:
            process = os.pidfd_open(pid)
        except OSError as error:
            raise self._gone(pid, error) from error
        try:
            self._require_meant(pid, owner)
            signal.pidfd_send_signal(process, self.number)
        except OSError as error:
            raise self._gone(pid, error) from error
        finally:
            os.close(process)

    def _require_meant(self, pid: int, owner: int | None) -> None:
        # After an upgrade of its package a program runs on from a file that has been deleted.
        runs = os.readlink(f"/proc/{pid}/exe").removesuffix(_DELETED)
        if runs != os.path.realpath(self.program):
            raise RefusedError(
                f"process {pid} runs another program than {self.program}",
                field="pid_file" if self.pid_file else "pid",
                value=runs,
                remedy="name the program that is to be signalled, or remove a stale pid file",
            )
        if owner is not None and owner not in {0, os.geteuid(), os.stat(f"/proc/{pid}").st_uid}:
            raise RefusedError(
                f"belongs to uid {owner}, who may not say which process is signalled",
                field="pid_file",
                value=str(self.pid_file),
            )

    def _gone(self, pid: int, error: OSError) -> SignalError:
        where = f" named in {self.pid_file}" if self.pid_file else ""
        return SignalError(
            f"cannot signal process {pid}{where}: {error.strerror}", remedy=f"is {self.program} running?"
        )


def _read(path: Path) -> tuple[int, int]:
    """Return the process id in a pid file, and the file's owner."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise RefusedError("is a link", field="pid_file", value=str(path), remedy="name the file itself") from error
        raise SignalError(f"cannot read {path}: {error.strerror}", remedy="is the program running?") from error
    with contextlib.closing(os.fdopen(fd, "rb")) as file:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_mode & 0o002:
            raise RefusedError("is no file, or everybody may write to it", field="pid_file", value=str(path))
        # PostgreSQL's has more lines; the first is the process.
        match = _PID.match(file.read(_LONGEST))
    if match is None:
        raise SignalError("does not begin with a process id", field="pid_file", value=str(path))
    return int(match[1]), found.st_uid
