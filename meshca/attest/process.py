"""The process at the other end of a Unix socket, as the kernel tells it.

Rules this module keeps:
- Nothing the caller sends counts: user, groups and process come from the kernel (unix(7), SO_PEERCRED), as they were
  when it connected.
- A process is its number together with its start time, for numbers are used again.
- A process number of 0 (another pid namespace) or a process already gone is refused.
- A pidfd, not a number, says whether it still lives (pidfd_open(2)).
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
from dataclasses import dataclass

from meshca.attest.executable import FileId, running_file
from meshca.errors import UnauthenticatedError

# Linux 6.5 and later, include/uapi/asm-generic/socket.h; Python 3.11 has no name for them.
_SO_PEERPIDFD = 77
_SO_PEERGROUPS = 59

_UCRED = struct.Struct("iII")
_MAX_OPTION = 1024  # what Python's getsockopt allows
_START_TIME_FIELD = 22  # proc_pid_stat(5)
_OPTION_UNKNOWN = frozenset({errno.ENOPROTOOPT, errno.EOPNOTSUPP, errno.ERANGE})


class AttestationError(UnauthenticatedError):
    """The kernel does not tell who is calling, or it is no longer there."""


@dataclass(frozen=True, slots=True)
class Process:
    """Who connected; ``start_time`` is in clock ticks since boot, ``executable`` what it ran when it was attested."""

    pid: int
    uid: int
    gid: int
    groups: frozenset[int]
    start_time: int
    executable: FileId | None = None


def attest(connection: socket.socket) -> tuple[Process, int]:
    """Return the connected process and a pidfd for it, which the caller must close.

    Raises:
        AttestationError: its number is not known here, or it has ended.
        OSError: no file descriptor is left.
    """
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    pid, uid, gid = _UCRED.unpack(raw)
    if pid <= 0:
        raise AttestationError("the calling process has no number here; is it in another pid namespace?")
    pidfd = _pidfd(connection, pid)
    try:
        start_time = read_start_time(pid)
        executable = running_file(pid)
        # Only now is it certain that these are of the process that connected, not of one with its number.
        require_alive(pidfd)
    except BaseException:
        os.close(pidfd)
        raise
    return Process(pid, uid, gid, _groups(connection), start_time, executable), pidfd


def require_alive(pidfd: int) -> None:
    """Raise unless the process behind ``pidfd`` still runs.

    Raises:
        AttestationError: it has ended.
    """
    # A pidfd becomes readable when its process ends. poll, not select: descriptors above 1023 are usual here.
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    if poll.poll(0):
        raise AttestationError("the calling process has ended")


def require_same(process: Process) -> None:
    """Raise unless this very process still runs, under the user that was attested.

    Raises:
        AttestationError: it has ended, its number was given to another process, or it has changed its user.
    """
    if read_start_time(process.pid) != process.start_time:
        raise AttestationError(f"process {process.pid} is not the one that connected")
    if (uid := _read_effective_uid(process.pid)) != process.uid:
        raise AttestationError(f"process {process.pid} connected as uid {process.uid} and is uid {uid} now")


def read_start_time(pid: int) -> int:
    """Return when process ``pid`` started, in clock ticks since boot.

    Raises:
        AttestationError: there is no such process.
    """
    text = _read_proc(pid, "stat")
    # Field 2 is the command in parentheses and may hold spaces and parentheses itself.
    fields = text[text.rindex(b")") + 2 :].split()
    return int(fields[_START_TIME_FIELD - 3])


def _read_effective_uid(pid: int) -> int:
    for line in _read_proc(pid, "status").splitlines():
        if line.startswith(b"Uid:"):
            return int(line.split()[2])  # real, effective, saved, file system
    raise AttestationError(f"process {pid} has ended")


def _read_proc(pid: int, name: str) -> bytes:
    try:
        with open(f"/proc/{pid}/{name}", "rb", buffering=0) as file:
            return file.read()
    except (FileNotFoundError, ProcessLookupError) as error:
        raise AttestationError(f"process {pid} has ended") from error


def _pidfd(connection: socket.socket, pid: int) -> int:
    try:
        return connection.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
    except ProcessLookupError as error:
        raise AttestationError(f"process {pid} has ended") from error
    except OSError as error:
        if error.errno not in _OPTION_UNKNOWN:
            raise
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError as error:
        raise AttestationError(f"process {pid} has ended") from error


def _groups(connection: socket.socket) -> frozenset[int]:
    try:
        raw = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _MAX_OPTION)
    except OSError as error:
        if error.errno not in _OPTION_UNKNOWN:
            raise
        return frozenset()  # a kernel that can't say, or more than 256 groups: none counts
    return frozenset(struct.unpack(f"{len(raw) // 4}I", raw))
