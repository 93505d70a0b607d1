"""Those who would have from a running agent, or as one, what is not theirs: refused, and the server's audit says so."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import select
import shutil
import socket
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from fakes.agent_world import eventually, shop_behind_an_agent
from fakes.server_world import BACK, BACK_ID, FRONT, FRONT_ID, Admin, EndedError, Envoy, server, shop, temporary_home
from fakes.tcp_callers import address, identity_of
from unit.attest.processes import PYTHON, as_root, program

from meshca.agent.identity import ByJoinToken
from meshca.agent.run import Agent
from meshca.attest.join import parse_token
from meshca.attest.process import Process, attest
from meshca.attest.tcp import TcpGate, server_context
from meshca.client.tunnel import Identity
from meshca.errors import MeshcaError, UnauthenticatedError
from meshca.v1 import agent_pb2 as pb
from meshca.v1 import agent_pb2_grpc

HERE = f"unix:uid:{os.getuid()}"
NOBODY = 65534
REFUSED = {grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNAVAILABLE}

# Takes an Envoy's connection as descriptor 3, connects, does its worst, and then passes on what the Envoy says.
GO_BETWEEN = """
import os, select, socket, sys
def relay(a, b):
    while True:
        for one in select.select([a, b], [], [])[0]:
            data = one.recv(65536)
            if not data: sys.exit()
            (b if one is a else a).sendall(data)
order, path, trusted = sys.argv[1:4]
envoy = socket.socket(fileno=3)
if order == "relay":
    relay(envoy, socket.socket(fileno=4))
s = socket.socket(socket.AF_UNIX)
s.connect(path)
os.dup2(s.fileno(), 4)
for each in (3, 4): os.set_inheritable(each, True)
again = [trusted, "-I", "-S", "-c", sys.stdin.read(), "relay", path, trusted]
if order == "exec": os.execv(trusted, again)
if order == "fork" and os.fork(): os.wait(); sys.exit()
if order == "fork-exec" and os.fork() == 0: os.execv(trusted, again)
if order == "fork-exec": os.wait(); sys.exit()
if order == "setuid": os.setgroups([]); os.setgid(65534); os.setuid(65534)
relay(envoy, s)
"""


async def audited(admin: Admin, *expected: tuple[str, str]) -> list[Any]:
    """Wait until the audit log has refusals of these actions and subjects, and return all refusals."""
    for _ in range(200):
        found = [r for r in await admin.audit_tail(200) if r.outcome == "refused"]
        if {(r.action, r.subject) for r in found} >= set(expected):
            return found
        await asyncio.sleep(0.05)
    raise AssertionError([(r.actor, r.action, r.subject, r.reason) for r in found])


@pytest.fixture
def folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="mcat", dir="/tmp"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@asynccontextmanager
async def envoy_behind(host: Agent, folder: Path, order: str, starts: Path, trusted: Path) -> AsyncIterator[Envoy]:
    """Lend an Envoy whose connection to the agent goes through a process that obeys an order."""
    door = folder / f"{os.urandom(4).hex()}.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fspath(door))
        listener.listen()
        listener.setblocking(False)
        async with Envoy(door, FRONT) as envoy:
            asking = asyncio.create_task(envoy.ask("default"))
            connection, _ = await asyncio.wait_for(asyncio.get_running_loop().sock_accept(listener), 10)
            with connection:
                child = await asyncio.create_subprocess_exec(
                    *(starts, "-I", "-S", "-c", f"import os; os.dup2({connection.fileno()}, 3)\n{GO_BETWEEN}"),
                    *(order, host.socket, trusted),
                    stdin=asyncio.subprocess.PIPE,
                    pass_fds=[connection.fileno()],
                )
            assert child.stdin is not None
            child.stdin.write(GO_BETWEEN.encode())
            child.stdin.close()
            try:
                with contextlib.suppress(grpc.aio.AioRpcError):  # reading says it as well
                    await asking
                yield envoy
            finally:
                with contextlib.suppress(ProcessLookupError):
                    child.kill()
                await child.wait()


async def asked(envoy: Envoy, *names: str) -> None:
    """Ask; a stream that is refused at once says so to who reads."""
    with contextlib.suppress(grpc.aio.AioRpcError):
        await envoy.ask(*names)


@contextmanager
def seen_as(monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]) -> Iterator[None]:
    """Let the gate take its callers for processes that differ in this."""

    def changed(connection: socket.socket) -> tuple[Process, int]:
        process, pidfd = attest(connection)
        return dataclasses.replace(process, **change), pidfd

    with monkeypatch.context() as patch:
        patch.setattr("meshca.attest.gate.attest", changed)
        yield


# ---- at the gate


async def test_only_the_program_that_connected_as_the_trusted_one_is_the_trusted_one(folder: Path) -> None:
    trusted = program(folder / "trusted")
    async with shop_behind_an_agent() as (_, admin, host):
        await admin.register("front", [HERE, f"unix:path:{trusted}"], parent="host1")
        await eventually(lambda: host.desk.rights.registrations)
        async with envoy_behind(host, folder, "stay", trusted, trusted) as envoy:
            assert "default" in await envoy.secrets()
        for order in ("stay", "exec", "fork-exec"):
            async with envoy_behind(host, folder, order, PYTHON, trusted) as envoy:
                ended = await envoy.until_ended()
            assert ended.code in REFUSED, (order, ended)
        found = await audited(admin, ("attest", FRONT), ("attest", "meshca.sock"))
        assert {r.actor for r in found} == {f"agent:host1 uid:{os.getuid()}"}


async def test_a_socket_inherited_by_a_child_ends_with_the_childs_first_byte(folder: Path) -> None:
    async with shop_behind_an_agent() as (_, admin, host):
        await admin.register("front", [HERE], parent="host1")
        await eventually(lambda: host.desk.rights.registrations)
        async with envoy_behind(host, folder, "stay", PYTHON, PYTHON) as envoy:
            assert "default" in await envoy.secrets()
        async with envoy_behind(host, folder, "fork", PYTHON, PYTHON) as envoy:
            with pytest.raises(EndedError):
                await envoy.secrets()
        (refused,) = await audited(admin, ("attest", "meshca.sock"))
        assert "connected, and process" in refused.reason
        assert refused.actor == f"agent:host1 uid:{os.getuid()}"


@as_root
async def test_who_connected_as_one_user_and_became_another_is_neither(folder: Path) -> None:
    async with shop_behind_an_agent() as (_, admin, host):
        for uid in (os.getuid(), NOBODY):
            await admin.register("front", [f"unix:uid:{uid}"], parent="host1")
        await eventually(lambda: len(host.desk.rights.registrations) == 2)
        async with envoy_behind(host, folder, "setuid", PYTHON, PYTHON) as envoy:
            with pytest.raises(EndedError):
                await envoy.secrets()
        await audited(admin, ("attest", FRONT))


async def test_a_number_that_is_another_processs_by_now_gets_no_key(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shop_behind_an_agent() as (_, admin, host):
        await admin.register("front", [HERE], parent="host1")
        await eventually(lambda: host.desk.rights.registrations)
        with seen_as(monkeypatch, {"start_time": 1}):
            async with Envoy(host.socket, FRONT) as envoy:
                await asked(envoy, "default")
                ended = await envoy.until_ended()
            assert ended.code in REFUSED, ended
        (refused,) = await audited(admin, ("attest", FRONT))
        assert "is not the one that connected" in refused.reason
        async with envoy_behind(host, folder, "stay", PYTHON, PYTHON) as envoy:
            assert "default" in await envoy.secrets()


IMPOSTOR = """
import os, socket, sys
name, inner, uid = sys.argv[1:4]
os.setgroups([]); os.setgid(int(uid)); os.setuid(int(uid))
s = socket.socket(socket.AF_UNIX)
try:
    s.bind(chr(0) + name)
    print("bound", flush=True)
    s.connect(inner)
    print("connected", flush=True)
except OSError as error:
    print(type(error).__name__, error.errno, flush=True)
"""


@as_root
async def test_a_name_that_is_bound_again_is_nobodys(folder: Path) -> None:
    async with shop_behind_an_agent() as (_, admin, host):
        await admin.register("front", [HERE], parent="host1")
        await eventually(lambda: host.desk.rights.registrations)
        inner = host.socket.parent / "inner" / "mesh.sock"

        def names() -> set[str]:
            found: Any = host.desk._attestor
            return set(found._onward.callers)

        async def impostor(name: str, uid: int) -> str:
            child = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", "-c", IMPOSTOR, name, inner, str(uid)), stdout=asyncio.subprocess.PIPE
            )
            out, _ = await asyncio.wait_for(child.communicate(), 20)
            return out.decode()

        async with envoy_behind(host, folder, "stay", PYTHON, PYTHON) as envoy:
            await envoy.secrets()
            (name,) = names()
            assert await impostor(name, NOBODY) == "OSError 98\n"  # taken while its bearer lives
        await eventually(lambda: f"@{name}\n" not in Path("/proc/net/unix").read_text())
        assert names() == set()
        # Free again, and of no use: others don't reach the inner socket, and whoever does is nobody under that name.
        assert await impostor(name, NOBODY) == "bound\nPermissionError 13\n"
        stranger = socket.socket(socket.AF_UNIX)
        stranger.bind(b"\0" + name.encode())
        stranger.connect(os.fspath(inner))
        with _through(stranger, folder) as door:
            async with Envoy(door, FRONT) as envoy:
                await asked(envoy, "default")
                ended = await envoy.until_ended()
        assert ended.code is grpc.StatusCode.UNAUTHENTICATED
        (refused,) = await audited(admin, ("attest", FRONT))
        assert refused.actor == "agent:host1 nobody"


@contextmanager
def _through(onward: socket.socket, folder: Path) -> Iterator[Path]:
    """Lend a socket whose one connection goes on through this one."""

    def pass_on(listener: socket.socket) -> None:
        with contextlib.suppress(OSError), listener.accept()[0] as near:
            while True:
                for one in select.select([near, onward], [], [])[0]:
                    if not (data := one.recv(65536)):
                        return
                    (onward if one is near else near).sendall(data)

    with onward, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fspath(folder / "through.sock"))
        listener.listen()
        thread = threading.Thread(target=pass_on, args=(listener,))
        thread.start()
        yield folder / "through.sock"
        onward.shutdown(socket.SHUT_RDWR)
        thread.join(10)


# ---- between agent and server


class InTheMiddle:
    """Shows the real roots of a server to whoever asks, and waits for somebody to bring a token."""

    def __init__(self, trust_domain: str, roots: list[bytes]) -> None:
        self.asked: list[str] = []
        self.brought: list[Any] = []
        self._reply = pb.ShowTrustReply(trust_domain=trust_domain, roots=roots)

    async def ShowTrust(self, _: Any, __: Any) -> Any:  # noqa: N802 - the name of the call
        self.asked.append("ShowTrust")
        return self._reply

    async def Attest(self, request: Any, _: Any) -> Any:  # noqa: N802 - the name of the call
        self.brought.append(request)
        return pb.AgentCertificate()

    def __getattr__(self, _: str) -> None:
        return None


@asynccontextmanager
async def in_the_middle(identity: Identity, roots_pem: bytes, victim: InTheMiddle) -> AsyncIterator[tuple[str, int]]:
    """Listen with a certificate, as a server of meshca does."""
    folder = Path(tempfile.mkdtemp(prefix="mcim", dir="/tmp"))

    async def context() -> Any:
        return server_context(identity.chain_pem, identity.key_pem, roots_pem)

    serving = grpc.aio.server()
    agent_pb2_grpc.add_AgentServicer_to_server(victim, serving)
    serving.add_insecure_port(f"unix:{folder}/s")
    await serving.start()
    gate, listener = TcpGate(folder / "s", context), socket.create_server(("127.0.0.1", 0))
    where = listener.getsockname()[:2]
    gate.start(listener)
    try:
        yield where
    finally:
        gate.close()
        for _ in range(5):  # until transports that were aborted are closed
            await asyncio.sleep(0)
        await serving.stop(0)
        shutil.rmtree(folder)


async def test_in_the_middle_nobody_is_brought_a_token() -> None:
    with temporary_home() as home, temporary_home() as other:
        async with server(home) as (parts, admin), server(other) as (elsewhere, _):
            await admin.apply(shop())
            snapshot = parts.state.snapshot
            roots, bundle = [root.certificate for root in snapshot.trust.roots], snapshot.trust.bundle_pem
            foreign = await identity_of(elsewhere, "spiffe://shop.test/meshca/server/server", "server")
            workload = await identity_of(parts, FRONT_ID, "file")
            token = parse_token((await admin.create_token("host1")).text)
            for identity, words in ((foreign, "not trusted"), (workload, r"not a server of shop\.test")):
                victim = InTheMiddle("shop.test", roots)
                async with in_the_middle(identity, bundle, victim) as where:
                    with pytest.raises(UnauthenticatedError, match=words):
                        await ByJoinToken(lambda: token).attest(where)
                # It could show the roots, to be compared; it heard nothing else.
                assert (victim.asked, victim.brought) == (["ShowTrust"], [])
            # The token is as good as it was.
            own = await ByJoinToken(lambda: token).attest(address(parts))
            assert str(own.spiffe_id) == "spiffe://shop.test/meshca/agent/host1"
            assert [r for r in await admin.audit_tail(100) if r.outcome == "refused"] == []


async def test_a_token_that_was_seen_lets_nobody_else_in_beside_the_agent_that_runs() -> None:
    async with shop_behind_an_agent() as (parts, admin, host):
        token = parse_token((await admin.create_token("host2")).text)
        await ByJoinToken(lambda: token).attest(address(parts))
        with pytest.raises(MeshcaError, match="used already"):
            await ByJoinToken(lambda: token).attest(address(parts))
        found = await audited(admin, ("attest", "join_token"))
        assert found[0].actor in {"agent:host2", "tcp:127.0.0.1"}
        assert host.server_answers


async def test_a_running_agent_that_asks_for_what_is_anothers_gets_nothing() -> None:
    async with shop_behind_an_agent() as (_, admin, host):
        await admin.register("back", [HERE], parent="host2")
        await admin.register("front", [HERE], parent="host1")
        await eventually(lambda: host.desk.rights.registrations)
        # Turned against us: it tells itself that it is back's parent as well.
        holdings = host.desk.holdings
        stolen = dataclasses.replace(holdings.holdings[0], spiffe_id=BACK_ID, node_id=BACK)
        host.desk.apply(dataclasses.replace(holdings, holdings=(*holdings.holdings, stolen)))
        async with Envoy(host.socket, BACK) as envoy:
            await asked(envoy, "default")
            with pytest.raises(EndedError):
                await envoy.secrets()
        with pytest.raises(MeshcaError):
            await host.api.token(BACK_ID, ["somebody"])
        found = await audited(admin, ("issue", BACK_ID))
        assert {r.actor for r in found if r.action == "issue"} == {"agent:host1"}
        assert not [r for r in await admin.certificates() if r.spiffe_id == BACK_ID]
