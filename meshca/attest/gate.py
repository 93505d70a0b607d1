"""The gate: one public Unix socket, each of whose connections has a caller the kernel vouches for.

grpc's server doesn't tell who is at the other end of a Unix socket. So the gate accepts, asks the kernel, and connects
onward from a socket bound to a random abstract name, which the server then sees as ``context.peer()``.

Rules this module keeps:
- Name and process are in the map before the onward connection exists, and leave it before it is closed. A name that
  isn't in the map is nobody: abstract names can be read, and taken again after close, by every user (design §7).
- A connection ends when the process that made it ends, whoever else holds the socket, and with the first byte that
  another process sends through it.
- No file descriptor left: connections wait in the kernel's queue; the gate neither spins nor dies.
- No user takes the descriptors from all others: each has its share of the room, and what is beyond is refused.
- Who is refused fills no log: at most one line a second.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from meshca.attest import listener
from meshca.attest.passage import Onward, Passage
from meshca.attest.process import Process, attest
from meshca.errors import ExhaustedError, MeshcaError, UnauthenticatedError

_log = logging.getLogger(__name__)

_PEER_PREFIX = "unix-abstract:"
_ACCEPTS_A_TURN = 64
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_EXHAUSTED_PAUSE = 0.25
_LINE_PAUSE = 1.0
_DESCRIPTORS_A_PASSAGE = 4  # the caller's, the onward one, the server's end of it, the pidfd


class NoRoomError(ExhaustedError):
    """There are as many connections as the gate takes, of this user or of all."""


class ForeignSenderError(UnauthenticatedError):
    """Another process than the one that connected sends through its socket."""


@dataclass(frozen=True, slots=True)
class Room:
    """How many connections a gate takes."""

    each_user: int
    in_all: int

    @classmethod
    def within(cls, descriptors: int) -> Room:
        """Return the room under a limit of file descriptors: a quarter stays for all else, a third is one user's."""
        in_all = max(descriptors * 3 // 4 // _DESCRIPTORS_A_PASSAGE, 1)
        return cls(max(in_all // 3, 1), in_all)


class Gate:
    """Accepts on ``public_path``, forwards to ``inner_path``, and knows the process behind every connection."""

    def __init__(
        self,
        public_path: Path,
        inner_path: Path,
        allow: Callable[[Process], None] | None = None,
        *,
        mode: int = 0o600,
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> None:
        """Prepare a gate; ``allow`` raises a MeshcaError for a process that must not come in at all."""
        listener.require_path(public_path)
        listener.require_path(inner_path)
        self._public_path = public_path
        self._allow = allow
        self._mode = mode
        self._onward = Onward(os.fsencode(inner_path), entropy, self._foreign)
        self._listener: socket.socket | None = None
        self._inode = 0
        self._paused: asyncio.TimerHandle | None = None
        self._silent_until = 0.0
        self.refused = 0
        self.room: Room | None = None
        """How many connections it takes; None: as many as come."""
        self.on_foreign: Callable[[Process, ForeignSenderError], None] | None = None
        """Told of each caller through whose socket another process has sent something."""

    def __len__(self) -> int:
        return len(self._onward.passages)

    def lookup(self, peer: str) -> Process | None:
        """Return the process behind ``context.peer()``, or None if it did not come through this gate."""
        if not peer.startswith(_PEER_PREFIX):
            return None
        return self._onward.callers.get(peer.removeprefix(_PEER_PREFIX))

    async def start(self) -> None:
        """Listen.

        Raises:
            MeshcaError: the public socket can't be made, see ``listener.listen``.
        """
        self._listener = listener.listen(self._public_path, self._mode)
        self._inode = self._public_path.lstat().st_ino
        self._watch()

    def close(self) -> None:
        """Stop listening, remove the public socket and end every connection."""
        if self._paused is not None:
            self._paused.cancel()
            self._paused = None
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None
            listener.remove_own(self._public_path, self._inode)
        for passage in tuple(self._onward.passages):
            passage.close()

    def _watch(self) -> None:
        self._paused = None
        if self._listener is not None:
            asyncio.get_running_loop().add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        for _ in range(_ACCEPTS_A_TURN):
            if self._listener is None or self._paused is not None:
                return
            try:
                connection, _address = self._listener.accept()
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._pause(error)
                return
            self._admit(connection)

    def _admit(self, connection: socket.socket) -> None:
        try:
            self._pass(connection)
        except MeshcaError as error:
            connection.close()
            self.refused += 1
            self._tell(error)
        except OSError as error:
            connection.close()
            self._pause(error)
        except BaseException:
            connection.close()
            raise

    def _pass(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        process, pidfd = attest(connection)
        try:
            self._require_room(process)
            if self._allow is not None:
                self._allow(process)
            Passage(self._onward, connection, process, pidfd)
        except BaseException:
            os.close(pidfd)
            raise

    def _require_room(self, process: Process) -> None:
        if self.room is None:
            return
        if self._onward.by_uid[process.uid] >= self.room.each_user:
            raise NoRoomError(f"uid {process.uid} has {self.room.each_user} connections already")
        if len(self) >= self.room.in_all:
            raise NoRoomError(f"there are {self.room.in_all} connections already", value=f"uid {process.uid}")

    def _foreign(self, process: Process, sender: int) -> None:
        self.refused += 1
        reason = f"process {process.pid} connected, and process {sender or 'of another pid namespace'} sends"
        error = ForeignSenderError(reason, value=f"uid {process.uid}")
        self._tell(error)
        if self.on_foreign is not None:
            self.on_foreign(process, error)

    def _tell(self, error: MeshcaError) -> None:
        now = asyncio.get_running_loop().time()
        if now >= self._silent_until:
            self._silent_until = now + _LINE_PAUSE
            _log.warning("connection refused, number %s since the start: %s", self.refused, error)

    def _pause(self, error: OSError) -> None:
        # Accepting goes on later; until then connections wait in the kernel. Watching on would spin.
        _log.error("cannot take connections for %s s: %s", _EXHAUSTED_PAUSE, error)
        if self._listener is not None:
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._listener)
            self._paused = loop.call_later(_EXHAUSTED_PAUSE, self._watch)
