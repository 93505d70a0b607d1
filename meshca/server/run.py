"""Running a server: what is started in which order, and how it ends.

Rules kept here:
- Everything that can fail by configuration fails before anything listens.
- One process, one event loop; whatever blocks runs in a bounded pool of threads.
- SIGTERM and SIGINT drain: streams are told to go, what is being issued is finished, the audit log gets its checkpoint,
  and only then do the sockets go.
"""

from __future__ import annotations

import asyncio
import os
import random
import resource
import signal
import socket
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import structlog

from meshca.attest.gate import Gate, Room
from meshca.attest.pods import Pods
from meshca.attest.process import Process
from meshca.attest.selectors import Reader
from meshca.client.target import unix_target
from meshca.delivery.callers import Read
from meshca.delivery.desk import Desk, Services
from meshca.errors import MeshcaError, RefusedError, UnavailableError
from meshca.hardening import no_core_dumps
from meshca.server.config import Config
from meshca.server.door import LocalDoor
from meshca.server.federating import bundle_endpoint, shown_to_federated
from meshca.server.federator import Federator
from meshca.server.hearing import Ears, Hearing
from meshca.server.home import ADMIN_SOCKET_MODE, MESH_SOCKET_MODE, Home
from meshca.server.house import House, Secret, open_house
from meshca.server.http import HttpServer, listen
from meshca.server.hub import AgentHub
from meshca.server.issuance import Issuance
from meshca.server.journal import StoreJournal
from meshca.server.leading import Leadership
from meshca.server.metrics import Metrics
from meshca.server.own import OwnSvid
from meshca.server.parts import Condition, Parts
from meshca.server.proving import methods
from meshca.server.publication import Publication
from meshca.server.rotations import Rotations
from meshca.server.schedule import Schedule
from meshca.server.serving import admin_server, mesh_server, tcp_server
from meshca.server.state import State, first_snapshot, remember_rejections
from meshca.server.tcp import tcp_side
from meshca.server.tokens import TokenIssuance
from meshca.server.warnings import warnings_of
from meshca.spiffe.id import SpiffeId
from meshca.store.changes import ChangeLog
from meshca.xds.registry import StreamTable

_log = structlog.get_logger(__name__)

_THREADS = 8
_GRACE = 5.0
_ENOUGH_DESCRIPTORS = 1 << 20


def serve(
    home: Home,
    config: Config,
    passphrase: Secret,
    ready: Callable[[Parts], None] = lambda _: None,
    pods: Pods | None = None,
) -> None:
    """Run a server until SIGTERM or SIGINT; ``ready`` is called once it answers.

    Raises:
        MeshcaError: It cannot start.
    """
    no_core_dumps()
    home.require_initialised()
    home.require_short_sockets()
    lock = home.lock()
    try:
        home.secure()
        asyncio.run(_serve(running(home, config, passphrase, pods), ready))
    finally:
        lock.release()


async def _serve(server: AbstractAsyncContextManager[Parts], ready: Callable[[Parts], None]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with server as parts:
        ready(parts)
        await stop.wait()


@asynccontextmanager
async def running(home: Home, config: Config, passphrase: Secret, pods: Pods | None = None) -> AsyncIterator[Parts]:
    """Run a server for the length of an ``async with``; whoever calls holds the home's lock."""
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(_THREADS, thread_name_prefix="meshca"))
    async with AsyncExitStack() as closing:
        house = await asyncio.to_thread(open_house, home, config, passphrase)
        closing.callback(house.close)
        bound, tcp = listen(config.http), listen(config.grpc, "grpc")
        federation = listen(config.federation, "federation") if config.federation is not None else None
        if federation is not None:
            closing.callback(federation.close)
        closing.callback(bound.close)
        closing.callback(tcp.close)
        await asyncio.to_thread(house.clock_watch.tick)
        await asyncio.to_thread(house.authority.start)
        heard = await asyncio.to_thread(ChangeLog(house.store).newest)
        parts, gates = await _assemble(house, tcp, closing, Reader(pods=pods).selectors)
        web = HttpServer(parts, bound)
        web.start()
        closing.push_async_callback(web.stop)
        parts.condition.http = str(web.address)
        await _join_others(parts, heard, closing)
        schedule = Schedule(parts)
        schedule.start()
        closing.callback(schedule.stop)
        for gate in gates:
            await gate.start()
        parts.tcp.start()
        if parts.endpoint is not None and federation is not None:
            parts.endpoint.start(federation)
            parts.condition.federation = str(parts.endpoint.address)
        parts.condition.grpc = str(parts.tcp.address)
        parts.condition.state = "ready"
        condition = parts.condition
        _log.info("ready", home=str(home.path), http=condition.http, grpc=condition.grpc, socket=str(home.mesh_socket))
        for warning in parts.warnings():
            _log.warning("warning", text=warning)
        yield parts
        parts.condition.state = "draining"
        _log.info("draining")


async def _assemble(
    house: House, listener: socket.socket, closing: AsyncExitStack, read: Read
) -> tuple[Parts, tuple[Gate, Gate]]:
    """Put the parts together; the gates are made, but not yet open."""
    home, metrics = house.home, Metrics()
    journal = StoreJournal(house.store, house.clock, metrics)
    issuance = Issuance(house.authority, house.clock, metrics)
    mesh_gate = Gate(home.mesh_socket, home.mesh_inner, mode=MESH_SOCKET_MODE)
    mesh_gate.room = Room.within(_all_descriptors())
    mesh_gate.on_foreign = lambda process, error: journal.refused(
        f"uid:{process.uid}", "attest", home.mesh_socket.name, str(error)
    )
    admin_gate = Gate(home.admin_socket, home.admin_inner, _owner_only(home, journal), mode=ADMIN_SOCKET_MODE)
    chance = random.SystemRandom().random
    snapshot = await asyncio.to_thread(first_snapshot, house)
    tokens = TokenIssuance(house.authority, metrics)
    closing.callback(tokens.close)
    services = Services(issuance, mesh_gate, journal, house.clock, chance, read, tokens, journal.jwt_in_force)
    desk = Desk(services, snapshot)
    await asyncio.to_thread(remember_rejections, house, desk)
    state = State(house, desk, metrics)
    tcp = tcp_side(house, issuance, journal, listener)
    state.watch_revoked(tcp.revoked)
    endpoint = bundle_endpoint(house, state, OwnSvid(house, issuance, journal, shown_to_federated(house)))
    if endpoint is not None:
        state.watch_revoked(endpoint.revoked)
        closing.push_async_callback(endpoint.close)
    rotations = Rotations(house.authority, journal)
    closing.push_async_callback(rotations.close)
    streams = StreamTable(house.clock.now)
    federator = Federator(house, state.federated, chance)
    parts = Parts(
        house=house,
        state=state,
        desk=desk,
        issuance=issuance,
        publication=Publication(house.authority),
        rotations=rotations,
        journal=journal,
        metrics=metrics,
        streams=streams,
        condition=Condition(),
        tcp=tcp,
        agents=AgentHub(),
        leading=Leadership(house.store, house.clock, lambda: not house.keys.absent),
        federator=federator,
        endpoint=endpoint,
        warnings=lambda: warnings_of(house, state.snapshot, streams.rows(), federator.known),
    )
    offered = methods(house.config.attestors, house.authority.realm.trust_domain, house.clock)
    mesh, admin, remote = mesh_server(parts), admin_server(parts, LocalDoor(admin_gate)), tcp_server(parts, offered)
    closing.push_async_callback(_drain, parts, (mesh, admin, remote), (mesh_gate, admin_gate))
    for server, path in ((mesh, home.mesh_inner), (admin, home.admin_inner), (remote, tcp.inner)):
        _bind(server, path)
        await server.start()
    return parts, (mesh_gate, admin_gate)


async def _join_others(parts: Parts, heard: int, closing: AsyncExitStack) -> None:
    """Hear what other replicas change, and lead them if nobody does."""
    loop = asyncio.get_running_loop()

    def rotate(spiffe_id: SpiffeId) -> None:
        loop.call_soon_threadsafe(parts.rotate_leaf, spiffe_id)

    def reject(node: str, type_url: str, digest: str) -> None:
        loop.call_soon_threadsafe(parts.desk.rejections.add, node, type_url, [digest])

    hearing = Hearing(Ears(parts.house, parts.state, rotate, reject), heard)
    hearing.start()
    closing.push_async_callback(asyncio.to_thread, hearing.stop)
    try:
        await asyncio.to_thread(parts.leading.tick)
    except MeshcaError as error:
        _log.warning("no leader yet", reason=str(error))


def _bind(server: Any, path: Path) -> None:
    path.unlink(missing_ok=True)
    try:
        server.add_insecure_port(unix_target(path))
    except RuntimeError as error:
        raise UnavailableError(f"cannot listen on {path}") from error


def _all_descriptors() -> int:
    """Raise the limit of file descriptors as far as this process may, and return it."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most if most != resource.RLIM_INFINITY else _ENOUGH_DESCRIPTORS


def _owner_only(home: Home, journal: StoreJournal) -> Callable[[Process], None]:
    """Return a check that lets in the home's owner and root: a wider mode of the socket must not be enough."""
    allowed = {0, home.path.stat().st_uid}

    def check(process: Process) -> None:
        if process.uid not in allowed:
            reason = "admin.sock serves the home's owner and root only"
            journal.refused(f"uid:{process.uid}", "admin", str(home.admin_socket), reason)
            raise RefusedError(reason, value=f"uid {process.uid}")

    return check


async def _drain(parts: Parts, servers: tuple[Any, ...], gates: tuple[Gate, Gate]) -> None:
    """End what runs, in an order in which nothing is lost."""
    parts.condition.state = "draining"
    parts.desk.drain()
    parts.state.tell()
    await asyncio.gather(*(server.stop(_GRACE) for server in servers))
    await parts.desk.leaves.close()
    await parts.issuance.close()
    for gate in (*gates, parts.tcp.gate):
        gate.close()
    parts.journal.flush()
    try:
        await asyncio.to_thread(parts.leading.release)
        await asyncio.to_thread(parts.house.audit.checkpoint, parts.house.clock.now())
    except MeshcaError as error:
        _log.error("no audit checkpoint at the end, or the lease was not given back", reason=str(error))
    _log.info("stopped", pid=os.getpid())
