"""What delivery tells: refusals, acknowledgements, rejections, alarms. Implements ``delivery.ports.Journal``.

Rules: nothing here blocks or raises; acknowledgements are in memory at once and in the store within a tick, the newest
of each holder only; what the store cannot take now is logged, and tried again with the next tick.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Collection
from concurrent.futures import Future
from dataclasses import replace
from datetime import datetime

import structlog

from meshca.authority import audit
from meshca.authority.audit import AuditEntry
from meshca.authority.ports import Clock
from meshca.server.metrics import Metrics
from meshca.server.refusals import Refusals
from meshca.spiffe.id import SpiffeId
from meshca.store.acknowledgements import Acknowledgement, Acknowledgements, Rejection
from meshca.store.engine import Store
from meshca.store.jwt import Following, JwtHolders

_log = structlog.get_logger(__name__)

_LONGEST_MESSAGE = 2048
_Waiting = dict[tuple[str, SpiffeId], Acknowledgement]
_ACTIONS = frozenset({audit.ATTEST, audit.DELIVER, audit.ISSUE, audit.REGISTER, "admin"})


class StoreJournal:
    """The journal of a server with a store. Lives on the event loop."""

    def __init__(
        self, store: Store, clock: Clock, metrics: Metrics, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._store = store
        self._clock = clock
        self._metrics = metrics
        self._acknowledgements = Acknowledgements(store)
        self._refusals = Refusals(self._write, monotonic)
        self._waiting: _Waiting = {}
        self._jwt_holders = JwtHolders(store)
        self._following: dict[str, Following] = {}
        self._failed: deque[_Waiting] = deque()  # what the store did not take; filled by its thread, oldest first
        self._writing: set[Future[None]] = set()
        self._told: Callable[[], None] = lambda: None

    def refused(self, actor: str, action: str, subject: str, reason: str) -> None:
        """Log, count and audit a refusal."""
        self._metrics.refused.labels(action if action in _ACTIONS else "other").inc()
        self._refusals.add(actor, action, subject, reason)

    def trust_in_force(self, holder: str, spiffe_id: SpiffeId, generation: int) -> None:
        """Note that a holder has acknowledged all of this trust generation."""
        self._note(holder, spiffe_id, generation=generation)

    def leaf_in_force(self, holder: str, spiffe_id: SpiffeId, issuer_id: str) -> None:
        """Note that a holder has acknowledged a leaf of this CA."""
        self._note(holder, spiffe_id, issuer_id=issuer_id)

    def jwt_in_force(self, holder: str, spiffe_id: SpiffeId, generation: int, until: datetime) -> None:
        """Note that a holder has this generation of the JWT bundle, and counts as following it until then."""
        self._following[holder] = Following(holder, spiffe_id, generation, until)
        self._told()

    def watch(self, told: Callable[[], None]) -> None:
        """Call ``told`` after each acknowledgement."""
        self._told = told

    def _note(self, holder: str, spiffe_id: SpiffeId, *, generation: int = 0, issuer_id: str = "") -> None:
        note = Acknowledgement(
            holder=holder,
            kind=holder.partition(":")[0],
            spiffe_id=spiffe_id,
            generation=generation,
            at=self._clock.now(),
            issuer_id=issuer_id,
        )
        self._waiting = _united(self._waiting, {(holder, spiffe_id): note})
        self._told()

    def rejected(self, node: str, type_url: str, digests: Collection[str], message: str) -> None:
        """Note that an Envoy has NACKed contents."""
        self._metrics.nacks.inc(len(digests))
        message = message[:_LONGEST_MESSAGE]
        _log.warning("nack", node=node, type_url=type_url, message=message)
        for digest in digests:
            rejection = Rejection(node, digest, type_url, message, self._clock.now())
            self._watch(self._acknowledgements.reject(rejection))

    def unsafe(self, name: str, reason: str) -> None:
        """Raise an alarm: a resource was held back."""
        self._metrics.unsafe.inc()
        _log.error("resource withheld", name=name, reason=reason)

    async def settled(self) -> None:
        """Wait until what was told so far is in the store, or the store has refused it."""
        writing = [asyncio.wrap_future(future) for future in tuple(self._writing)]
        await asyncio.gather(*writing, return_exceptions=True)

    async def stored(self) -> None:
        """Write the acknowledgements that have gathered, and wait until they are in the store."""
        self._store_acknowledgements()
        await self.settled()

    def tick(self) -> None:
        """Write what has gathered."""
        self._refusals.tick()
        self._store_acknowledgements()

    def flush(self) -> None:
        """Write all that has gathered, at the end."""
        self._refusals.flush()
        self._store_acknowledgements()

    def _store_acknowledgements(self) -> None:
        following, self._following = self._following, {}
        if following:  # what the store does not take now is said again in half an hour, or not waited for
            self._watch(self._jwt_holders.record(list(following.values())))
        waiting, self._waiting = self._waiting, {}
        while self._failed:
            waiting = _united(self._failed.pop(), waiting)
        if waiting:
            writing = self._acknowledgements.record(list(waiting.values()))
            writing.add_done_callback(lambda done: self._keep_if_failed(done, waiting))
            self._watch(writing)

    def _keep_if_failed(self, writing: Future[None], waiting: _Waiting) -> None:
        """Keep what was not written: an Envoy that has acknowledged something does not do so again."""
        if writing.cancelled() or writing.exception() is not None:
            self._failed.append(waiting)

    def _write(self, entry: AuditEntry) -> None:
        _log.warning("refused", action=entry.action, subject=entry.subject, reason=entry.reason, actor=entry.actor)
        self._watch(self._store.submit(lambda transaction: transaction.audit(entry)))

    def _watch(self, writing: Future[None]) -> None:
        self._writing.add(writing)
        writing.add_done_callback(self._written)

    def _written(self, writing: Future[None]) -> None:
        self._writing.discard(writing)
        if not writing.cancelled() and (error := writing.exception()):
            _log.error("the store did not take a record", reason=str(error))


def _united(older: _Waiting, newer: _Waiting) -> _Waiting:
    """Return what both say: of each holder the highest generation, and the last leaf."""
    for key, note in newer.items():
        known = older.get(key, note)
        generation = max(note.generation, known.generation)
        older[key] = replace(note, generation=generation, issuer_id=note.issuer_id or known.issuer_id)
    return older
