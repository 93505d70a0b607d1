"""Which replica does the scheduled work of a mesh: rotation, CRLs, an upstream's CRLs, retention.

Rules kept here (design §3):
- One leads at a time; all others follow what it stores. Whoever runs a command makes its change themselves.
- Leading ends by itself, by our own monotonic clock, before anybody may take over; and since a process can be stopped
  between looking and writing, all that is written under it stands behind its fence (store/leases.py).
- A replica that lacks a key, the root's say, leaves it to others for a while, and gives it back now and then.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from meshca.authority.ports import Clock, OvertakenError
from meshca.store.engine import Store
from meshca.store.fencing import Fence
from meshca.store.leases import Held, Leases

_log = structlog.get_logger(__name__)

LEASE = "schedule"
RENEWED_EVERY = 2.0
_LASTS = 7.0  # how long nobody takes what has not been renewed
_OWN_LIMIT = 5.5  # how long we go on without having renewed it
_PATIENCE = 20.0  # how much longer a replica waits that lacks a key
_TENURE = 60.0  # after which such a one gives it back


@dataclass(slots=True)
class _Term:
    """The lease in our hands."""

    fence: Fence
    since: float
    renewed: float


class Leadership:
    """The lease of one replica. Ticks come from one thread at a time; any may ask."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        has_all_keys: Callable[[], bool] = lambda: True,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._leases = Leases(store)
        self._clock = clock
        self._has_all_keys = has_all_keys
        self._monotonic = monotonic
        self._term: _Term | None = None
        self._seen: tuple[Held | None, float] | None = None

    @property
    def leads(self) -> bool:
        """Whether the scheduled work is ours now."""
        return self._in_office() is not None

    def tick(self) -> None:
        """Renew the lease, or take it where its holder shows no life.

        Raises:
            StoreError: The database does not answer.
        """
        if self._term is not None and self._continues(self._term):
            return
        self._term = None
        held, now = self._leases.read(LEASE), self._monotonic()
        if self._seen is None or self._seen[0] != held:
            self._seen = (held, now)
        if now - self._seen[1] >= self._patience(held):
            self._take(held)

    def run(self, work: Callable[[], object]) -> None:
        """Do scheduled work, if it is ours; what another has taken over meanwhile writes nothing."""
        term = self._in_office()
        if term is None:
            return
        try:
            with self._store.fenced(term.fence):
                work()
        except OvertakenError as error:
            self._lost(term, str(error))

    def release(self) -> None:
        """Give the lease back, if we have it."""
        term, self._term = self._term, None
        if term is not None:
            self._leases.release(term.fence)

    def _in_office(self) -> _Term | None:
        term = self._term
        return term if term is not None and self._monotonic() - term.renewed < _OWN_LIMIT else None

    def _continues(self, term: _Term) -> bool:
        began = self._monotonic()
        if not self._has_all_keys() and began - term.since >= _TENURE:
            self.release()
            return True  # so that another comes first
        if not self._leases.renew(term.fence, self._until()):
            self._lost(term, "it was taken over")
            return False
        term.renewed = began
        return True

    def _patience(self, held: Held | None) -> float:
        free = held is None or held.holder in ("", self._store.writer)  # ours: of an earlier process in this home
        return (0.0 if free else _LASTS) + (0.0 if self._has_all_keys() else _PATIENCE)

    def _take(self, held: Held | None) -> None:
        began = self._monotonic()
        fence = self._leases.take(LEASE, held, self._until())
        if fence is not None:
            self._term = _Term(fence, began, began)
            self._seen = None
            _log.info("leads", epoch=fence.epoch, before=held.holder if held else "")

    def _lost(self, term: _Term, reason: str) -> None:
        if self._term is term:
            self._term = None
        _log.warning("leads no more", epoch=term.fence.epoch, reason=reason)

    def _until(self) -> datetime:
        return self._clock.now() + timedelta(seconds=_LASTS)
