"""A server and a node agent in this process, over real TCP and real sockets."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fakes.server_world import Admin, server, shop, temporary_home
from fakes.tcp_callers import address

from meshca.agent.identity import ByJoinToken
from meshca.agent.place import Place
from meshca.agent.run import Agent, Options, running
from meshca.attest.join import parse_token

if TYPE_CHECKING:
    from meshca.attest.pods import Pods
    from meshca.server.parts import Parts


@asynccontextmanager
async def agent(parts: Parts, admin: Admin, name: str = "host1", pods: Pods | None = None) -> AsyncIterator[Agent]:
    """Run an agent that joins with a token, until its socket is open."""
    token = parse_token((await admin.create_token(name)).text)
    folder = Path(tempfile.mkdtemp(prefix="mcag", dir="/tmp"))
    try:
        place = Place(folder)
        place.inner.parent.mkdir(parents=True)
        async with running(Options(address(parts), place, ByJoinToken(lambda: token), pods)) as (found, tasks):
            opened = asyncio.create_task(found.ready.wait())
            await asyncio.wait({opened, *tasks}, return_when=asyncio.FIRST_COMPLETED, timeout=20)
            for task in tasks:
                assert not task.done(), task.exception()
            assert found.ready.is_set()
            yield found
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@asynccontextmanager
async def shop_behind_an_agent(pods: Pods | None = None) -> AsyncIterator[tuple[Parts, Admin, Agent]]:
    """Lend a server with the shop applied, and an agent that nobody is behind yet."""
    with temporary_home() as home:
        async with server(home) as (parts, admin):
            await admin.apply(shop())
            async with agent(parts, admin, pods=pods) as found:
                yield parts, admin, found


async def eventually(holds: object, seconds: float = 5) -> None:
    """Wait until ``holds()`` is truthy."""
    end = asyncio.get_running_loop().time() + seconds
    while not holds():  # type: ignore[operator]
        assert asyncio.get_running_loop().time() < end, "it did not come about"
        await asyncio.sleep(0.01)
