"""The stage of the demo: a home, a server, Envoys and an application, on loopback addresses of this run's own."""

from __future__ import annotations

import contextlib
import http.client
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from meshca.cli.demo import handwritten
from meshca.cli.demo.apps import App, free_port
from meshca.cli.demo.envoy import EnvoyProcess, find_envoy
from meshca.cli.demo.load import Answer, get
from meshca.client.admin import AdminClient
from meshca.errors import MeshcaError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from meshca.cli.demo.handwritten import Address

MESH = "demo"
TRUST_DOMAIN = "demo.test"
SERVICE, GHOST_SERVICE = "color.demo.test", "ghost.demo.test"
_READY = 30.0
_POLL = 0.01


def node_id(name: str) -> str:
    """Return the Envoy node id of a virtual node of the demo."""
    return f"mesh/{MESH}/virtualNode/{name}"


def spiffe_id(name: str) -> str:
    """Return the SPIFFE ID of a virtual node of the demo."""
    return f"spiffe://{TRUST_DOMAIN}/{node_id(name)}"


@dataclass
class Stage:
    """Everything that runs; made by ``open_stage`` and gone with it."""

    folder: Path
    home: Path
    envoy: Path
    net: str
    running: contextlib.ExitStack
    admin: AdminClient = field(init=False)
    back: Address = field(init=False)  # the server's mTLS listener
    ghost: Address = field(init=False)  # where front is told that ghost is, and the intruder listens
    intruder: Address = field(init=False)  # the intruder's plain side
    fresh: Address = field(init=False)  # the plain side of front with a handshake for each request
    envoys: dict[str, EnvoyProcess] = field(default_factory=dict)

    # --- the parts

    def start_server(self) -> None:
        """Make a home and run `meshca serve` on it."""
        self._command("init", "--trust-domain", TRUST_DOMAIN)
        log = self.running.enter_context((self.folder / "serve.log").open("wb"))
        command = [*_meshca(self.home), "serve", "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0"]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.running.callback(_end, process)
        self.admin = self.running.enter_context(AdminClient(self.home / "run/admin.sock"))
        self.wait(self._ready, "the server", _READY)

    def start_mesh(self) -> None:
        """Apply the spec and register every node for this process's own user."""
        self.back = (f"{self.net}.1", free_port(f"{self.net}.1"))
        self.ghost = (f"{self.net}.2", free_port(f"{self.net}.2"))
        self.apply()
        uid = self.home.stat().st_uid
        for name in ("front", "bystander", "back", "intruder", "files"):
            self.admin.register(node_id(name), [f"unix:uid:{uid}"])

    def start_envoys(self) -> None:
        """Run the applications and the Envoys: three by `envoy bootstrap`, the intruder's by hand."""
        self.running.enter_context(App("back", "127.0.0.1", self.back[1]))
        self._bootstrapped("back", "--ingress", f"{self.back[0]}:{self.back[1]}")
        self._bootstrapped("front", "--egress", f"{self.net}.3")
        self._bootstrapped("bystander", "--egress", f"{self.net}.4")
        socket = self.home / "run/meshca.sock"
        self.intruder = (f"{self.net}.5", free_port(f"{self.net}.5"))
        self.fresh = (f"{self.net}.6", free_port(f"{self.net}.6"))
        secrets = ("default", "ROOTCA")
        one = handwritten.client(node_id("intruder"), socket, self.intruder, self.back, secrets)
        self._envoy("intruder", one)
        self._envoy("ghost", handwritten.server(node_id("intruder"), socket, self.ghost, *secrets))
        # The same client as front, with a handshake for each request: a pool would hide one that fails.
        mine = ("default", f"servers:{SERVICE}")
        self._envoy("fresh", handwritten.client(node_id("front") + "/fresh", socket, self.fresh, self.back, mine))

    # --- the spec

    def apply(self, *, admitted: tuple[str, ...] = ()) -> None:
        """Apply the spec; with ``admitted``, back's listener names exactly these clients."""
        self.admin.apply([_mesh(), *self._nodes(admitted), *_services()])

    def _nodes(self, admitted: tuple[str, ...]) -> list[dict[str, Any]]:
        called = [{"virtualService": {"virtualServiceName": name}} for name in (SERVICE, GHOST_SERVICE)]
        return [
            _node("back", {"listeners": [_listener(self.back[1], admitted)], **_at(self.back[0])}),
            _node("ghost", {"listeners": [_listener(self.ghost[1], ())], **_at(self.ghost[0])}),
            _node("front", {"backends": called}),
            _node("bystander", {"backends": called[:1]}),
            _node("intruder", {}),
            _node("files", {}),
        ]

    # --- traffic

    def ask(self, client: str, service: str = SERVICE, path: str = "/", connection: Any = None) -> Answer:
        """Ask a service as the application beside a client's Envoy does."""
        return get(self.egress(client, service), service, path, connection)

    def egress(self, client: str, service: str = SERVICE) -> Address:
        """Return where a client's application finds a service."""
        host = {"front": f"{self.net}.3", "bystander": f"{self.net}.4"}[client]
        return host, (self.back if service == SERVICE else self.ghost)[1]

    def connect(self, client: str) -> http.client.HTTPConnection:
        """Return a connection of an application to its Envoy."""
        return http.client.HTTPConnection(*self.egress(client), timeout=5)

    def wait(self, holds: Callable[[], Any], what: str, seconds: float = 10) -> float:
        """Wait until ``holds()`` and return how many seconds that took.

        Raises:
            UnavailableError: it did not come about in time.
        """
        began = time.monotonic()
        while not holds():
            if time.monotonic() - began > seconds:
                raise UnavailableError(f"{what} did not come about in {seconds:g} s")
            time.sleep(_POLL)
        return time.monotonic() - began

    def drop(self, name: str, folder: Path, command: str) -> None:
        """Run `meshca drop` for a node until the stage ends."""
        arguments = ["drop", node_id(name), "--dir", str(folder), "--on-change", command]
        log = self.running.enter_context((self.folder / "drop.log").open("wb"))
        process = subprocess.Popen([*_meshca(self.home), *arguments], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.running.callback(_end, process)

    def evidence(self) -> str:
        """Return the ends of all logs, for a person who wants to know why something did not hold."""
        logs = sorted(self.folder.glob("*.log")) + sorted(self.folder.glob("*/*.log"))
        return "\n".join(f"--- {log.name}\n{log.read_text(errors='replace')[-1500:]}" for log in logs)

    # --- inside

    def _ready(self) -> bool:
        try:
            return self.admin.status().state == "ready"
        except MeshcaError:
            return False

    def _bootstrapped(self, name: str, *place: str) -> None:
        self._envoy(name, self._command("envoy", "bootstrap", node_id(name), *place))

    def _envoy(self, name: str, config: str) -> None:
        yaml.safe_load(config)  # what was printed for people must also be YAML
        folder = self.folder / name
        folder.mkdir()
        file = folder / "envoy.yaml"
        file.write_text(config)
        envoy = self.running.enter_context(EnvoyProcess(self.envoy, file))
        envoy.wait_live()
        self.envoys[name] = envoy

    def _command(self, *arguments: str) -> str:
        done = subprocess.run(
            [*_meshca(self.home), *arguments], capture_output=True, text=True, timeout=60, check=False
        )
        if done.returncode:
            raise UnavailableError(f"meshca {arguments[0]} exited {done.returncode}: {done.stderr.strip()[-400:]}")
        return done.stdout


@contextlib.contextmanager
def open_stage() -> Iterator[Stage]:
    """Yield a stage in a temporary folder and end everything on it afterwards."""
    envoy = find_envoy()
    chance = random.SystemRandom()
    with tempfile.TemporaryDirectory(prefix="meshca-demo-") as name, contextlib.ExitStack() as running:
        net = f"127.{chance.randrange(100, 120)}.{chance.randrange(1, 255)}"
        yield Stage(Path(name), Path(name) / "home", envoy, net, running)


def _meshca(home: Path) -> list[str]:
    return [sys.executable, "-m", "meshca", "--home", str(home)]


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(5)


def _mesh() -> dict[str, Any]:
    return {"kind": "mesh", "meshName": MESH, "spec": {}}


def _node(name: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {"kind": "virtualNode", "meshName": MESH, "virtualNodeName": name, "spec": spec}


def _services() -> list[dict[str, Any]]:
    return [
        {
            "kind": "virtualService",
            "meshName": MESH,
            "virtualServiceName": service,
            "spec": {"provider": {"virtualNode": {"virtualNodeName": name}}},
        }
        for service, name in ((SERVICE, "back"), (GHOST_SERVICE, "ghost"))
    ]


def _at(host: str) -> dict[str, Any]:
    return {"serviceDiscovery": {"dns": {"hostname": host}}}


def _listener(port: int, admitted: tuple[str, ...]) -> dict[str, Any]:
    validation: dict[str, Any] = {"trust": {"sds": {"secretName": "ROOTCA"}}}
    if admitted:
        validation["subjectAlternativeNames"] = {"match": {"exact": list(admitted)}}
    tls = {"mode": "STRICT", "certificate": {"sds": {"secretName": "default"}}, "validation": validation}
    return {"portMapping": {"port": port, "protocol": "http"}, "tls": tls}
