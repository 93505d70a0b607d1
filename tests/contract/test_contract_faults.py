"""Killed before and after every write of issue, revoke and rotate: nothing that anybody was told is lost.

Each case is a process that kills itself at one write, and processes that start on what it left, the first ones killed
in their turn (harness/faults). The soak kills whole servers at moments that nobody chose.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# Each keeps every core busy for tens of seconds, and takes longer where it has to share them.
pytestmark = pytest.mark.timeout(300)

TESTS = Path(__file__).parents[1]
POSTGRES = os.environ.get("MESHCA_TEST_POSTGRES", "")
# What one death can leave of a CA in the making: a key that nobody uses, and the file that it was being written to.
MOST_ORPHANS = 2


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> str:
    """The URL of the PostgreSQL database, or nothing for SQLite files."""
    if request.param == "sqlite":
        return ""
    if not POSTGRES:
        pytest.skip("MESHCA_TEST_POSTGRES names no PostgreSQL database")
    return POSTGRES


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a path that is short enough for sockets."""
    path = Path(f"/tmp/mcf{secrets.token_hex(4)}")
    path.mkdir(mode=0o700)
    yield path
    shutil.rmtree(path, ignore_errors=True)


def run(kind: str, folder: Path, database: str) -> dict[str, Any]:
    """Run every case of a kind in a process that forks them."""
    command = [sys.executable, "-m", "harness.faults.run", kind, str(folder), *([database] if database else [])]
    paths = os.pathsep.join(filter(None, (str(TESTS), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": paths})
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_an_authority_survives_death_at_every_write(folder: Path, database: str) -> None:
    found = run("authority", folder, database)
    assert found["findings"] == []
    assert found["most_orphans"] <= MOST_ORPHANS
    # What the scripts are there for: each kind of write is among those that were died at.
    writes = [write for script in found["writes"].values() for write in script]
    assert {"commit", "link key", "fsync key", "fsync folder", "replace checkpoint", "fsync checkpoint"} <= {*writes}
    assert found["points"] == (writes.count("commit") if database else 2 * len(writes))
    assert found["starts"] > found["points"]  # some starts were killed as well


def test_a_server_survives_death_at_every_write_under_its_clients(folder: Path, database: str) -> None:
    found = run("server", folder, database)
    assert found["findings"] == []
    assert found["points"] >= 15  # the clients came to the end of what they do
    assert found["most_orphans"] <= MOST_ORPHANS


@pytest.mark.slow
def test_many_callers_survive_many_deaths_on_one_home(folder: Path, database: str) -> None:
    assert run("soak", folder, database)["findings"] == []
