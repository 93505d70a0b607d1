"""OpenBao's `pki/sign` as a peer: the real server, in dev mode (nothing on disk) and on its storage on disk (raft)."""

from __future__ import annotations

import http.client
import itertools
import json
import os
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from benchmarks.measure import Throughput, throughput

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_ROLE = {
    "allow_any_name": True,
    "enforce_hostnames": False,
    "allowed_uri_sans": "spiffe://bench.test/*",
    "require_cn": False,
    "key_type": "any",
    "max_ttl": "24h",
    "key_usage": "DigitalSignature",
}
_WANTED = {"uri_sans": "spiffe://bench.test/mesh/m/virtualNode/n", "ttl": "1h"}


class OpenBao:
    """A real OpenBao server with a P-256 root in `pki`, as a context manager."""

    def __init__(self, binary: Path, folder: Path, *, dev: bool) -> None:
        self._binary, self._folder, self._dev = binary, folder, dev
        self._port = _free_port()
        self._token = "bench-root"  # noqa: S105 - a throwaway server on loopback
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> OpenBao:
        self._folder.mkdir(parents=True, exist_ok=True)
        arguments = ["-dev", f"-dev-root-token-id={self._token}", f"-dev-listen-address=127.0.0.1:{self._port}"]
        if not self._dev:
            arguments = [f"-config={self._configuration()}"]
        environment = {**os.environ, "HOME": str(self._folder)}
        self._process = subprocess.Popen(
            [str(self._binary), "server", *arguments],
            env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self._wait()
        if not self._dev:
            self._unseal()
        self._prepare()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process:
            self._process.terminate()
            self._process.wait(10)

    @property
    def environ(self) -> dict[str, str]:
        """What a client needs."""
        return {"BAO_ADDR": f"http://127.0.0.1:{self._port}", "BAO_TOKEN": self._token}

    @property
    def pid(self) -> int:
        """The server's process."""
        if self._process is None:
            raise RuntimeError("OpenBao is not running")
        return self._process.pid

    def sign(self, requests: Sequence[bytes], seconds: float, threads: int = 8) -> Throughput:
        """Measure `pki/sign`, one request a call, keep-alive connections."""
        bodies = [json.dumps({**_WANTED, "csr": _pem(request)}) for request in requests]
        turn, lock = itertools.cycle(bodies), threading.Lock()

        def worker() -> Callable[[], int]:
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
            connection.connect()
            connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

            def once() -> int:
                with lock:
                    body = next(turn)
                connection.request("POST", "/v1/pki/sign/node", body, {"X-Vault-Token": self._token})
                response = connection.getresponse()
                answer = response.read()
                if response.status != http.client.OK:
                    raise RuntimeError(f"pki/sign answered {response.status}: {answer[:200]!r}")
                return 1

            return once

        return throughput(self.pid, seconds, threads, worker)

    def _configuration(self) -> Path:
        data = self._folder / "data"
        data.mkdir()
        configuration = {
            "listener": {"tcp": {"address": f"127.0.0.1:{self._port}", "tls_disable": True}},
            "storage": {"raft": {"path": str(data), "node_id": "bench"}},
            "api_addr": f"http://127.0.0.1:{self._port}",
            "cluster_addr": f"http://127.0.0.1:{_free_port()}",
        }
        file = self._folder / "config.json"
        file.write_text(json.dumps(configuration))
        return file

    def _wait(self) -> None:
        end = time.monotonic() + 30
        while time.monotonic() < end:
            try:
                with socket.create_connection(("127.0.0.1", self._port), 1):
                    return
            except OSError:
                time.sleep(0.05)
        raise RuntimeError("OpenBao did not open its port in 30 s")

    def _unseal(self) -> None:
        made = self._call("PUT", "sys/init", {"secret_shares": 1, "secret_threshold": 1})
        self._token = made["root_token"]
        self._call("PUT", "sys/unseal", {"key": made["keys"][0]})
        end = time.monotonic() + 30
        while not self._call("GET", "sys/leader", None).get("is_self"):
            if time.monotonic() > end:
                raise RuntimeError("OpenBao did not become active in 30 s")
            time.sleep(0.05)

    def _prepare(self) -> None:
        self._call("POST", "sys/mounts/pki", {"type": "pki", "config": {"max_lease_ttl": "87600h"}})
        root = {"common_name": "bench root", "key_type": "ec", "key_bits": 256, "ttl": "8760h"}
        self._call("POST", "pki/root/generate/internal", root)
        self._call("POST", "pki/roles/node", _ROLE)
        self._call("POST", "sys/mounts/transit", {"type": "transit"})

    def _call(self, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        connection.request(method, f"/v1/{path}", json.dumps(body) if body else None, {"X-Vault-Token": self._token})
        response = connection.getresponse()
        text = response.read()
        connection.close()
        if response.status >= http.client.BAD_REQUEST:
            raise RuntimeError(f"OpenBao {path}: {response.status} {text[:300]!r}")
        return json.loads(text) if text else {}


def _pem(der: bytes) -> str:
    return x509.load_der_x509_csr(der).public_bytes(serialization.Encoding.PEM).decode()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
