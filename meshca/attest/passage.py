"""One connection through the gate, from the caller's socket to the server's.

Rules this module keeps:
- The name is random (128 bits) and in the map of callers before the server can see it; it leaves the map before the
  socket that bears it is closed.
- The passage ends with the caller's process.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from meshca.attest.pipe import BUFFER_BYTES, Owner, Pipe
from meshca.attest.process import Process

_log = logging.getLogger(__name__)

_NAME_BYTES = 16
_CONNECT_PATIENCE = 5.0
_CONNECT_PAUSE = 0.01


@dataclass
class Onward:
    """What all passages of a gate share: where they lead, who is in them, and the buffer they read into."""

    path: bytes
    entropy: Callable[[int], bytes]
    on_foreign: Callable[[Process, int], None]
    """Called with a caller, and the number of another process that has sent something through its socket."""
    callers: dict[str, Process] = field(default_factory=dict)
    passages: set[Passage] = field(default_factory=set)
    by_uid: Counter[int] = field(default_factory=Counter)
    buffer: bytearray = field(default_factory=lambda: bytearray(BUFFER_BYTES))


class Passage:
    """Owns the caller's socket, the onward socket and, once made, the caller's pidfd."""

    __slots__ = ("_caller", "_deadline", "_loop", "_name", "_pidfd", "_pipe", "_retry", "_shared", "_socket")

    def __init__(self, onward: Onward, caller: socket.socket, process: Process, pidfd: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._shared = onward
        self._caller = caller
        self._pipe: Pipe | None = None
        self._retry: asyncio.TimerHandle | None = None
        self._deadline = self._loop.time() + _CONNECT_PATIENCE
        self._name = onward.entropy(_NAME_BYTES).hex()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.setblocking(False)
            self._socket.bind(b"\0" + self._name.encode())
            self._loop.add_reader(pidfd, self.close)
        except BaseException:
            self._socket.close()
            raise
        self._pidfd = pidfd
        onward.callers[self._name] = process
        onward.passages.add(self)
        onward.by_uid[process.uid] += 1
        self._loop.call_soon(self._connect)

    def close(self) -> None:
        """End the connection at both ends."""
        if self._pidfd < 0:
            return
        if self._retry is not None:
            self._retry.cancel()
        if self._pipe is not None:
            self._pipe.close()
        self._forget()
        self._caller.close()
        self._socket.close()

    def _connect(self) -> None:
        if self._pidfd < 0:
            return
        try:
            self._socket.connect(self._shared.path)
        except BlockingIOError:
            # EAGAIN: the server's queue is full, and unlike TCP a Unix socket doesn't tell when it no longer is.
            self._again()
            return
        except OSError as error:
            _log.warning("the server does not answer behind the gate: %s", error)
            self.close()
            return
        shared, process = self._shared, self._shared.callers[self._name]
        owner = Owner(process.pid, shared.buffer, self._forget, lambda sender: shared.on_foreign(process, sender))
        self._pipe = Pipe(self._caller, self._socket, owner)

    def _again(self) -> None:
        if self._loop.time() > self._deadline:
            self.close()
        else:
            self._retry = self._loop.call_later(_CONNECT_PAUSE, self._connect)

    def _forget(self) -> None:
        """Leave the map; runs before the sockets are closed, however the passage ends."""
        if self._pidfd < 0:
            return
        pidfd, self._pidfd = self._pidfd, -1
        uid = self._shared.callers.pop(self._name).uid
        self._shared.by_uid[uid] -= 1
        if not self._shared.by_uid[uid]:
            del self._shared.by_uid[uid]
        self._shared.passages.discard(self)
        self._loop.remove_reader(pidfd)
        os.close(pidfd)
