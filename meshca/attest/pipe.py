"""Two connected sockets, and the bytes between them.

Rules this module keeps:
- All pipes of an event loop read into one shared buffer; a pipe holds bytes of its own only while its receiver is
  slower than its sender, and then it reads no more from that sender. Nothing is buffered without bound.
- The end of one direction is passed on as the end of that direction; a pipe ends when both have ended or either fails.
- What comes from the caller's end was sent by the caller itself: the kernel says so of each piece (SCM_CREDENTIALS,
  unix(7)). A socket that a child inherited, or another process was given, ends with the first byte sent through it.
- ``close`` may be called at any time, any number of times.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass

BUFFER_BYTES = 256 * 1024
_UCRED = struct.Struct("iII")
# Room for the sender and nothing else: the kernel then gives us no descriptor that a caller sends along.
_ANCILLARY = socket.CMSG_SPACE(_UCRED.size)


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose pipe it is, what it reads into, and what it tells."""

    pid: int
    buffer: bytearray
    on_close: Callable[[], None]
    on_foreign: Callable[[int], None]


class _ForeignSenderError(Exception):
    """Something was sent by a process that isn't the caller."""


class Pipe:
    """Copies bytes between a caller's non-blocking socket and another until it is closed; owns both."""

    __slots__ = ("_buffer", "_left", "_loop", "_open_ends", "_owner", "_right", "_unsent")

    def __init__(self, caller: socket.socket, right: socket.socket, owner: Owner) -> None:
        self._loop = asyncio.get_running_loop()
        self._left = caller
        self._right = right
        self._buffer = memoryview(owner.buffer)
        self._owner = owner
        self._open_ends = 2
        # The bytes that wait for a slow receiver, by its descriptor.
        self._unsent: dict[int, memoryview] = {}
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._read_from(caller, right)
        self._read_from(right, caller)

    @property
    def closed(self) -> bool:
        """Return whether the pipe has ended."""
        return self._open_ends < 0

    def close(self) -> None:
        """Close both sockets; ``on_close`` runs before they are closed."""
        if self.closed:
            return
        self._open_ends = -1
        self._owner.on_close()
        for end in (self._left, self._right):
            self._loop.remove_reader(end)
            self._loop.remove_writer(end)
            end.close()
        self._unsent.clear()

    def _read_from(self, source: socket.socket, sink: socket.socket) -> None:
        self._loop.add_reader(source, self._readable, source, sink)

    def _readable(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            count = self._receive(source)
            if not count:
                self._end(source, sink)
                return
            sent = _send(sink, self._buffer[:count])
        except (BlockingIOError, InterruptedError):
            return
        except (OSError, _ForeignSenderError):
            self.close()
            return
        if sent < count:
            self._hold(source, sink, self._buffer[sent:count])

    def _receive(self, source: socket.socket) -> int:
        if source is not self._left:
            return source.recv_into(self._buffer)
        # The kernel never puts what two processes have sent into one piece.
        count, ancillary, _flags, _address = source.recvmsg_into([self._buffer], _ANCILLARY)
        if count and (sender := _sender(ancillary)) != self._owner.pid:
            self._owner.on_foreign(sender)
            raise _ForeignSenderError
        return count

    def _hold(self, source: socket.socket, sink: socket.socket, rest: memoryview) -> None:
        self._loop.remove_reader(source)
        self._unsent[sink.fileno()] = memoryview(bytes(rest))
        self._loop.add_writer(sink, self._writable, source, sink)

    def _writable(self, source: socket.socket, sink: socket.socket) -> None:
        rest = self._unsent.pop(sink.fileno())
        try:
            sent = _send(sink, rest)
        except OSError:
            self.close()
            return
        if sent < len(rest):
            self._unsent[sink.fileno()] = rest[sent:]
            return
        self._loop.remove_writer(sink)
        self._read_from(source, sink)

    def _end(self, source: socket.socket, sink: socket.socket) -> None:
        self._loop.remove_reader(source)
        self._open_ends -= 1
        if not self._open_ends:
            self.close()
            return
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)


def _sender(ancillary: list[tuple[int, int, bytes]]) -> int:
    for level, kind, data in ancillary:
        if (level, kind, len(data)) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS, _UCRED.size):
            pid: int = _UCRED.unpack(data)[0]
            return pid
    return 0


def _send(sink: socket.socket, data: memoryview) -> int:
    try:
        return sink.send(data)
    except (BlockingIOError, InterruptedError):
        return 0
