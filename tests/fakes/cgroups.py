"""Real hierarchies of control groups, mounted for a test, and groups in them."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def hierarchy(version: str) -> Iterator[Path]:
    """Lend the root of a real hierarchy of control groups, mounted here where it can be."""
    if os.geteuid():
        pytest.skip("only root may make control groups")
    folder = tempfile.mkdtemp(prefix="meshca-cgroup-")
    kind = ["-t", "cgroup2"] if version == "v2" else ["-t", "cgroup", "-o", "none,name=systemd"]
    if subprocess.run(["mount", *kind, "none", folder], check=False, capture_output=True).returncode:
        Path(folder).rmdir()
        pytest.skip(f"cgroup {version} can't be mounted here")
    yield Path(folder)
    subprocess.run(["umount", folder], check=True)
    Path(folder).rmdir()


@contextmanager
def groups(root: Path) -> Iterator[Callable[[str], Path]]:
    """Lend what makes a group and returns its `cgroup.procs`; those made go when the processes in them have ended."""
    made: list[Path] = []

    def make(path: str) -> Path:
        folder = root
        for part in path.strip("/").split("/"):
            folder /= part
            with contextlib.suppress(FileExistsError):
                folder.mkdir()
                made.append(folder)
        return folder / "cgroup.procs"

    yield make
    for folder in reversed(made):
        with contextlib.suppress(OSError):  # another test's group may be in it by now
            folder.rmdir()
