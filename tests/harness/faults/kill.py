"""A process that kills itself before or after its n-th write.

Rules: what counts as a write is a commit of the store, and each step by which a key or the audit checkpoint gets its
file; everything else of the program is as it is. Belongs into processes of tests that end this way or another.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from sqlalchemy import URL

from meshca.store import engine
from meshca.store.connections import Connections

Moment = Literal["before", "after"]
MOMENTS: tuple[Moment, ...] = ("before", "after")
_FILE_CALLS = ("link", "replace", "rename", "unlink", "fsync")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Point:
    """Where to die; number 0: nowhere."""

    number: int = 0
    moment: Moment = "before"

    def __str__(self) -> str:
        return f"{self.moment} write {self.number}"


NOWHERE = Point()


@dataclass
class Trigger:
    """Counts the writes of this process, tells each to ``note``, and kills at one of them."""

    home: Path
    point: Point
    note: Callable[[str], None]
    _count: int = 0
    _counting: threading.Lock = field(default_factory=threading.Lock)

    def install(self) -> None:
        """Stand around every write from here on, for the rest of this process's life."""
        connect: Callable[[URL], Connections] = vars(engine)["connect"]

        def connect_watched(url: URL) -> Connections:
            made = connect(url)
            dialect: Any = made.writing.dialect
            commit = type(dialect).do_commit
            dialect.do_commit = lambda connection: self._around("commit", lambda: commit(dialect, connection))
            return made

        setattr(engine, "connect", connect_watched)  # noqa: B010
        for name in _FILE_CALLS:
            setattr(os, name, self._watched(name, getattr(os, name)))

    def disarm(self) -> None:
        """Kill no more."""
        self.point = NOWHERE

    def _watched(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*arguments: Any, **named: Any) -> Any:
            if found := self._of_home(arguments[0]):
                return self._around(f"{name} {found}", lambda: call(*arguments, **named))
            return call(*arguments, **named)

        return watched

    def _of_home(self, subject: Any) -> str:
        """Say which file of the home this is, in words that are the same in every run; empty: none that matters."""
        path = Path(os.readlink(f"/proc/self/fd/{subject}") if isinstance(subject, int) else os.fsdecode(subject))
        if path in (self.home, self.home / "keys"):
            return "folder"
        if path.parent == self.home / "keys":
            return "key"
        return "checkpoint" if path.parent == self.home and path.name.startswith("audit.checkpoint") else ""

    def _around(self, what: str, write: Callable[[], T]) -> T:
        with self._counting:
            self._count += 1
            mine = self._count
        self.note(what)
        self._die_at(Point(mine, "before"))
        try:
            return write()
        finally:
            self._die_at(Point(mine, "after"))

    def _die_at(self, point: Point) -> None:
        if point == self.point:
            os.kill(os.getpid(), signal.SIGKILL)
