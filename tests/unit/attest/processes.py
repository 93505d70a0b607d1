"""Real processes that connect to us: as another user, from another program, in another control group."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from meshca.attest.process import Process, attest

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else")

PYTHON = Path(sys.executable).resolve()

# Connects, says so, and then follows the orders on its standard input, each answered by a line.
CLIENT = """
import os, socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect(chr(0) + sys.argv[1])
print("connected", flush=True)
for order in sys.stdin:
    word, _, rest = order.strip().partition(" ")
    if word == "exec":
        os.set_inheritable(s.fileno(), True)
        program = rest.split()
        os.execv(program[0], program)
    if word == "setuid":
        os.setuid(int(rest))
    if word == "group":
        open(rest, "w").write(str(os.getpid()))
    print("done", flush=True)
"""
IDLE = "import sys; print('running', flush=True); sys.stdin.read()"


@dataclass
class Connected:
    """A process that has connected, and our end of its connection."""

    process: Process
    socket: socket.socket
    child: subprocess.Popen[str]

    def order(self, text: str) -> str:
        assert self.child.stdin is not None
        assert self.child.stdout is not None
        self.child.stdin.write(text + "\n")
        self.child.stdin.flush()
        return self.child.stdout.readline().strip()


@contextmanager
def connecting(python: Path = PYTHON, before: Sequence[str] = ()) -> Iterator[Connected]:
    """Give a process of this program that has connected and was attested; ``before`` is what starts it."""
    name = os.urandom(16).hex()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"\0{name}")
        listener.listen()
        listener.settimeout(20)
        command = [*before, str(python), "-I", "-S", "-c", CLIENT, name]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
            try:
                connection, _ = listener.accept()
                with connection:
                    assert child.stdout is not None
                    assert child.stdout.readline() == "connected\n"
                    process, pidfd = attest(connection)
                    os.close(pidfd)
                    yield Connected(process, connection, child)
            finally:
                child.kill()


def program(folder: Path, name: str = "python", extra: bytes = b"") -> Path:
    """Make a program of our own, a Python with some bytes behind its end, and return where it is."""
    folder.mkdir(exist_ok=True)
    (folder / "pyvenv.cfg").write_text(f"home = {PYTHON.parent}\n")
    path = folder / name
    shutil.copy(PYTHON, path)
    with path.open("ab") as file:
        file.write(extra)
    folder.chmod(0o755)
    path.chmod(0o755)
    return path
