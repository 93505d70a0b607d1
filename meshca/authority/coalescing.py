"""Calls that come close together share one result: revocations within 50 ms share one CRL.

Rule: a caller that joined before the work began gets what that work returned or raised; one that comes later starts or
joins the next turn. So nobody is answered by work that began before they asked.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

T = TypeVar("T")

WINDOW = 0.05


class Coalescer(Generic[T]):
    """Runs ``work`` once for all who join within the window. Any thread may join; the first of a turn does the work."""

    def __init__(
        self, work: Callable[[], T], window: float = WINDOW, *, sleep: Callable[[float], object] = time.sleep
    ) -> None:
        self._work = work
        self._window = window
        self._sleep = sleep
        self._lock = threading.Lock()
        self._turn: Future[T] | None = None

    def join(self) -> T:
        """Return what the work of this turn returns, or raise what it raises; blocks for at least the window."""
        with self._lock:
            first = self._turn is None
            turn = self._turn = self._turn or Future()
        if first:
            self._run(turn)
        return turn.result()

    def _run(self, turn: Future[T]) -> None:
        try:
            self._sleep(self._window)
            self._close(turn)
            turn.set_result(self._work())
        except BaseException as error:  # whoever joined must not wait for ever; the first one raises it again
            self._close(turn)
            turn.set_exception(error)

    def _close(self, turn: Future[T]) -> None:
        """Let whoever comes from now on start or join a later turn."""
        with self._lock:
            if self._turn is turn:
                self._turn = None
