"""Running an agent: what is started in which order, and how it ends.

Rules kept here:
- No core dump, no debugger of the same user, before there is a key.
- The local socket opens once the server has said what this agent may hold; until then there is nothing to serve.
- When the server goes, that is said, and until when what is in memory lasts; so is its return.
"""

from __future__ import annotations

import asyncio
import os
import random
import resource
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc.aio
import structlog

from meshca.agent.desk import AgentDesk, Services
from meshca.agent.files import FileDesk
from meshca.agent.identity import Address, Method, Own, OwnIdentity
from meshca.agent.issuing import AgentIssuing, AgentTokens
from meshca.agent.journal import AgentJournal
from meshca.agent.place import Place
from meshca.attest.gate import Gate, Room
from meshca.attest.pods import Pods
from meshca.attest.selectors import Reader
from meshca.client.agent import AgentApi, Holdings
from meshca.client.delta import DeltaStream
from meshca.client.target import unix_target
from meshca.client.tunnel import Tunnel
from meshca.delivery import workload_api
from meshca.errors import MeshcaError, UnavailableError
from meshca.hardening import no_core_dumps
from meshca.xds.registry import StreamTable
from meshca.xds.service import SERVER_OPTIONS, handlers

_log = structlog.get_logger(__name__)

_SOCKET_MODE = 0o666  # attestation is the gate
_GRACE = 2.0
_TICK = 1.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 1.0
_ENOUGH_DESCRIPTORS = 1 << 20


@dataclass(frozen=True, slots=True)
class Options:
    """What an agent is started with."""

    server: Address
    place: Place
    method: Method
    pods: Pods | None = None


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        """Return the time, aware, in UTC."""
        return datetime.now(UTC)


@dataclass(slots=True)
class Agent:
    """A running agent."""

    desk: AgentDesk
    api: AgentApi
    identity: OwnIdentity
    journal: AgentJournal
    tunnel: Tunnel
    files: FileDesk
    socket: Path
    ready: asyncio.Event
    server_answers: bool = False


def run_agent(options: Options, ready: Callable[[Agent], None] = lambda _: None) -> None:
    """Run an agent until SIGTERM or SIGINT; ``ready`` is called once its socket is open.

    Raises:
        MeshcaError: It cannot start, or its first attestation is refused.
    """
    no_core_dumps()
    lock = options.place.take()
    try:
        asyncio.run(_run(options, ready))
    finally:
        os.close(lock)


async def _run(options: Options, ready: Callable[[Agent], None]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with running(options) as (agent, tasks):
        waiting = asyncio.create_task(stop.wait())
        opened = asyncio.create_task(agent.ready.wait())
        either: set[asyncio.Task[Any]] = {waiting, opened, *tasks}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if agent.ready.is_set():
            ready(agent)
            await asyncio.wait(either - {opened}, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            if task.done():
                task.result()
        waiting.cancel()
        opened.cancel()


@asynccontextmanager
async def running(options: Options) -> AsyncIterator[tuple[Agent, tuple[asyncio.Task[None], ...]]]:
    """Run an agent for the length of an ``async with``; lends it, and the tasks that end when it can't go on."""
    async with AsyncExitStack() as closing:
        clock = SystemClock()
        identity = OwnIdentity(options.server, options.method, clock)
        tunnel = Tunnel(options.server, identity.meeting)
        closing.push_async_callback(tunnel.close)
        await tunnel.start()
        api = AgentApi(tunnel)
        closing.push_async_callback(api.close)
        journal = AgentJournal(api.acknowledge, api.report)
        gate = Gate(options.place.socket, options.place.inner, mode=_SOCKET_MODE)
        gate.room = Room.within(_all_descriptors())
        gate.on_foreign = lambda process, error: journal.refused(
            f"uid:{process.uid}", "attest", options.place.socket.name, str(error)
        )
        issuing = AgentIssuing(api.sign, lambda: next(iter(desk.holdings.key_types), "ec-p256"))
        closing.push_async_callback(issuing.close)

        def open_stream(node_id: str, metadata: Mapping[str, object]) -> DeltaStream:
            return DeltaStream(api.channel, node_id, metadata, api.error)

        chance = random.SystemRandom().random
        read = Reader(pods=options.pods).selectors
        desk = AgentDesk(Services(issuing, gate, journal, clock, chance, open_stream, AgentTokens(api.token), read))
        files = FileDesk(api.sign, journal)
        agent = Agent(desk, api, identity, journal, tunnel, files, options.place.socket, asyncio.Event())

        def changed(own: Own) -> None:
            tunnel.reset()  # what was met with the old certificate would end with it
            journal.own(own.spiffe_id, own.serial, 0)

        identity.changed = changed
        closing.push_async_callback(_close, agent, gate)
        works = (identity.run(), _watch(agent, gate, options.place), journal.run(), _ticks(desk))
        tasks = tuple(asyncio.create_task(work) for work in works)
        closing.push_async_callback(_cancel, tasks)
        yield agent, tasks


async def _watch(agent: Agent, gate: Gate, place: Place) -> None:
    """Follow what the server says, whether it is there or not."""
    pause, failed = _FIRST_PAUSE, 0
    while True:
        try:
            async for holdings in agent.api.watch():
                pause, failed = _FIRST_PAUSE, 0
                await _apply(agent, holdings, gate, place)
        except MeshcaError as error:
            failed += 1
            if failed > 1:  # a connection is ended as well when this agent has a new certificate
                _note_gone(agent, error)
        await asyncio.sleep(pause)
        pause = min(pause * 2, _LONGEST_PAUSE)


async def _apply(agent: Agent, holdings: Holdings, gate: Gate, place: Place) -> None:
    if not agent.server_answers:
        agent.server_answers = True
        _log.info("the server answers", holdings=len(holdings.holdings), trust_generation=holdings.generation)
    agent.identity.trust(holdings.bundle)
    agent.desk.apply(holdings)
    agent.files.apply(holdings)
    agent.journal.own(agent.identity.own.spiffe_id, "", holdings.generation)
    if not agent.ready.is_set():
        await _open(agent.desk, gate, place)
        agent.ready.set()
        _log.info("ready", socket=str(place.socket), agent=str(agent.identity.own.spiffe_id))


async def _open(desk: AgentDesk, gate: Gate, place: Place) -> None:
    place.inner.unlink(missing_ok=True)
    server = grpc.aio.server(options=SERVER_OPTIONS)
    table = StreamTable(desk.clock.now)
    server.add_generic_rpc_handlers((*handlers(desk, table), workload_api.handlers(desk.workloads)))
    try:
        server.add_insecure_port(unix_target(place.inner))
    except RuntimeError as error:
        raise UnavailableError(f"cannot listen on {place.inner}") from error
    await server.start()
    desk.on_close(lambda: server.stop(_GRACE))
    await gate.start()


def _note_gone(agent: Agent, error: MeshcaError) -> None:
    if agent.server_answers:
        agent.server_answers = False
        until = agent.desk.lasts_until()
        lasts = until.isoformat(timespec="seconds") if until else "nothing was given out yet"
        _log.warning("the server does not answer; serving from memory", reason=str(error), until=lasts)


async def _ticks(desk: AgentDesk) -> None:
    while True:
        await asyncio.sleep(_TICK)
        await desk.tick()


async def _close(agent: Agent, gate: Gate) -> None:
    agent.files.close()
    agent.desk.drain()
    gate.close()
    await agent.desk.close()


async def _cancel(tasks: tuple[asyncio.Task[Any], ...]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _all_descriptors() -> int:
    """Raise the limit of file descriptors as far as this process may, and return it."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most if most != resource.RLIM_INFINITY else _ENOUGH_DESCRIPTORS
