"""The leaves that streams hold: one for each Envoy and identity.

Rules kept here:
- All streams of one Envoy, which is an attested process with a ``node.id``, share one leaf; no two share a key.
- A leaf is renewed at half life ± 10 %, never late: once its time has come, nobody is given the old one as new.
- A revoked leaf is forgotten at once, and a new one is made and pushed; for a suspended identity none is made.
- A renewal that fails is tried again, with growing pauses, while the old leaf serves on: ours, or the one that the
  holder says it has.
- A leaf that nobody has asked about for a minute is forgotten, key and all.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import structlog

from meshca.delivery.peers import Peer, actor_of, holder_name
from meshca.delivery.ports import Clock, Issuing, Leaf
from meshca.errors import MeshcaError
from meshca.spiffe.id import SpiffeId

_log = structlog.get_logger(__name__)

_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 60.0
_IDLE = timedelta(minutes=1)
# A tick comes twelve times in a life, and half of a life is left when a leaf is due.
_RENEWED_A_TICK, _SPREAD_OVER_TICKS = 50, 4
# Only those that are revoked between their commit and their arrival here are looked for.
_REMEMBERED_DEAD = 4096

Told = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a leaf: a process or agent under a ``node.id``, with an identity."""

    process: Peer
    node_id: str
    spiffe_id: SpiffeId

    @property
    def name(self) -> str:
        """Return how the ledger calls this holder."""
        return holder_name(self.process, self.node_id)

    @property
    def requested_by(self) -> str:
        """Return how the ledger calls who asked."""
        return actor_of(self.process)


@dataclass(slots=True, eq=False)
class _Slot:
    """What is known of one holder."""

    leaf: Leaf | None = None
    renew_at: datetime | None = None
    making: asyncio.Task[Leaf] | None = None
    timer: asyncio.TimerHandle | None = None
    told: set[Told] = field(default_factory=set)
    idle_since: datetime | None = None
    pause: float = _FIRST_PAUSE


def renewal_time(leaf: Leaf, chance: float) -> datetime:
    """Return half life ± 10 %; ``chance`` is in [0, 1). A fleet must not renew in one second."""
    return _part_of_life(leaf, 0.4 + 0.2 * chance)


class Leaves:
    """All leaves of live streams. Lives on one event loop."""

    def __init__(self, issuing: Issuing, clock: Clock, chance: Callable[[], float]) -> None:
        self._issuing = issuing
        self._clock = clock
        self._chance = chance
        self._slots: dict[Holder, _Slot] = {}
        self._dead: deque[str] = deque(maxlen=_REMEMBERED_DEAD)

    @property
    def clock(self) -> Clock:
        """Return where its time comes from."""
        return self._clock

    def attach(self, holder: Holder, told: Told) -> None:
        """Call ``told`` whenever this holder's leaf has been replaced."""
        slot = self._slots.setdefault(holder, _Slot())
        slot.told.add(told)
        slot.idle_since = None

    def detach(self, holder: Holder, told: Told) -> None:
        """End an ``attach``."""
        if slot := self._slots.get(holder):
            slot.told.discard(told)
            if not slot.told:
                slot.idle_since = self._clock.now()

    async def get(self, holder: Holder, held: str = "") -> Leaf:
        """Return the holder's leaf, making one where there is none; ``held`` is a serial that it says it has.

        Raises:
            MeshcaError: None could be made.
        """
        slot = self._slots.setdefault(holder, _Slot(idle_since=self._clock.now()))
        if not slot.leaf and not slot.making and held:
            await self._adopt(holder, slot, held, until=0.5)
        if slot.leaf and self._fresh(slot) and _sendable(slot.leaf, held):
            return slot.leaf
        try:
            # Shielded: a stream that goes away must not take the leaf from the others that wait for it.
            return await asyncio.shield(self._making(holder, slot))
        except MeshcaError:
            if not slot.leaf and held:
                await self._adopt(holder, slot, held, until=1.0)
            if slot.leaf and slot.leaf.not_after > self._clock.now() and _sendable(slot.leaf, held):
                return slot.leaf
            raise

    def revoked(self, serials: Collection[str], *, suspended: bool) -> dict[Holder, str]:
        """Forget these leaves; make and push new ones, unless their identity is suspended.

        Returns who is given a new one, and the serial of the old.
        """
        self._dead.extend(serials)
        renewed: dict[Holder, str] = {}
        for holder, slot in list(self._slots.items()):
            if slot.leaf and slot.leaf.serial in serials:
                old, slot.leaf = slot.leaf.serial, None
                self._stop(slot)
                if not suspended and slot.told:
                    renewed[holder] = old
                    self._renew(holder)
        return renewed

    def rotate(self, spiffe_id: SpiffeId) -> int:
        """Replace every leaf of an identity now; return how many live holders get one."""
        holders = [holder for holder, slot in self._slots.items() if holder.spiffe_id == spiffe_id and slot.told]
        for holder in holders:
            self._renew(holder)
        return len(holders)

    def replace(self, issuers: Collection[str], most: int) -> None:
        """Replace leaves of these CAs, at most so many at a time."""
        making = sum(slot.making is not None for slot in self._slots.values())
        for holder, slot in list(self._slots.items()):
            if making >= most:
                return
            if slot.told and slot.leaf and slot.leaf.issuer_id in issuers and not slot.making:
                self._renew(holder)
                making += 1

    def tick(self) -> None:
        """Renew what is due by the wall clock, whatever timers did meanwhile, and forget what is idle.

        Where the clock was set forward all are due at once: those whose leaf still serves are spread over ticks.
        """
        now = self._clock.now()
        due: list[Holder] = []
        for holder, slot in list(self._slots.items()):
            if slot.idle_since and now - slot.idle_since >= _IDLE and not slot.making:
                self._stop(slot)
                del self._slots[holder]
            elif slot.told and slot.renew_at and slot.renew_at <= now and not slot.making:
                due.append(holder)
        patient = [holder for holder in due if (leaf := self._slots[holder].leaf) and leaf.not_after > now]
        at_once = max(_RENEWED_A_TICK, len(self._slots) // _SPREAD_OVER_TICKS)
        for holder in [*(holder for holder in due if holder not in set(patient)), *patient[:at_once]]:
            self._renew(holder)

    def ends(self) -> list[datetime]:
        """Return when the leaves end that somebody holds."""
        return [slot.leaf.not_after for slot in self._slots.values() if slot.leaf is not None and slot.told]

    async def close(self) -> None:
        """Stop all timers; wait for what is being made."""
        for slot in self._slots.values():
            self._stop(slot)
        making = [slot.making for slot in self._slots.values() if slot.making]
        await asyncio.gather(*making, return_exceptions=True)
        self._slots.clear()

    async def _adopt(self, holder: Holder, slot: _Slot, serial: str, *, until: float) -> None:
        """Take over the leaf that a holder says it has, until so much of its life is over."""
        leaf = await self._issuing.held(serial, holder.spiffe_id, holder.name)
        if leaf and not slot.leaf and not slot.making and self._clock.now() < _part_of_life(leaf, until):
            self._put(holder, slot, leaf)

    def _fresh(self, slot: _Slot) -> bool:
        return slot.renew_at is not None and self._clock.now() < slot.renew_at

    def _making(self, holder: Holder, slot: _Slot) -> asyncio.Task[Leaf]:
        if slot.making is None:
            slot.making = asyncio.create_task(self._make(holder, slot))
            slot.making.add_done_callback(_seen)
        return slot.making

    async def _make(self, holder: Holder, slot: _Slot) -> Leaf:
        try:
            leaf = await self._issuing.leaf(holder.spiffe_id, holder.name, holder.requested_by)
            while leaf.serial in self._dead:
                leaf = await self._issuing.leaf(holder.spiffe_id, holder.name, holder.requested_by)
        finally:
            slot.making = None
        slot.pause = _FIRST_PAUSE
        self._put(holder, slot, leaf)
        return leaf

    def _put(self, holder: Holder, slot: _Slot, leaf: Leaf) -> None:
        self._stop(slot)
        slot.leaf = leaf
        slot.renew_at = renewal_time(leaf, self._chance())
        self._wake_in(holder, slot, (slot.renew_at - self._clock.now()).total_seconds())

    def _wake_in(self, holder: Holder, slot: _Slot, seconds: float) -> None:
        slot.timer = asyncio.get_running_loop().call_later(max(seconds, 0.0), self._due, holder)

    def _due(self, holder: Holder) -> None:
        if slot := self._slots.get(holder):
            slot.timer = None
            if slot.told:
                self._renew(holder)

    def _renew(self, holder: Holder) -> None:
        """Make a new leaf and tell those who hold the old one."""
        slot = self._slots[holder]
        self._stop(slot)
        if slot.making is None:
            self._making(holder, slot)
        if slot.making is not None:
            slot.making.add_done_callback(lambda task: self._renewed(holder, task))

    def _renewed(self, holder: Holder, task: asyncio.Task[Leaf]) -> None:
        slot = self._slots.get(holder)
        if slot is None or task.cancelled():
            return
        if error := task.exception():
            _log.warning("renewal failed", spiffe_id=str(holder.spiffe_id), holder=holder.name, reason=str(error))
            if slot.timer is None:
                self._wake_in(holder, slot, slot.pause)
                slot.pause = min(slot.pause * 2, _LONGEST_PAUSE)
            return
        for told in tuple(slot.told):
            told()

    def _stop(self, slot: _Slot) -> None:
        if slot.timer:
            slot.timer.cancel()
            slot.timer = None


def _part_of_life(leaf: Leaf, part: float) -> datetime:
    """Count from the signature, not from the back-dated start: a short life would be half over at once."""
    return leaf.signed_at + (leaf.not_after - leaf.signed_at) * part


def _sendable(leaf: Leaf, held: str) -> bool:
    """Whether the holder can have this leaf: we have its key, or it has it already."""
    return bool(leaf.key_pem) or leaf.serial == held


def _seen(task: asyncio.Task[Leaf]) -> None:
    # Whoever waits gets the error; without this a failure nobody waited for would be reported as never retrieved.
    if not task.cancelled():
        task.exception()
