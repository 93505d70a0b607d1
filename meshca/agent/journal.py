"""What an agent tells its server: what is in force behind it, and what it has refused.

Implements ``delivery.ports.Journal``. Rules: nothing here blocks or raises; what the server does not take now is told
again; identical refusals are told once in ten seconds, and there is a bound for all.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Collection
from dataclasses import replace
from datetime import datetime

import structlog

from meshca.agent.issuing import word_of
from meshca.client.agent import Acknowledgement, Refusal
from meshca.delivery.leaves import Holder
from meshca.delivery.ports import Leaf
from meshca.errors import MeshcaError, UnavailableError
from meshca.spiffe.id import SpiffeId

_log = structlog.get_logger(__name__)

OWN = "self"
_WINDOW = 10.0
_MOST = 100
_PAUSE = 1.0

Acknowledge = Callable[[Collection[Acknowledgement]], Awaitable[None]]
Report = Callable[[Collection[Refusal]], Awaitable[None]]


class AgentJournal:
    """Lives on one event loop."""

    def __init__(self, acknowledge: Acknowledge, report: Report) -> None:
        self._acknowledge = acknowledge
        self._report = report
        self._waiting: dict[tuple[str, str], Acknowledgement] = {}
        self._refusals: deque[Refusal] = deque(maxlen=_MOST)
        self._told: dict[Refusal, float] = {}
        self._something = asyncio.Event()

    # ---- delivery.ports.Journal

    def refused(self, actor: str, action: str, subject: str, reason: str) -> None:
        """Log a refusal, and have it audited."""
        refusal, now = Refusal(actor, action, subject[:512], reason[:512]), asyncio.get_running_loop().time()
        if now - self._told.get(refusal, -_WINDOW) < _WINDOW:
            return
        self._told = {known: at for known, at in self._told.items() if now - at < _WINDOW}
        if len(self._told) < _MOST:
            self._told[refusal] = now
            _log.warning("refused", action=action, subject=subject, reason=reason, actor=actor)
            self._refusals.append(refusal)
            self._something.set()

    def trust_in_force(self, holder: str, spiffe_id: SpiffeId, generation: int) -> None:
        """Note that a holder has acknowledged a trust generation."""
        self._note(Acknowledgement(word_of(holder), str(spiffe_id), generation=generation))

    def leaf_in_force(self, holder: str, spiffe_id: SpiffeId, issuer_id: str) -> None:
        """Do nothing: a leaf is told of by its serial."""

    def rejected(self, node: str, type_url: str, digests: Collection[str], message: str) -> None:
        """Log a NACK; the server hears of it on the stream."""
        _log.warning("nack", node=node, type_url=type_url, contents=len(digests), message=message[:2048])

    def unsafe(self, name: str, reason: str) -> None:
        """Log that a resource was held back."""
        _log.error("resource withheld", name=name, reason=reason)

    # ---- the agent's own

    def has_leaf(self, holder: Holder, leaf: Leaf, generation: int) -> None:
        """Note that a holder has a leaf, and a trust generation (0: that is told otherwise)."""
        self._note(Acknowledgement(word_of(holder.name), str(leaf.spiffe_id), leaf.serial, generation))

    def follows(self, holder: str, spiffe_id: SpiffeId, generation: int, until: datetime, /) -> None:
        """Note that a process has a generation of the JWT bundle, and counts as following it until then."""
        self._waiting[holder, str(spiffe_id)] = Acknowledgement(
            holder, str(spiffe_id), jwt_generation=generation, jwt_until=until
        )
        self._something.set()

    def file_in_use(self, word: str, spiffe_id: str, serial: str, generation: int) -> None:
        """Note what a drop of this host has in use."""
        self._note(Acknowledgement(word, spiffe_id, serial, generation))

    def own(self, spiffe_id: SpiffeId, serial: str, generation: int) -> None:
        """Note what the agent itself has."""
        self._note(Acknowledgement(OWN, str(spiffe_id), serial, generation))

    async def run(self) -> None:
        """Tell the server, until cancelled."""
        while True:
            await self._something.wait()
            self._something.clear()
            try:
                await self._flush()
            except UnavailableError:
                await asyncio.sleep(_PAUSE)
                self._something.set()
            except MeshcaError as error:
                _log.warning("the server did not take an acknowledgement", reason=str(error))

    async def _flush(self) -> None:
        waiting, self._waiting = self._waiting, {}
        refusals = tuple(self._refusals)
        try:
            if waiting:
                await self._acknowledge(tuple(waiting.values()))
            if refusals:
                await self._report(refusals)
                for _ in refusals:
                    self._refusals.popleft()
        except UnavailableError:
            self._waiting = {**waiting, **self._waiting}
            raise

    def _note(self, note: Acknowledgement) -> None:
        key = (note.holder, note.spiffe_id)
        known = self._waiting.get(key, note)
        generation = max(known.generation, note.generation)
        self._waiting[key] = replace(note, serial=note.serial or known.serial, generation=generation)
        self._something.set()
