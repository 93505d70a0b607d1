"""Programs as processes of their own that start at once: forked from one process that has loaded what they load.

Each runs as `python -m PROGRAM` would, with its own arguments, environment, folder and files; what it saves is the
second in which Python loads libraries, several times in each test. scripts/bench measures how long a start takes.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import select
import selectors
import signal
import socket
import struct
import subprocess
import sys
import time
import traceback
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_TESTS = str(Path(__file__).parent.parent)
_LARGEST = 1 << 20
_CODE = struct.Struct("i")
# Files of the process in its order: standard input, output and error, and where its number and its end are told.
_FILES = 4
_MAKES_DOCUMENTS = {"bootstrap", "render", "inspect"}


class Started:
    """A process that was started; to be used like ``subprocess.Popen``."""

    def __init__(self, told: int) -> None:
        self._told = told
        self.returncode: int | None = None
        self.pid = self._next(60)

    def poll(self) -> int | None:
        """Return the exit code, or the negative signal, of a process that has ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float) -> int:
        """Wait for its end and return its exit code, or the negative signal."""
        if self.returncode is None:
            self.returncode = self._next(timeout)
            os.close(self._told)
        return self.returncode

    def send_signal(self, how: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, how)

    def kill(self) -> None:
        """Kill it, unless it has ended."""
        self.send_signal(signal.SIGKILL)

    def _next(self, timeout: float) -> int:
        if not select.select([self._told], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired("a program", timeout)
        told = os.read(self._told, _CODE.size)
        assert told, "the process that starts the others is gone"
        return int(_CODE.unpack(told)[0])


def start(
    command: Sequence[str], files: Sequence[BinaryIO | int], *, environment: Mapping[str, str], folder: Path | str = "."
) -> Started:
    """Start `python -m COMMAND` with standard input, output and error."""
    reading, writing = os.pipe()
    request = json.dumps({"command": list(command), "environment": dict(environment), "folder": str(folder)})
    numbers = [each if isinstance(each, int) else each.fileno() for each in files]
    try:
        socket.send_fds(_warm(), [request.encode()], [*numbers, writing])
    finally:
        os.close(writing)
    return Started(reading)


@functools.cache
def _warm() -> socket.socket:
    """Start the process that the others are forked from; it ends with this one, and they with it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    paths = os.pathsep.join(filter(None, (_TESTS, os.environ.get("PYTHONPATH"))))
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", "harness.warm", str(theirs.fileno())],
            pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": paths},
        )  # fmt: skip
    atexit.register(_end, ours, process)
    return ours


def _end(channel: socket.socket, process: subprocess.Popen[bytes]) -> None:
    channel.close()
    process.wait(10)


# --- in the process that the others are forked from


def serve(channel: socket.socket) -> None:
    """Start what is asked for until nobody can ask any more, and kill what is left."""
    _load()
    telling: dict[int, tuple[int, int]] = {}  # of each process that runs: its pidfd, to its number and who is told
    with selectors.DefaultSelector() as ready:
        ready.register(channel, selectors.EVENT_READ)
        while True:
            for key, _ in ready.select():
                if key.fileobj is not channel:
                    ready.unregister(key.fileobj)
                    _tell_end(key.fd, *telling.pop(key.fd))
                elif not _start_next(channel, ready, telling):
                    for pid, _ in telling.values():
                        os.kill(pid, signal.SIGKILL)
                    return


def _load() -> None:
    from meshca.cli.main import SECTIONS

    for entry in (entry for section in SECTIONS.values() for entry in section.values()):
        import_module(f"meshca.cli.{entry.module}")
    for name in ("server.run", "server.init", "client.admin", "envoy.documents", "drop.targets", "agent.run"):
        import_module(f"meshca.{name}")


@functools.cache
def _make_documents() -> None:
    """Let the library for documents build its schemas, which takes it seconds at first use."""
    sys.path.append(f"{_TESTS}/unit/envoy")
    from envoy_meshes import client, mutual, node_key, server, service, snapshot

    from meshca.envoy.documents import Bootstrap, static
    from meshca.envoy.generator import generate
    from meshca.envoy.placement import Placement

    mesh = snapshot(server("blue", tls=mutual()), service("blue", node="blue"), client("front", "blue"))
    for name in ("blue", "front"):
        static(generate(node_key(name), mesh, Placement()), Bootstrap("mesh/demo/virtualNode/x", "/s", Placement(), 0))


def _start_next(channel: socket.socket, ready: selectors.BaseSelector, telling: dict[int, tuple[int, int]]) -> bool:
    raw, files, _, _ = socket.recv_fds(channel, _LARGEST, _FILES)
    if not raw:
        return False
    request = json.loads(raw)
    if _MAKES_DOCUMENTS & set(request["command"]):
        _make_documents()
    pid = os.fork()
    if pid == 0:
        ready.close()
        channel.close()
        _become(request, files)
    for each in files[:-1]:
        os.close(each)
    os.write(files[-1], _CODE.pack(pid))
    pidfd = os.pidfd_open(pid)
    telling[pidfd] = (pid, files[-1])
    ready.register(pidfd, selectors.EVENT_READ)
    return True


def _tell_end(pidfd: int, pid: int, told: int) -> None:
    _, status = os.waitpid(pid, 0)
    with contextlib.suppress(BrokenPipeError):  # who has started it does not wait any more
        os.write(told, _CODE.pack(os.waitstatus_to_exitcode(status)))
    os.close(told)
    os.close(pidfd)


def _become(request: dict[str, Any], files: Sequence[int]) -> NoReturn:
    """Be the program, and end as it does."""
    code = 1
    try:
        for number, each in enumerate(files[:-1]):
            os.dup2(each, number)
        for each in range(3, max(files) + 1):
            with contextlib.suppress(OSError):
                os.close(each)
        os.chdir(request["folder"])
        code = _run(request)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _run(request: dict[str, Any]) -> int:
    import runpy

    os.environ.clear()
    os.environ.update(request["environment"])
    time.tzset()
    program, *arguments = request["command"]
    sys.argv = [program, *arguments]
    try:
        runpy.run_module(program, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        sys.stderr.write(f"{end.code}\n")
        return 1
    return 0


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
