"""A whole meshca of a test's own: a home, a server process, Envoys, loopback addresses that nobody else uses.

Everything is real: the command line as users type it and `meshca serve`, each as a process (harness/warm), Envoy as a
process (as another user where the test wants that). Nothing survives the test.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, TYPE_CHECKING, Any, Self

from envoy_binary import envoy_binary
from harness import warm

from meshca.cli.demo.envoy import EnvoyProcess
from meshca.client.admin import AdminClient
from meshca.envoy.documents import Bootstrap, as_yaml, bootstrap
from meshca.envoy.placement import Placement

if TYPE_CHECKING:
    from collections.abc import Sequence

TRUST_DOMAIN = "m.test"
_START = 30
ANY_PORT = ("--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0")
# Envoys and other callers as users of their own; no account needs to exist for a uid to be used.
FIRST_UID = 61_000


@dataclass(frozen=True)
class Finished:
    """What a command line did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output, read as JSON."""
        return json.loads(self.out)


@dataclass
class World:
    """A home with what runs on it."""

    folder: Path
    home: Path
    network: str  # 127.x.y, all of it this test's own
    server: warm.Started | None = None
    admin: AdminClient = field(init=False)
    envoys: list[EnvoyProcess] = field(default_factory=list)
    _hosts: int = 0

    @classmethod
    def make(cls, *options: str, trust_domain: str = TRUST_DOMAIN) -> Self:
        """Return a world with an initialised home and no server yet; ``options`` go to `meshca init`."""
        folder = Path(tempfile.mkdtemp(prefix="mca-"))
        folder.chmod(0o711)  # Envoys of other users must reach the socket
        chance = random.SystemRandom()
        world = cls(folder, folder / "h", f"127.{chance.randrange(2, 100)}.{chance.randrange(1, 255)}")
        world.run("init", "--trust-domain", trust_domain, *options)
        return world

    def close(self) -> None:
        """End all processes and remove all files."""
        for envoy in self.envoys:
            envoy.stop()
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    # --- the command line

    def run(self, *arguments: str, code: int | None = 0, text: str | None = None, **environment: str) -> Finished:
        """Run a command as a user would, and expect its exit code (None: any)."""
        whole = {**os.environ, "NO_COLOR": "1", "COLUMNS": "200", **environment}
        with TemporaryFile() as given, TemporaryFile() as out, TemporaryFile() as err:
            given.write((text or "").encode())
            given.seek(0)
            command = ["meshca", "--home", str(self.home), *arguments]
            process = warm.start(command, [given, out, err], environment=whole, folder=self.folder)
            try:
                process.wait(60)
            finally:
                process.kill()
            done = Finished(process.wait(5), *(_text_of(file) for file in (out, err)))
        assert code is None or done.code == code, f"{arguments}: {done.code}\n{done.out}\n{done.err}"
        return done

    # --- the server

    def start(self, *arguments: str, program: Sequence[str] = ("meshca",)) -> Self:
        """Start `meshca serve` and wait until it is ready; ``program`` is the module to run."""
        log = (self.folder / "serve.log").open("ab")
        with log:
            command = [*program, "--home", str(self.home), "serve", *ANY_PORT, *arguments]
            with Path(os.devnull).open("rb") as nothing:
                self.server = warm.start(command, [nothing, log, log], environment=os.environ)
        self.admin = AdminClient(self.home / "run/admin.sock")
        end = time.monotonic() + _START
        while True:
            with contextlib.suppress(Exception):
                if self.admin.status().state == "ready":
                    return self
            assert self.server.poll() is None, f"serve ended: {self.log()}"
            assert time.monotonic() < end, f"serve was not ready in {_START} s: {self.log()}"
            time.sleep(0.05)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int | None:
        """End the server by a signal and return its exit code."""
        if self.server is None:
            return None
        self.admin.close()
        self.server.send_signal(how)
        try:
            code = self.server.wait(20)
        finally:
            self.server.kill()
            self.server.wait(5)
            self.server = None
        return code

    def kill(self) -> None:
        """Kill -9 the server."""
        self.stop(signal.SIGKILL)

    def log(self) -> str:
        """Return the end of what the server has logged."""
        return (self.folder / "serve.log").read_text(errors="replace")[-6000:]

    # --- addresses

    def host(self) -> str:
        """Return a loopback address that nothing of this test uses yet."""
        self._hosts += 1
        return f"{self.network}.{self._hosts}"

    # --- specs and identities

    def apply(self, *objects: dict[str, Any]) -> Finished:
        """Apply objects through the command line, from standard input."""
        return self.run("apply", "-f", "-", "-o", "json", text="\n---\n".join(json.dumps(one) for one in objects))

    def register(self, node: str, uid: int, parent: str = "") -> None:
        """Let a uid have a node's identity, here or behind an agent."""
        self.admin.register(node, [f"unix:uid:{uid}"], parent=parent)

    # --- Envoys

    def envoy(
        self,
        node: str,
        *,
        uid: int | None = None,
        ingress: str = "",
        egress: str = "",
        live: bool = True,
        socket: Path | None = None,
    ) -> EnvoyProcess:
        """Start an Envoy with the bootstrap that `meshca envoy bootstrap` prints for a node.

        Made in this process: the command line takes a second to load the library for documents, and the demo runs it.
        """
        placement = Placement.parse(ingress or None, egress or None)
        at = socket or self.home / "run/meshca.sock"
        start = Bootstrap(self.admin.resolve(node).node_id, str(at), placement, 0)
        return self.envoy_with(as_yaml(bootstrap(start)), node.rsplit("/", 1)[-1], uid=uid, live=live)

    def envoy_with(self, config: str, name: str, *, uid: int | None = None, live: bool = True) -> EnvoyProcess:
        """Start an Envoy with a configuration of the test's own."""
        folder = self.folder / f"envoy-{len(self.envoys)}-{name}"
        folder.mkdir(0o755)
        file = folder / "envoy.yaml"
        file.write_text(config)
        file.chmod(0o644)
        if uid is not None:
            os.chown(folder, uid, uid)
        envoy = EnvoyProcess(envoy_binary(), file, user=uid)
        self.envoys.append(envoy)
        envoy.start()
        if live:
            envoy.wait_live()
        return envoy


def _text_of(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode()


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port that is free on ``host`` at this moment."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def eventually(holds: Any, seconds: float = 10, what: str = "it") -> Any:
    """Wait until ``holds()`` is truthy and return it."""
    end = time.monotonic() + seconds
    while True:
        asked = time.monotonic()
        if value := holds():
            return value
        now = time.monotonic()
        assert now < end, f"{what} did not come about in {seconds:g} s"
        time.sleep(max(0.02, 2 * (now - asked)))  # who asks by command lines leaves room for what it waits for


# --- specs, in the API's own form


def mesh(name: str = "m") -> dict[str, Any]:
    """Return a mesh."""
    return {"meshName": name, "spec": {}}


def node(
    name: str, *, host: str = "", port: int = 0, protocol: str = "http", backends: Sequence[str] = (),
    tls: dict[str, Any] | None = None, mesh_name: str = "m",
) -> dict[str, Any]:  # fmt: skip
    """Return a virtual node; with ``host`` it has a listener, with TLS as given (default: STRICT mTLS of ours)."""
    spec: dict[str, Any] = {"backends": [{"virtualService": {"virtualServiceName": each}} for each in backends]}
    if host:
        listener: dict[str, Any] = {"portMapping": {"port": port, "protocol": protocol}}
        listener["tls"] = MTLS if tls is None else tls
        spec["listeners"] = [listener]
        spec["serviceDiscovery"] = {"dns": {"hostname": host}}
    return {"meshName": mesh_name, "virtualNodeName": name, "spec": spec}


def service(name: str, to: str, mesh_name: str = "m") -> dict[str, Any]:
    """Return a virtual service that a virtual node provides."""
    spec = {"provider": {"virtualNode": {"virtualNodeName": to}}}
    return {"meshName": mesh_name, "virtualServiceName": name, "spec": spec}


MTLS: dict[str, Any] = {
    "mode": "STRICT",
    "certificate": {"sds": {"secretName": "default"}},
    "validation": {"trust": {"sds": {"secretName": "ROOTCA"}}},
}


def spiffe(name: str, kind: str = "virtualNode", mesh_name: str = "m") -> str:
    """Return the SPIFFE ID that a node's or gateway's name leads to."""
    return f"spiffe://{TRUST_DOMAIN}/mesh/{mesh_name}/{kind}/{name}"
