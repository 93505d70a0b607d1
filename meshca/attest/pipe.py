"""Two connected sockets, and the bytes between them.

Rules this module keeps:
- All pipes of an event loop read into one shared buffer; a pipe holds bytes of its own only while its receiver is
  slower than its sender, and then it reads no more from that sender. Nothing is buffered without bound.
- The end of one direction is passed on as the end of that direction; a pipe ends when both have ended or either fails.
- ``close`` may be called at any time, any number of times.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable

BUFFER_BYTES = 256 * 1024


class Pipe:
    """Copies bytes between two non-blocking sockets until it is closed; owns both."""

    __slots__ = ("_buffer", "_left", "_loop", "_on_close", "_open_ends", "_right", "_unsent")

    def __init__(
        self, left: socket.socket, right: socket.socket, buffer: bytearray, on_close: Callable[[], None]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._left = left
        self._right = right
        self._buffer = memoryview(buffer)
        self._on_close = on_close
        self._open_ends = 2
        # The bytes that wait for a slow receiver, by its descriptor.
        self._unsent: dict[int, memoryview] = {}
        self._read_from(left, right)
        self._read_from(right, left)

    @property
    def closed(self) -> bool:
        """Return whether the pipe has ended."""
        return self._open_ends < 0

    def close(self) -> None:
        """Close both sockets; ``on_close`` runs before they are closed."""
        if self.closed:
            return
        self._open_ends = -1
        self._on_close()
        for end in (self._left, self._right):
            self._loop.remove_reader(end)
            self._loop.remove_writer(end)
            end.close()
        self._unsent.clear()

    def _read_from(self, source: socket.socket, sink: socket.socket) -> None:
        self._loop.add_reader(source, self._readable, source, sink)

    def _readable(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            count = source.recv_into(self._buffer)
            if not count:
                self._end(source, sink)
                return
            sent = _send(sink, self._buffer[:count])
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self.close()
            return
        if sent < count:
            self._hold(source, sink, self._buffer[sent:count])

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


def _send(sink: socket.socket, data: memoryview) -> int:
    try:
        return sink.send(data)
    except (BlockingIOError, InterruptedError):
        return 0
