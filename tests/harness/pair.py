"""Two hand-written Envoys that shake hands for each request, and load on them."""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from harness.asking import ask
from harness.world import FIRST_UID, World, eventually, free_port, mesh, node, service, spiffe

from meshca.cli.demo import handwritten

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from harness.traffic import Address

    from meshca.cli.demo.envoy import EnvoyProcess

_BEAT = 0.01
_CALM = 0.5


@dataclass
class Pair:
    """``front`` calls ``back``; both get all secrets from the world's server."""

    world: World
    plain: Address
    envoys: dict[str, EnvoyProcess] = field(default_factory=dict)
    tls: Address = ("", 0)  # where ``back`` takes its callers' handshakes

    @classmethod
    def start(cls, world: World, socket: Path | None = None, parent: str = "") -> Pair:
        """Apply the mesh, register both users and start both Envoys, at the server's socket or that of an agent."""
        world.apply(
            mesh(),
            node("back", host="127.0.0.1", port=9080),
            node("front", backends=["b.local"]),
            service("b.local", "back"),
        )
        world.register("back", FIRST_UID, parent)
        world.register("front", FIRST_UID + 1, parent)
        host = world.host()
        at, plain = (host, free_port(host)), (host, free_port(host))
        socket = socket or world.home / "run/meshca.sock"
        back = handwritten.server("b", socket, at, "default", "clients")
        front = handwritten.client("f", socket, plain, at, ("default", "servers:b.local"))
        pair = cls(world, plain, tls=at)
        pair.envoys["back"] = world.envoy_with(back, "back", uid=FIRST_UID)
        pair.envoys["front"] = world.envoy_with(front, "front", uid=FIRST_UID + 1)
        assert pair.ask()
        return pair

    def ask(self) -> bool:
        """Make one request, with one handshake; whether ``front`` was let in."""
        return self.answer() == (200, spiffe("front"))

    def answer(self) -> tuple[int, str]:
        """Make one request, with one handshake, and return status and who was let in."""
        return ask(self.plain)

    def freeze(self, name: str) -> None:
        """Stop an Envoy as it is, connections and all."""
        os.kill(self.envoys[name].pid, signal.SIGSTOP)

    def thaw(self, name: str) -> None:
        """Let a stopped Envoy go on."""
        os.kill(self.envoys[name].pid, signal.SIGCONT)


class Load:
    """Requests in two threads until it is stopped; ``with`` starts and stops it."""

    def __init__(self, pair: Pair) -> None:
        self._pair = pair
        self._ended = threading.Event()
        self.answered = 0
        self.failures: list[tuple[float, int, str]] = []  # when, status, who was let in
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run) for _ in range(2)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join(20)

    @property
    def failed(self) -> int:
        """Return how many requests were not answered as they should be."""
        return len(self.failures)

    def more(self, count: int) -> None:
        """Wait for so many more good answers."""
        wanted = self.answered + count
        eventually(lambda: self.answered >= wanted, 30, f"{count} more requests (failures: {self.failures[-3:]})")

    def settled(self) -> int:
        """Wait until nothing has failed for half a second, and return how many have failed by then."""
        eventually(lambda: not self.failures or time.monotonic() - self.failures[-1][0] > _CALM, 10, "calm")
        return self.failed

    def _run(self) -> None:
        good = (200, spiffe("front"))
        while not self._ended.wait(_BEAT):
            found = self._pair.answer()
            with self._lock:
                if found == good:
                    self.answered += 1
                else:
                    self.failures.append((time.monotonic(), *found))


def rows(world: World, query: str) -> Iterator[dict[str, Any]]:
    """Read what the server's own database holds."""
    import sqlite3

    with sqlite3.connect(f"file:{world.home}/meshca.db?mode=ro", uri=True) as connection:
        connection.row_factory = sqlite3.Row
        yield from (dict(row) for row in connection.execute(query).fetchall())
