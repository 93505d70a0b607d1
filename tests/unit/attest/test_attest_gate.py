"""The gate with real processes: who is who, and that nobody outlives, inherits or impersonates anybody."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import grpc
import grpc.aio
import pytest

from meshca.attest.gate import Gate, Room
from meshca.attest.listener import SocketInUseError, SocketPathError
from meshca.attest.process import Process
from meshca.errors import RefusedError

T = TypeVar("T")
NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else")

# What a child does: become another user, then follow its orders. Its last line tells how its connection ended.
CLIENT = """
import os, socket, sys
path, uid, order = sys.argv[1], int(sys.argv[2]), sys.argv[3]
if uid:
    os.setgroups([]); os.setgid(uid); os.setuid(uid)
s = socket.socket(socket.AF_UNIX)
if order.startswith("impostor:"):
    s.bind(chr(0) + order.removeprefix("impostor:"))
try:
    s.connect(path)
except OSError as error:
    print(type(error).__name__, flush=True); sys.exit()
s.sendall(b"hello")
if order == "fork" and os.fork():
    sys.stdin.read(1); os._exit(0)
if order.startswith("heir"):
    sys.stdin.readline()
    if not os.fork():
        s.sendall(b"as the heir"); os._exit(0)
    os.wait()
    if order == "heir-exec":
        os.execv("/bin/cat", ["cat"])
if order == "threads":
    import threading
    thread = threading.Thread(target=s.sendall, args=(b"by a thread",)); thread.start(); thread.join()
if order == "descriptors":
    socket.send_fds(s, [b"with descriptors"], list(range(3)) * 20)
print("connected", flush=True)
print("ended" if s.recv(1) == b"" else "data", flush=True)
"""


async def soon(work: Awaitable[T]) -> T:
    return await asyncio.wait_for(work, 20)


class Child:
    """A process on the other side, and what it prints."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.pid = process.pid

    async def line(self) -> str:
        assert self.process.stdout is not None
        return (await soon(self.process.stdout.readline())).decode().strip()

    def send(self, data: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(data)


class Served:
    """A connection as the server behind the gate sees it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.name = writer.get_extra_info("peername").decode().removeprefix("\0")
        self.peer = f"unix-abstract:{self.name}"

    async def ended(self) -> None:
        assert await soon(self.reader.read()) in {b"", b"hello"}


class Place:
    """A folder every user can reach, with an inner server in one nobody can."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.public = folder / "public.sock"
        (folder / "inner").mkdir(mode=0o700)
        self.inner = folder / "inner" / "s"
        self.connections: asyncio.Queue[Served] = asyncio.Queue()
        self._all: list[Served] = []
        self._children: list[asyncio.subprocess.Process] = []

    async def arrived(self) -> Served:
        return await soon(self.connections.get())

    async def spawn(self, path: Path, uid: int = 0, order: str = "stay") -> Child:
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", "-c", CLIENT, str(path), str(uid), order),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        self._children.append(child)
        return Child(child)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served = Served(reader, writer)
        self._all.append(served)
        self.connections.put_nowait(served)

    async def clear(self) -> None:
        for child in self._children:
            if child.returncode is None:
                child.kill()
            await soon(child.communicate())
        for served in self._all:
            served.writer.close()


@pytest.fixture
def folder() -> Iterator[Path]:
    # Not tmp_path: that is closed to other users.
    path = Path(tempfile.mkdtemp(prefix="meshca-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture
async def place(folder: Path) -> AsyncIterator[Place]:
    made = Place(folder)
    server = await asyncio.start_unix_server(made.serve, made.inner)
    yield made
    await made.clear()
    server.close()
    await server.wait_closed()


@asynccontextmanager
async def opened(place: Place, path: Path | None = None, **options: Any) -> AsyncIterator[Gate]:
    gate = Gate(path or place.public, place.inner, **{"mode": 0o666, **options})
    await gate.start()
    try:
        yield gate
    finally:
        gate.close()


# -- who is calling


@as_root
async def test_each_connection_has_the_process_that_made_it(place: Place) -> None:
    async with opened(place) as gate:
        mine = await place.spawn(place.public)
        first = gate.lookup((await place.arrived()).peer)
        other = await place.spawn(place.public, NOBODY)
        second = gate.lookup((await place.arrived()).peer)

    assert first is not None
    assert (first.pid, first.uid) == (mine.pid, 0)
    assert second is not None
    assert (second.pid, second.uid, second.gid) == (other.pid, NOBODY, NOBODY)


async def test_a_peer_that_came_no_such_way_is_nobody(place: Place) -> None:
    async with opened(place) as gate:
        _reader, writer = await asyncio.open_unix_connection(place.public)
        name = (await place.arrived()).name

        assert gate.lookup(f"unix-abstract:{name}") is not None
        for peer in ("", name, f"unix:{name}", "unix:", "unix-abstract:", f"unix-abstract:{name}0", "ipv4:127.0.0.1:1"):
            assert gate.lookup(peer) is None
        writer.close()


async def test_a_grpc_server_sees_the_name_the_gate_knows(place: Place) -> None:
    seen: list[Process | None] = []
    inner = place.inner.with_name("grpc")

    async def call(_request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        seen.append(gate.lookup(context.peer()))
        return b"answer"

    server = grpc.aio.server()
    method: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(call)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("s", {"m": method}),))
    server.add_insecure_port(f"unix:{inner}")
    await server.start()
    gate = Gate(place.public, inner)
    await gate.start()
    async with grpc.aio.insecure_channel(f"unix:{place.public}") as channel:
        ask: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/s/m")
        assert await ask(b"", timeout=20) == b"answer"
    gate.close()
    await server.stop(0)

    assert [process.pid if process else None for process in seen] == [os.getpid()]


async def test_whom_allow_refuses_never_reaches_the_server(place: Place) -> None:
    def nobody(_process: Process) -> None:
        raise RefusedError("not you")

    async with opened(place, allow=nobody) as gate:
        child = await place.spawn(place.public)

        assert await child.line() in {"connected", "BrokenPipeError", ""}
        assert await soon(child.process.wait()) is not None
        assert (gate.refused, len(gate)) == (1, 0)
    assert place.connections.empty()


# -- how it ends


async def test_a_killed_process_ends_its_connection_and_is_forgotten(place: Place) -> None:
    async with opened(place) as gate:
        child = await place.spawn(place.public)
        served = await place.arrived()
        assert await child.line() == "connected"
        os.kill(child.pid, signal.SIGKILL)

        await served.ended()
        await emptied(gate)  # the kernel closes a dying process's sockets a moment before its pidfd says so
        assert gate.lookup(served.peer) is None


async def test_who_inherits_a_socket_by_fork_inherits_no_identity(place: Place) -> None:
    async with opened(place) as gate:
        parent = await place.spawn(place.public, order="fork")
        served = await place.arrived()
        assert await parent.line() == "connected"
        process = gate.lookup(served.peer)
        assert process is not None
        assert process.pid == parent.pid
        parent.send(b"x")  # the parent exits, its child still holds the socket

        await served.ended()
        assert gate.lookup(served.peer) is None
        assert await parent.line() == "ended", "the heir's end is closed as well"


@pytest.mark.parametrize("order", ["heir", "heir-exec"])
async def test_what_an_heir_sends_reaches_nobody_and_ends_the_connection(
    place: Place, caplog: pytest.LogCaptureFixture, order: str
) -> None:
    told: list[tuple[int, str]] = []
    async with opened(place) as gate:
        gate.on_foreign = lambda process, error: told.append((process.pid, str(error)))
        parent = await place.spawn(place.public, order=order)
        served = await place.arrived()
        assert await soon(served.reader.readexactly(5)) == b"hello"
        parent.send(b"\n")  # the parent, which lives on, forks a child that sends

        assert await soon(served.reader.read()) == b""
        assert gate.lookup(served.peer) is None
        assert gate.refused == 1
        assert parent.process.returncode is None
    assert f"process {parent.pid} connected, and process " in caplog.text
    assert [pid for pid, text in told if f"process {parent.pid} connected" in text] == [parent.pid]


@as_root
async def test_a_connection_made_by_one_and_used_by_another_user_is_the_users_who_made_it_only(place: Place) -> None:
    async with opened(place) as gate:
        with socket.socket(socket.AF_UNIX) as caller:
            caller.connect(str(place.public))
            served = await place.arrived()
            program = f"import os,socket;os.setuid(65534);socket.socket(fileno={caller.fileno()}).send(b'x')"
            command = [sys.executable, "-I", "-S", "-c", program]
            child = await asyncio.create_subprocess_exec(*command, pass_fds=[caller.fileno()])
            assert await soon(served.reader.read()) == b""
            await soon(child.wait())
            assert gate.refused == 1


async def test_every_thread_of_a_process_is_that_process(place: Place) -> None:
    async with opened(place) as gate:
        await place.spawn(place.public, order="threads")
        served = await place.arrived()
        assert await soon(served.reader.readexactly(16)) == b"helloby a thread"
        assert gate.refused == 0


async def test_descriptors_that_a_caller_sends_along_are_not_taken(place: Place) -> None:
    async with opened(place):
        child = await place.spawn(place.public, order="descriptors")
        served = await place.arrived()
        before = len(os.listdir("/proc/self/fd"))
        assert await child.line() == "connected"
        assert await soon(served.reader.readexactly(21)) == b"hellowith descriptors"
        assert len(os.listdir("/proc/self/fd")) <= before


async def test_a_client_that_closes_ends_its_connection(place: Place) -> None:
    async with opened(place) as gate:
        _reader, writer = await asyncio.open_unix_connection(place.public)
        served = await place.arrived()
        writer.close()
        await served.ended()
        served.writer.close()
        await emptied(gate)

        assert gate.lookup(served.peer) is None


async def emptied(gate: Gate) -> None:
    async def wait() -> None:
        while len(gate):
            await asyncio.sleep(0)

    await soon(wait())


async def test_a_server_that_closes_ends_the_clients_connection(place: Place) -> None:
    async with opened(place) as gate:
        child = await place.spawn(place.public)
        served = await place.arrived()
        assert await child.line() == "connected"
        await soon(served.reader.readexactly(5))
        served.writer.close()

        assert await child.line() == "ended"
        await emptied(gate)


async def test_without_a_server_the_client_is_not_left_hanging(place: Place, folder: Path) -> None:
    gate = Gate(place.public, folder / "inner" / "nothing")
    await gate.start()
    reader, writer = await asyncio.open_unix_connection(place.public)

    assert await soon(reader.read()) == b""
    assert len(gate) == 0
    writer.close()
    gate.close()


async def test_connections_come_and_go_and_leave_no_descriptor(place: Place) -> None:
    async with opened(place) as gate:
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(50):
            _reader, writer = await asyncio.open_unix_connection(place.public)
            served = await place.arrived()
            writer.close()
            await served.ended()
            served.writer.close()
        await emptied(gate)
        await asyncio.sleep(0)

        assert len(os.listdir("/proc/self/fd")) <= before + 2


async def test_close_ends_every_connection_and_removes_the_socket(place: Place) -> None:
    async with opened(place) as gate:
        child = await place.spawn(place.public)
        served = await place.arrived()
        assert await child.line() == "connected"
        gate.close()

        assert not place.public.exists()
        assert gate.lookup(served.peer) is None
        await served.ended()
        assert await child.line() == "ended"


# -- impostors


async def test_a_name_is_taken_while_its_bearer_lives(place: Place) -> None:
    async with opened(place):
        _reader, writer = await asyncio.open_unix_connection(place.public)
        served = await place.arrived()
        with socket.socket(socket.AF_UNIX) as impostor, pytest.raises(OSError, match="Address already in use"):
            impostor.bind(f"\0{served.name}")
        writer.close()


async def test_an_impostor_that_takes_a_name_after_its_bearer_is_nobody(place: Place) -> None:
    async with opened(place) as gate:
        child = await place.spawn(place.public)
        former = await place.arrived()
        os.kill(child.pid, signal.SIGKILL)
        await former.ended()
        await emptied(gate)
        # Same user as the server, so that the folder doesn't stop it: the map must.
        await place.spawn(place.inner, order=f"impostor:{former.name}")
        impostor = await place.arrived()

        assert impostor.peer == former.peer
        assert gate.lookup(impostor.peer) is None


@as_root
async def test_the_folder_keeps_other_users_from_the_inner_socket(place: Place) -> None:
    async with opened(place):
        child = await place.spawn(place.inner, NOBODY, f"impostor:{os.urandom(16).hex()}")

        assert await child.line() == "PermissionError"
    assert place.connections.empty()


async def test_a_name_has_left_the_map_before_it_is_free(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    known: list[bool] = []

    class Watched(socket.socket):
        def close(self) -> None:
            if self.fileno() >= 0 and len(address := self.getsockname() or b"") > 1 and address[0] == 0:
                known.append(gate.lookup(f"unix-abstract:{address[1:].decode()}") is not None)
            super().close()

    gate = Gate(place.public, place.inner)
    await gate.start()
    monkeypatch.setattr("meshca.attest.passage.socket.socket", Watched)
    client = asyncio.get_running_loop().create_task(place.arrived())
    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect(str(place.public))
        served = await client
        assert gate.lookup(served.peer) is not None
        gate.close()

    assert known == [False]


async def test_names_are_128_random_bits(place: Place) -> None:
    asked: list[int] = []

    def entropy(size: int) -> bytes:
        asked.append(size)
        return os.urandom(size)

    async with opened(place, entropy=entropy):
        writers = [(await asyncio.open_unix_connection(place.public))[1] for _ in range(3)]
        names = {(await place.arrived()).name for _ in writers}
        for writer in writers:
            writer.close()

    assert asked == [16, 16, 16]
    assert len(names) == 3
    assert {len(name) for name in names} == {32}


# -- room


@as_root
async def test_one_user_s_connections_leave_room_for_others(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    async with opened(place) as gate:
        gate.room = Room(each_user=2, in_all=3)
        theirs = []
        for _ in range(2):
            theirs.append(await place.spawn(place.public, NOBODY))
            await place.arrived()
        for _ in range(3):
            refused = await place.spawn(place.public, NOBODY)
            while await refused.line() == "connected":
                pass
        assert (gate.refused, len(gate)) == (3, 2)

        await place.spawn(place.public)
        await place.arrived()
        refused = await place.spawn(place.public, NOBODY - 1)
        while await refused.line() == "connected":
            pass
        assert (gate.refused, len(gate)) == (4, 3)
        assert 1 <= sum("refused" in line for line in caplog.messages) <= 4

        theirs[0].process.kill()
        while len(gate) > 2:
            await asyncio.sleep(0.01)
        await place.spawn(place.public, NOBODY)
        await place.arrived()
        assert len(gate) == 3


async def test_refusals_fill_no_log(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    async with opened(place) as gate:
        gate.room = Room(each_user=0, in_all=0)
        for _ in range(50):
            reader, writer = await asyncio.open_unix_connection(place.public)
            assert await soon(reader.read()) == b""
            writer.close()
    assert gate.refused == 50
    assert 1 <= len(caplog.messages) <= 10


def test_the_room_leaves_descriptors_for_all_else() -> None:
    assert Room.within(1024) == Room(each_user=64, in_all=192)
    assert Room.within(1) == Room(1, 1)


# -- several gates, and the public socket


async def test_two_gates_side_by_side_know_their_own_only(place: Place, folder: Path) -> None:
    async with opened(place) as one, opened(place, folder / "other.sock") as two:
        _reader, left = await asyncio.open_unix_connection(place.public)
        first = await place.arrived()
        _reader, right = await asyncio.open_unix_connection(folder / "other.sock")
        second = await place.arrived()

        assert one.lookup(first.peer) is not None
        assert one.lookup(second.peer) is None
        assert two.lookup(second.peer) is not None
        assert two.lookup(first.peer) is None
        one.close()
        assert two.lookup(second.peer) is not None
        assert not place.public.exists()
        assert (folder / "other.sock").is_socket()
        left.close()
        right.close()


async def test_what_a_dead_server_left_is_cleaned_away(place: Place) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(place.public))
    async with opened(place):
        _reader, writer = await asyncio.open_unix_connection(place.public)
        await place.arrived()
        writer.close()


async def test_a_second_gate_at_the_same_path_is_refused_and_the_first_goes_on(place: Place) -> None:
    async with opened(place):
        with pytest.raises(SocketInUseError):
            await Gate(place.public, place.inner).start()
        _reader, writer = await asyncio.open_unix_connection(place.public)
        await place.arrived()
        writer.close()


@pytest.mark.parametrize("public_is_long", [True, False])
def test_a_path_of_108_bytes_is_refused_at_once(public_is_long: bool) -> None:
    short, long = Path("/tmp/s"), Path("/" + "x" * 107)
    with pytest.raises(SocketPathError, match="at most 107 bytes"):
        Gate(long, short) if public_is_long else Gate(short, long)


# -- under load


async def test_bytes_pass_unchanged_however_slow_the_receiver(place: Place) -> None:
    data = os.urandom(3_000_000)
    async with opened(place):
        reader, writer = await asyncio.open_unix_connection(place.public)
        served = await place.arrived()
        writer.write(data)
        writer.write_eof()
        received = await soon(served.reader.read())
        served.writer.write(received[::-1])
        served.writer.write_eof()

        assert received == data
        assert await soon(reader.read()) == data[::-1]
        writer.close()


async def test_a_receiver_that_does_not_read_stops_its_sender(place: Place) -> None:
    async with opened(place):
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_UNIX) as caller:
            caller.setblocking(False)
            await loop.sock_connect(caller, str(place.public))
            served = await place.arrived()
            served.writer.transport.pause_reading()  # type: ignore[attr-defined]
            sent = 0
            for _ in range(2_000):  # turns enough to let the gate take all it will ever take
                try:
                    sent += caller.send(bytes(65_536))
                except BlockingIOError:
                    await asyncio.sleep(0)

            assert 0 < sent < 8_000_000


async def test_a_full_server_is_waited_for(folder: Path) -> None:
    loop = asyncio.get_running_loop()
    (folder / "inner").mkdir(mode=0o700)
    gate = Gate(folder / "public.sock", folder / "inner" / "s")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "inner" / "s"))
        server.listen(0)
        server.setblocking(False)
        await gate.start()
        writers = [(await asyncio.open_unix_connection(folder / "public.sock"))[1] for _ in range(5)]
        for _ in writers:
            connection, name = await soon(loop.sock_accept(server))
            assert gate.lookup(f"unix-abstract:{name[1:].decode()}") is not None
            connection.close()
        for writer in writers:
            writer.close()
        gate.close()


class Errors(logging.Handler):
    """Counts what the gate complains of, and tells at once."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.count = 0
        self.seen = asyncio.Event()

    def emit(self, _record: logging.LogRecord) -> None:
        self.count += 1
        self.seen.set()


@pytest.fixture
async def complaints() -> AsyncIterator[Errors]:
    handler = Errors()
    logging.getLogger("meshca.attest.gate").addHandler(handler)
    yield handler
    logging.getLogger("meshca.attest.gate").removeHandler(handler)


@asynccontextmanager
async def descriptors_left(count: int) -> AsyncIterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free: list[int] = []
    while len(free) <= count:
        free.append(os.dup(0))
    for number in free:
        os.close(number)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free[count], hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_without_descriptors_connections_wait_and_nothing_spins(place: Place, complaints: Errors) -> None:
    async with opened(place) as gate:
        with socket.socket(socket.AF_UNIX) as caller:
            async with descriptors_left(0):
                caller.connect(str(place.public))
                await soon(complaints.seen.wait())
                for _ in range(100):
                    await asyncio.sleep(0)
                assert complaints.count <= 2
                assert len(gate) == 0
            served = await place.arrived()

            assert gate.lookup(served.peer) is not None


@pytest.mark.parametrize("left", [1, 2])
async def test_half_way_without_descriptors_nothing_leaks_or_spins(place: Place, complaints: Errors, left: int) -> None:
    async with opened(place) as gate:
        callers = [socket.socket(socket.AF_UNIX) for _ in range(20)]
        before = len(os.listdir("/proc/self/fd"))
        async with descriptors_left(left):
            for caller in callers:
                caller.connect(str(place.public))
            await soon(complaints.seen.wait())
            for _ in range(100):
                await asyncio.sleep(0)
            assert complaints.count <= 2
            assert len(gate) == 0
        assert len(os.listdir("/proc/self/fd")) == before
        served = await place.arrived()  # those in the queue come in; at most the one in hand was lost a turn

        assert gate.lookup(served.peer) is not None
        for caller in callers:
            caller.close()
