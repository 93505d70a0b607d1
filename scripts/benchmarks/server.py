"""A real `meshca serve` on a home of its own, for rows that talk to it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meshca.client.admin import AdminClient
from meshca.errors import MeshcaError

if TYPE_CHECKING:
    from collections.abc import Sequence


class Server:
    """A home and the server process on it, as a context manager."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="mca-bench-")
        self.home = Path(self._folder.name) / "h"
        self._process: subprocess.Popen[bytes] | None = None
        self.admin = AdminClient(self.home / "run/admin.sock")

    def __enter__(self) -> Server:
        command = [sys.executable, "-m", "meshca", "--home", str(self.home)]
        subprocess.run([*command, "init", "--trust-domain", "bench.test"], check=True, capture_output=True)
        with (Path(self._folder.name) / "log").open("wb") as log:
            any_port = ("--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0")
            self._process = subprocess.Popen([*command, "serve", *any_port], stdout=log, stderr=log)
        end = time.monotonic() + 30
        while not self._ready():
            if time.monotonic() > end or self._process.poll() is not None:
                raise RuntimeError(f"meshca serve was not ready:\n{(Path(self._folder.name) / 'log').read_text()}")
            time.sleep(0.05)
        return self

    def __exit__(self, *_: object) -> None:
        self.admin.close()
        if self._process:
            self._process.terminate()
            self._process.wait(20)
        self._folder.cleanup()

    @property
    def pid(self) -> int:
        """The server's process id."""
        if self._process is None:
            raise RuntimeError("the server is not running")
        return self._process.pid

    def apply_nodes(self, names: Sequence[str]) -> None:
        """Apply a mesh with these virtual nodes, and register them all for our own user."""
        objects: list[dict[str, Any]] = [{"kind": "mesh", "meshName": "m", "spec": {}}]
        objects += [{"kind": "virtualNode", "meshName": "m", "virtualNodeName": name, "spec": {}} for name in names]
        self.admin.apply(objects)
        for name in names:
            self.admin.register(f"mesh/m/virtualNode/{name}", [f"unix:uid:{os.getuid()}"])

    def _ready(self) -> bool:
        try:
            return self.admin.status().state == "ready"
        except MeshcaError:
            return False
