"""A home with an admin socket, and a fake behind it."""

from __future__ import annotations

import socket
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from fakes.shell import Shell

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def home() -> Iterator[Path]:
    # Not tmp_path: a socket path has 107 bytes.
    with tempfile.TemporaryDirectory(prefix="mca-") as folder:
        (Path(folder) / "run").mkdir()
        yield Path(folder)


@pytest.fixture
def shell(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shell]:
    shell = Shell(home)
    monkeypatch.setattr("meshca.client.admin.AdminClient", lambda _: shell.admin)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(home / "run" / "admin.sock"))
        listening.listen()
        yield shell


@pytest.fixture
def alone(home: Path) -> Shell:
    """A home in which no server runs."""
    return Shell(home)
