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
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc.aio
import structlog

from meshca.attest.gate import Gate, Room
from meshca.attest.process import Process
from meshca.client.target import unix_target
from meshca.delivery import workload_api
from meshca.delivery.desk import Desk, Services
from meshca.errors import MeshcaError, RefusedError, UnavailableError
from meshca.server.config import Config
from meshca.server.home import ADMIN_SOCKET_MODE, MESH_SOCKET_MODE, Home
from meshca.server.house import House, Secret, open_house
from meshca.server.http import HttpServer, listen
from meshca.server.issuance import Issuance
from meshca.server.journal import StoreJournal
from meshca.server.metrics import Metrics
from meshca.server.parts import Condition, Parts
from meshca.server.publication import Publication
from meshca.server.rotations import Rotations
from meshca.server.schedule import Schedule
from meshca.server.services.audits import AuditService
from meshca.server.services.backups import BackupService
from meshca.server.services.calls import servicer
from meshca.server.services.certificates import CertificateService
from meshca.server.services.endpoints import EndpointService
from meshca.server.services.envoys import EnvoyService
from meshca.server.services.meshes import MeshService
from meshca.server.services.registrations import RegistrationService
from meshca.server.services.trust import TrustService
from meshca.server.state import State, first_snapshot, remember_rejections
from meshca.server.tokens import TokenIssuance
from meshca.server.warnings import warnings_of
from meshca.v1 import admin_pb2_grpc
from meshca.xds.registry import StreamTable
from meshca.xds.service import SERVER_OPTIONS, handlers

_log = structlog.get_logger(__name__)

_THREADS = 8
_GRACE = 5.0
_ENOUGH_DESCRIPTORS = 1 << 20
_ADMIN_OPTIONS = (("grpc.max_receive_message_length", 64 << 20), ("grpc.max_send_message_length", 256 << 20))


def serve(home: Home, config: Config, passphrase: Secret, ready: Callable[[Parts], None] = lambda _: None) -> None:
    """Run a server until SIGTERM or SIGINT; ``ready`` is called once it answers.

    Raises:
        MeshcaError: It cannot start.
    """
    home.require_initialised()
    home.require_short_sockets()
    lock = home.lock()
    try:
        home.secure()
        asyncio.run(_serve(home, config, passphrase, ready))
    finally:
        lock.release()


async def _serve(home: Home, config: Config, passphrase: Secret, ready: Callable[[Parts], None]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with running(home, config, passphrase) as parts:
        ready(parts)
        await stop.wait()


@asynccontextmanager
async def running(home: Home, config: Config, passphrase: Secret) -> AsyncIterator[Parts]:
    """Run a server for the length of an ``async with``; whoever calls holds the home's lock."""
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(_THREADS, thread_name_prefix="meshca"))
    async with AsyncExitStack() as closing:
        house = await asyncio.to_thread(open_house, home, config, passphrase)
        closing.callback(house.close)
        bound = listen(config.http)
        closing.callback(bound.close)
        await asyncio.to_thread(house.clock_watch.tick)
        await asyncio.to_thread(house.authority.start)
        parts, gates = await _assemble(house, closing)
        web = HttpServer(parts, bound)
        web.start()
        closing.push_async_callback(web.stop)
        parts.condition.http = str(web.address)
        schedule = Schedule(parts)
        schedule.start()
        closing.callback(schedule.stop)
        for gate in gates:
            await gate.start()
        parts.condition.state = "ready"
        _log.info("ready", home=str(home.path), http=parts.condition.http, socket=str(home.mesh_socket))
        for warning in parts.warnings():
            _log.warning("warning", text=warning)
        yield parts
        parts.condition.state = "draining"
        _log.info("draining")


async def _assemble(house: House, closing: AsyncExitStack) -> tuple[Parts, tuple[Gate, Gate]]:
    """Put the parts together; the gates are made, but not yet open."""
    home, metrics = house.home, Metrics()
    journal = StoreJournal(house.store, house.clock, metrics)
    issuance = Issuance(house.authority, house.clock, metrics)
    mesh_gate = Gate(home.mesh_socket, home.mesh_inner, mode=MESH_SOCKET_MODE)
    mesh_gate.room = Room.within(_all_descriptors())
    admin_gate = Gate(home.admin_socket, home.admin_inner, _owner_only(home, journal), mode=ADMIN_SOCKET_MODE)
    chance = random.SystemRandom().random
    snapshot = await asyncio.to_thread(first_snapshot, house)
    tokens = TokenIssuance(house.authority, metrics)
    closing.callback(tokens.close)
    services = Services(issuance, mesh_gate, journal, house.clock, chance, tokens=tokens, followed=journal.jwt_in_force)
    desk = Desk(services, snapshot)
    await asyncio.to_thread(remember_rejections, house, desk)
    state = State(house, desk, metrics)
    rotations = Rotations(house.authority, journal)
    closing.push_async_callback(rotations.close)
    streams = StreamTable(house.clock.now)
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
        warnings=lambda: warnings_of(house, state.snapshot, streams.rows()),
    )
    mesh, admin = _mesh_server(parts), _admin_server(parts, admin_gate)
    closing.push_async_callback(_drain, parts, (mesh, admin), (mesh_gate, admin_gate))
    for server, path in ((mesh, home.mesh_inner), (admin, home.admin_inner)):
        _bind(server, path)
        await server.start()
    return parts, (mesh_gate, admin_gate)


def _mesh_server(parts: Parts) -> Any:
    server = grpc.aio.server(options=SERVER_OPTIONS)
    server.add_generic_rpc_handlers((*handlers(parts.desk, parts.streams), workload_api.handlers(parts.desk.workloads)))
    return server


def _admin_server(parts: Parts, gate: Gate) -> Any:
    trust, audits, backups = TrustService(parts), AuditService(parts), BackupService(parts)
    meshes = MeshService(parts)
    services = (
        meshes,
        EndpointService(parts),
        RegistrationService(parts),
        CertificateService(parts),
        EnvoyService(parts),
        audits,
        trust,
    )
    unary = {name: method for service in services for name, method in service.calls().items()}
    streams = {**meshes.streams(), **trust.streams(), **audits.streams(), **backups.streams()}
    server = grpc.aio.server(options=_ADMIN_OPTIONS)
    admin_pb2_grpc.add_AdminServicer_to_server(servicer(gate, unary, streams), server)
    return server


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


async def _drain(parts: Parts, servers: tuple[Any, Any], gates: tuple[Gate, Gate]) -> None:
    """End what runs, in an order in which nothing is lost."""
    parts.condition.state = "draining"
    parts.desk.drain()
    parts.state.tell()
    await asyncio.gather(*(server.stop(_GRACE) for server in servers))
    await parts.desk.leaves.close()
    await parts.issuance.close()
    for gate in gates:
        gate.close()
    parts.journal.flush()
    try:
        await asyncio.to_thread(parts.house.audit.checkpoint, parts.house.clock.now())
    except MeshcaError as error:
        _log.error("no audit checkpoint at the end", reason=str(error))
    _log.info("stopped", pid=os.getpid())
