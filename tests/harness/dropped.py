"""`meshca drop` beside real programs: its process, clients that shake hands for each request, and what they count."""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from harness.world import World, eventually, mesh, node, spiffe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

# Renewed every seven seconds or so; the rest is what a slow machine may take.
LIVES = "root=2h,issuing=15m,leaf=14s"


def dropping_world(world: World, *names: str) -> World:
    """Start a world with one node for each name, which is found as NAME.m.test."""
    world.start()
    world.apply(mesh(), *(node(name, host=f"{name}.m.test", port=8443) for name in names))
    return world


@dataclass
class Dropping:
    """`meshca drop --config` as a process; ``with`` starts it, waits until all targets are in use, and ends it."""

    world: World
    targets: Sequence[dict[str, Any]]
    process: subprocess.Popen[bytes] = field(init=False)

    def __enter__(self) -> Self:
        config = self.world.folder / "drop.toml"
        config.write_text("\n".join(map(as_toml, self.targets)))
        log = (self.world.folder / "drop.log").open("wb")
        with log:
            command = [sys.executable, "-m", "meshca", "--home", str(self.world.home), "drop", "-o", "json"]
            self.process = subprocess.Popen(
                [*command, "--config", str(config)], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        try:
            assert self.process.wait(10) == 0, self.log()
        finally:
            self.process.kill()
            self.process.wait(5)

    def log(self) -> str:
        """Return the end of what it has said."""
        return (self.world.folder / "drop.log").read_text()[-6000:]

    def status(self, target: str) -> dict[str, Any]:
        """Return what the status file of a target says, if there is one."""
        (folder,) = [Path(each["dir"]) for each in self.targets if Path(each["dir"]).name == target]
        try:
            found: dict[str, Any] = json.loads((folder / "status.json").read_text())
        except FileNotFoundError:
            return {}
        return found

    def wait_in_use(self, *targets: str, seconds: float = 20) -> None:
        """Wait until these targets are in use."""
        for target in targets:
            try:
                eventually(lambda target=target: self.status(target).get("state") == "in use", seconds, target)
            except AssertionError as error:
                raise AssertionError(f"{target}: {self.status(target)}\n{self.log()}") from error

    def wait_rotated(self, times: int, *targets: str, seconds: float = 60) -> None:
        """Wait until so many generations more are in use at each target."""
        before = {target: number(self.status(target)) for target in targets}
        for target, first in before.items():
            try:
                eventually(
                    lambda target=target, first=first: number(self.status(target)) >= first + times, seconds, target
                )
            except AssertionError as error:
                raise AssertionError(f"{target}: {self.status(target)}\n{self.log()}") from error

    def failures(self) -> list[str]:
        """Return what it says to have failed so far."""
        return [line for line in (self.world.folder / "drop.log").read_text().splitlines() if "; next try in " in line]


def number(status: dict[str, Any]) -> int:
    """Return the number of the generation in use."""
    return int((status.get("in_use") or "generation-0").removeprefix("generation-"))


def as_toml(target: dict[str, Any]) -> str:
    """Write one target."""
    return "[[target]]\n" + "".join(f"{key} = {_toml(value)}\n" for key, value in target.items())


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(inner)}" for key, inner in value.items()) + " }"
    return json.dumps(value)


@dataclass
class Load:
    """Attempts in a few threads until it is stopped; an attempt that raises has failed."""

    attempts: Sequence[Callable[[], None]]
    pause: float = 0.02
    done: dict[str, int] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(each,)) for each in self.attempts]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join(20)

    def _run(self, attempt: Callable[[], None]) -> None:
        name = attempt.__name__
        while not self._ended.wait(self.pause):
            try:
                attempt()
            except Exception as error:
                self.failed.append(f"{time.time():.3f} {name}: {type(error).__name__}: {error}")
            else:
                self.done[name] = self.done.get(name, 0) + 1


def generation(folder: Path) -> Path:
    """Return the generation in force: whoever resolves the link once reads files that belong together."""
    return folder / os.readlink(folder / "current")


@lru_cache(maxsize=4)
def client_context(files: Path) -> ssl.SSLContext:
    """Return a client's side of mutual TLS out of a generation of layout pem: chain, name and CRL are checked."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.verify_flags |= ssl.VERIFY_CRL_CHECK_CHAIN
    context.load_verify_locations(str(files / "bundle.pem"))
    context.load_verify_locations(str(files / "crl.pem"))
    context.load_cert_chain(str(files / "svid.pem"), str(files / "svid_key.pem"))
    return context


def https_get(context: ssl.SSLContext, port: int, name: str) -> tuple[str, str]:
    """Make one request with one handshake to NAME.m.test; return the body and the URI in the server's certificate."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=5) as plain,
        context.wrap_socket(plain, server_hostname=f"{name}.m.test") as secured,
    ):
        secured.sendall(f"GET / HTTP/1.1\r\nHost: {name}.m.test\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: secured.recv(4096), b"")).decode()
        names: Any = (secured.getpeercert() or {}).get("subjectAltName", ())
    head, _, body = answer.partition("\r\n\r\n")
    assert head.startswith("HTTP/1.1 200 "), head or "no answer"
    return body, next(value for kind, value in names if kind == "URI")


def browsing(folder: Path, port: int, name: str) -> Callable[[], None]:
    """Return an attempt: one request that the node NAME has to answer, and has to accept."""

    def attempt() -> None:
        body, uri = https_get(client_context(generation(folder)), port, name)
        assert (body, uri) == ("SUCCESS", spiffe(name))

    attempt.__name__ = name
    return attempt


def openssl_client(folder: Path, port: int, name: str) -> Callable[[], None]:
    """Return an attempt: `openssl s_client` checks chain, DNS name and CRLs, and the URI is that of the node."""
    trusted = folder.parent / f"trusted-{name}.pem"

    def attempt() -> None:
        files = generation(folder)
        # Its option -CRL reads one CRL only; from -CAfile it takes all of both kinds.
        trusted.write_bytes((files / "bundle.pem").read_bytes() + (files / "crl.pem").read_bytes())
        shown = subprocess.run(
            ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-servername", f"{name}.m.test",
             "-CAfile", trusted, "-crl_check_all", "-verify_return_error", "-verify_hostname", f"{name}.m.test",
             "-cert", files / "svid.pem", "-key", files / "svid_key.pem", "-cert_chain", files / "svid.pem"],
            input=b"", capture_output=True, timeout=10, check=False,
        )  # fmt: skip
        said = shown.stdout.decode() + shown.stderr.decode()
        assert shown.returncode == 0, said[-800:]
        assert "Verify return code: 0 (ok)" in said, said[-800:]
        read = subprocess.run(
            ["openssl", "x509", "-noout", "-ext", "subjectAltName"],
            input=shown.stdout, capture_output=True, timeout=10, check=True,
        )  # fmt: skip
        assert f"URI:{spiffe(name)}" in read.stdout.decode()

    attempt.__name__ = f"openssl {name}"
    return attempt


def rotate_issuing(world: World) -> None:
    """Replace the issuing CA: it signs only once every drop has acknowledged it, which is after its reload."""
    steps = list(world.admin.watch_rotation(world.admin.rotate_authority("issuing")))
    assert steps[-1].state == "active", steps[-1]


def running(command: Sequence[str | Path], log: Path, **how: Any) -> subprocess.Popen[bytes]:
    """Start a program, its words into a log."""
    with log.open("ab") as file:
        return subprocess.Popen(list(command), stdin=subprocess.DEVNULL, stdout=file, stderr=file, **how)


def ended(process: subprocess.Popen[bytes]) -> None:
    """End a program."""
    process.terminate()
    try:
        process.wait(10)
    finally:
        process.kill()
        process.wait(5)


def listening(port: int) -> bool:
    """Whether something accepts connections there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def ports(count: int) -> Iterator[int]:
    """Yield ports that are free at this moment, no two alike."""
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    found = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    yield from found
