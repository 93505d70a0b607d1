"""Hosts of a test's own: network namespaces on one wire, and what listens and calls in them.

The rules this module keeps:
- A socket belongs to the namespace and to the user of the thread that made it; so threads make sockets here, and no
  process has to be started for a call.
- Nothing survives: a namespace goes with the last of its sockets and processes.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import socket
import struct
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

T = TypeVar("T")
_LIBC = ctypes.CDLL(None, use_errno=True)
_NEW_NETWORK = 0x40000000
_ORIGINAL_DESTINATION = 80  # SO_ORIGINAL_DST and IP6T_SO_ORIGINAL_DST alike
REFUSED = "refused"


@dataclass(frozen=True)
class Host:
    """A namespace with an interface of its own."""

    name: str
    address: str
    address6: str

    def inside(self, make: Callable[[], T], *, uid: int = 0, gid: int = 0) -> T:
        """Return what ``make`` returns in a thread that is on this host, as this user."""
        results: list[T | BaseException] = []

        def work() -> None:
            try:
                self._enter()
                # glibc's own calls would change every thread; these change the caller, and sockets have its user.
                _LIBC.setfsgid(gid)
                _LIBC.setfsuid(uid)
                results.append(make())
            except BaseException as error:  # whoever waits raises it again
                results.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join(30)
        if isinstance(results[0], BaseException):
            raise results[0]
        return results[0]

    def _enter(self) -> None:
        descriptor = os.open(f"/run/netns/{self.name}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            if _LIBC.setns(descriptor, _NEW_NETWORK) != 0:
                raise OSError(ctypes.get_errno(), "setns")
        finally:
            os.close(descriptor)

    def run(self, *command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command on this host."""
        return subprocess.run(
            ["ip", "netns", "exec", self.name, *command], capture_output=True, text=True, timeout=20, check=False,
            env={"PATH": os.environ["PATH"], **environment},
        )  # fmt: skip

    def call(self, address: str, port: int, *, uid: int = 0, gid: int = 0, say: bytes = b"") -> str:
        """Return what answers there: all of it, or that it was refused."""

        def calling() -> str:
            with contextlib.closing(socket.create_connection((address, port), 5)) as connection:
                connection.sendall(say)
                return b"".join(iter(lambda: connection.recv(65536), b"")).decode()

        try:
            return self.inside(calling, uid=uid, gid=gid)
        except (ConnectionRefusedError, ConnectionResetError):
            return REFUSED

    def listen(self, port: int, name: str, *, intercepts: bool = False) -> Listener:
        """Answer every connection to this port with ``name``, or with where it was going."""
        return Listener(self.inside(lambda: [_bound(family, port) for family in _FAMILIES]), name, intercepts)


_FAMILIES = (socket.AF_INET, socket.AF_INET6)


def _bound(family: socket.AddressFamily, port: int) -> socket.socket:
    made = socket.socket(family)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    made.bind(("::" if family == socket.AF_INET6 else "0.0.0.0", port))
    made.listen(16)
    return made


class Listener:
    """Answers until it is closed."""

    def __init__(self, sockets: list[socket.socket], name: str, intercepts: bool) -> None:
        self._sockets, self._name, self._intercepts = sockets, name, intercepts
        self._threads = [threading.Thread(target=self._serve, args=(one,)) for one in sockets]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """End it."""
        for one in self._sockets:
            one.shutdown(socket.SHUT_RDWR)
            one.close()
        for thread in self._threads:
            thread.join(5)

    def _serve(self, listening: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listening.accept()
                with connection:
                    going = f" for {_destination(connection)}" if self._intercepts else ""
                    connection.sendall(f"{self._name}{going}".encode())


def _destination(connection: socket.socket) -> str:
    """Return where a redirected connection was going, as Envoy's original_dst asks it; "itself" for any other."""
    with contextlib.suppress(FileNotFoundError):  # the kernel tracks no connections until somebody redirects some
        return _tracked_destination(connection)
    return "itself"


def _tracked_destination(connection: socket.socket) -> str:
    if connection.family == socket.AF_INET:
        _, port, raw = struct.unpack_from("!HH4s", connection.getsockopt(socket.SOL_IP, _ORIGINAL_DESTINATION, 16))
    else:
        found = connection.getsockopt(socket.IPPROTO_IPV6, _ORIGINAL_DESTINATION, 28)
        _, port, raw = struct.unpack_from("!HH4x16s", found)
    return f"{socket.inet_ntop(connection.family, raw)} {port}"


@contextlib.contextmanager
def wire(hosts: int = 2) -> Iterator[list[Host]]:
    """Lend hosts that reach each other and nobody else."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to make network namespaces")
    mark = secrets.token_hex(3)
    network = secrets.randbelow(200) + 1
    made = [Host(f"mca-{mark}-{n}", f"10.{network}.0.{n}", f"fd00:{network:x}::{n}") for n in range(1, hosts + 1)]
    switch = f"mca-{mark}"
    try:
        _ip("netns", "add", switch)
        _ip("-n", switch, "link", "add", "wire", "type", "bridge")
        _ip("-n", switch, "link", "set", "wire", "up")
        for number, host in enumerate(made):
            _connect(host, switch, f"port{number}")
        yield made
    finally:
        for name in (switch, *(host.name for host in made)):
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def _connect(host: Host, switch: str, port: str) -> None:
    _ip("netns", "add", host.name)
    _ip("-n", host.name, "link", "add", "eth0", "type", "veth", "peer", "name", port, "netns", switch)
    _ip("-n", switch, "link", "set", port, "master", "wire")
    _ip("-n", switch, "link", "set", port, "up")
    _ip("-n", host.name, "address", "add", f"{host.address}/24", "dev", "eth0")
    _ip("-n", host.name, "-6", "address", "add", f"{host.address6}/64", "dev", "eth0", "nodad")
    for interface in ("lo", "eth0"):
        _ip("-n", host.name, "link", "set", interface, "up")


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr}"
