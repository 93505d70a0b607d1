"""What an operator has to look at, until it is over."""

from __future__ import annotations

import threading
from datetime import datetime

from meshca.authority.events import Problem


class Problems:
    """The open problems by what they concern. Any thread may use it."""

    def __init__(self) -> None:
        self._open: dict[str, Problem] = {}
        self._lock = threading.Lock()

    @property
    def all(self) -> tuple[Problem, ...]:
        """Return them, oldest first."""
        with self._lock:
            return tuple(self._open.values())

    def put(self, what: str, reason: str, now: datetime) -> Problem | None:
        """Note a problem; returns it when it is new or has another reason, else None. It keeps its first time."""
        with self._lock:
            known = self._open.get(what)
            problem = Problem(what, known.since if known else now, reason)
            self._open[what] = problem
            return None if problem == known else problem

    def clear(self, what: str) -> None:
        """Note that it is over."""
        with self._lock:
            self._open.pop(what, None)
