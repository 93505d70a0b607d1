"""Refusals in the audit log, without letting whoever is refused fill the disk.

Rules kept here:
- The first refusal of a kind is written at once. Identical ones within ten seconds become one further record with their
  number.
- A caller that varies what it asks for gets a few kinds; the rest of its refusals, and of everybody's beyond a bound,
  share one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from meshca.authority.audit import REFUSED, AuditEntry

WINDOW = 10.0
_KINDS_PER_ACTOR, _KINDS = 16, 512
_LONGEST = 512
_SEVERAL = "(several)"


@dataclass(slots=True)
class _Window:
    opened: float
    more: int = 0


class Refusals:
    """Turns refusals into audit entries. Lives on one thread; ``write`` must not block."""

    def __init__(self, write: Callable[[AuditEntry], object], monotonic: Callable[[], float]) -> None:
        self._write = write
        self._monotonic = monotonic
        self._windows: dict[AuditEntry, _Window] = {}
        self._kinds: Counter[str] = Counter()

    def add(self, actor: str, action: str, subject: str, reason: str) -> None:
        """Take note of one refusal."""
        entry = AuditEntry(action, subject[:_LONGEST], REFUSED, reason[:_LONGEST], actor)
        if entry not in self._windows:
            entry = self._folded(entry)
        if window := self._windows.get(entry):
            window.more += 1
            return
        self._windows[entry] = _Window(self._monotonic())
        self._kinds[entry.actor] += 1
        self._write(entry)

    def tick(self) -> None:
        """Write what has gathered in windows that are over."""
        over = self._monotonic() - WINDOW
        self._close(lambda window: window.opened <= over)

    def flush(self) -> None:
        """Write all that has gathered."""
        self._close(lambda _: True)

    def _close(self, is_over: Callable[[_Window], bool]) -> None:
        for entry, window in list(self._windows.items()):
            if is_over(window):
                del self._windows[entry]
                self._kinds[entry.actor] -= 1
                if window.more:
                    reason = f"{entry.reason} ({window.more} more within {WINDOW:.0f} s)"
                    self._write(AuditEntry(entry.action, entry.subject, REFUSED, reason, entry.actor))
        self._kinds = +self._kinds

    def _folded(self, entry: AuditEntry) -> AuditEntry:
        if len(self._windows) >= _KINDS:
            return AuditEntry(entry.action, _SEVERAL, REFUSED, "too many kinds of refusals to list", _SEVERAL)
        if self._kinds[entry.actor] >= _KINDS_PER_ACTOR:
            return AuditEntry(entry.action, _SEVERAL, REFUSED, "too many kinds of refusals to list", entry.actor)
        return entry
