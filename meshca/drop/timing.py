"""How a drop reads and spends time: an argument of everything that waits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Timer:
    """A monotonic clock, and how to wait."""

    monotonic: Callable[[], float]
    sleep: Callable[[float], object]
