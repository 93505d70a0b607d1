"""Two asyncio transports, and the bytes between them: what a pipe is to sockets, where one end speaks TLS.

Rules this module keeps:
- Nothing is buffered without bound: whoever reads faster than the other writes is paused.
- The end of either side is the end of both; what was read before it is still written.
- A side may be given an allowance: once it has sent more bytes than that, it ends.
- ``close`` may be called at any time, any number of times.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast


class End(asyncio.Protocol):
    """One side; it reads nothing before it has been joined to another."""

    def __init__(self) -> None:
        self.allowance: int | None = None
        self.transport: asyncio.Transport | None = None
        self._other: End | None = None
        self._early = b""
        self._on_lost: Callable[[], None] = lambda: None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait to be joined."""
        self.transport = cast("asyncio.Transport", transport)
        self.transport.pause_reading()

    def data_received(self, data: bytes) -> None:
        """Pass it on."""
        if self.allowance is not None:
            self.allowance -= len(data)
            if self.allowance < 0:
                self.close()
                return
        if self._other is None:
            self._hold(data)
        elif self._other.transport is not None:
            self._other.transport.write(data)

    def _hold(self, data: bytes) -> None:
        """Keep what came before this side was joined: Python 3.11.2 reads on from a socket that was paused at once."""
        self._early += data
        if self.transport is not None and not self.transport.is_closing():
            # It takes itself for paused, and would not listen.
            self.transport.resume_reading()
            self.transport.pause_reading()

    def pause_writing(self) -> None:
        """Let the other read no more until this one has written."""
        if self._other is not None and self._other.transport is not None and not self._other.transport.is_closing():
            self._other.transport.pause_reading()

    def resume_writing(self) -> None:
        """Let the other go on."""
        if self._other is not None and self._other.transport is not None and not self._other.transport.is_closing():
            self._other.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """End the other as well."""
        self.transport = None
        if self._other is not None and self._other.transport is not None:
            self._other.transport.close()
        on_lost, self._on_lost = self._on_lost, lambda: None
        on_lost()

    def close(self) -> None:
        """End this side at once, and with it the other."""
        for end in (self, self._other):
            if end is not None and end.transport is not None:
                end.transport.abort()


def join(left: End, right: End, on_lost: Callable[[], None]) -> None:
    """Let both read; ``on_lost`` is called once when the first of them is lost."""
    told = False

    def lost() -> None:
        nonlocal told
        if not told:
            told = True
            on_lost()

    for end, other in ((left, right), (right, left)):
        end._other, end._on_lost = other, lost  # noqa: SLF001 - of this module
    for end, other in ((left, right), (right, left)):
        if end.transport is None:
            # It was lost before it was joined.
            other.close()
            lost()
        elif not end.transport.is_closing():
            if end._early and other.transport is not None:  # noqa: SLF001 - of this module
                other.transport.write(end._early)  # noqa: SLF001
                end._early = b""  # noqa: SLF001
            end.transport.resume_reading()
