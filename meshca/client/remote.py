"""An admin client for a server over TCP, for programs that block: the tunnel runs on a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from meshca.client.admin import AdminClient
from meshca.client.tunnel import Meeting, Tunnel
from meshca.errors import UnavailableError

_START = 10.0


@contextmanager
def remote_admin(address: tuple[str, int], meet: Callable[[], Meeting]) -> Iterator[AdminClient]:
    """Lend a client of the server at this address."""
    with _running(address, meet) as tunnel, AdminClient(tunnel.path, trouble=lambda: tunnel.trouble) as client:
        yield client


@contextmanager
def _running(address: tuple[str, int], meet: Callable[[], Meeting]) -> Iterator[Tunnel]:
    started = threading.Event()
    found: list[Tunnel] = []
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    async def run() -> None:
        tunnel = Tunnel(address, meet)
        try:
            await tunnel.start()
            found.append(tunnel)
            started.set()
            await stop.wait()
        finally:
            await tunnel.close()

    thread = threading.Thread(target=lambda: _finish(loop, run), daemon=True, name="tunnel")
    thread.start()
    if not started.wait(_START):
        raise UnavailableError("the way to the server could not be opened", field="--server", value=str(address))
    try:
        yield found[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(_START)


def _finish(loop: asyncio.AbstractEventLoop, run: Callable[[], object]) -> None:
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(run())  # type: ignore[arg-type]
