"""A real node agent beside a world's server, as a process with a folder of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness import warm
from harness.world import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.world import World


@dataclass
class AgentProcess:
    """An agent."""

    home: Path
    process: warm.Started

    @property
    def socket(self) -> Path:
        """Where it serves."""
        return self.home / "run/meshca.sock"

    def log(self) -> str:
        """Return what it has logged."""
        return (self.home.parent / f"{self.home.name}.log").read_text(errors="replace")

    def serves(self) -> bool:
        """Say whether its socket takes connections."""
        assert self.process.poll() is None, self.log()
        with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(OSError):
            probe.connect(str(self.socket))
            return True
        return False

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """End it, and return its exit code."""
        self.process.send_signal(how)
        try:
            return self.process.wait(10)
        finally:
            self.process.kill()
            self.process.wait(5)


@contextlib.contextmanager
def agent(world: World, name: str = "host1", *options: str, address: str = "") -> Iterator[AgentProcess]:
    """Run an agent that joins with a token; ``options`` are further ones."""
    home, token = world.folder / f"a-{name}", world.folder / f"{name}.token"
    world.run("token", name, "--out", str(token))
    where = address or str(world.admin.status().grpc)
    command = ["meshca", "--home", str(home), "agent", "--server", where, "--token-file", str(token), *options]
    with (world.folder / f"a-{name}.log").open("ab") as log, Path(os.devnull).open("rb") as nothing:
        process = warm.start(command, [nothing, log, log], environment=os.environ)
    found = AgentProcess(home, process)
    try:
        eventually(found.serves, 20, "the agent")
        yield found
    finally:
        found.stop()
