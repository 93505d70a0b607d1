"""Two transports joined: what comes before they are joined, and the ends of both. Sockets are real."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import pytest

from meshca.junction import End, join


class ReadingOn(End):
    """An end as Python 3.11.2 (Debian 12) has it: its socket is read although it was paused when it was made."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        assert self.transport is not None
        self.transport.resume_reading()


@contextlib.asynccontextmanager
async def _sides(kind: type[End]) -> AsyncIterator[tuple[End, End, socket.socket, socket.socket]]:
    """Lend two ends, and the sockets that lead to them."""
    loop = asyncio.get_running_loop()
    near, near_end = socket.socketpair()
    far, far_end = socket.socketpair()
    for one in (near, far):
        one.setblocking(False)
    _, left = await loop.create_connection(kind, sock=near_end)
    _, right = await loop.create_connection(kind, sock=far_end)
    yield left, right, near, far
    left.close()
    right.close()
    near.close()
    far.close()
    await asyncio.sleep(0)


@pytest.mark.parametrize("kind", [End, ReadingOn])
async def test_what_comes_before_is_passed_on_first(kind: type[End]) -> None:
    loop = asyncio.get_running_loop()
    async with _sides(kind) as (left, right, near, far):
        await loop.sock_sendall(near, b"first ")
        for _ in range(5):
            await asyncio.sleep(0)  # the loop has looked at the socket
        await loop.sock_sendall(near, b"second ")
        join(left, right, lambda: None)
        await loop.sock_sendall(near, b"third")
        received = b""
        while len(received) < len(b"first second third"):
            received += await asyncio.wait_for(loop.sock_recv(far, 100), 5)
        assert received == b"first second third"


async def test_what_comes_before_is_not_held_without_bound() -> None:
    loop = asyncio.get_running_loop()
    async with _sides(ReadingOn) as (left, _, near, _):
        sent = 0
        with contextlib.suppress(TimeoutError):
            while sent < 64 << 20:
                await asyncio.wait_for(loop.sock_sendall(near, bytes(1 << 16)), 0.2)
                sent += 1 << 16
        assert len(left._early) <= 1 << 20
        assert sent < 64 << 20, "the sender waits"


async def test_the_end_of_one_is_the_end_of_both() -> None:
    loop = asyncio.get_running_loop()
    lost: list[bool] = []
    async with _sides(End) as (left, right, near, far):
        join(left, right, lambda: lost.append(True))
        near.close()
        assert await asyncio.wait_for(loop.sock_recv(far, 1), 5) == b""
        assert lost == [True]
