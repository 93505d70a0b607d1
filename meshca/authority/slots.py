"""Which step each slot of trust takes next: a function of the CAs, the time, and who has acknowledged what.

There is one slot for the root, one for the issuing CA, and one for the key that signs JWT-SVIDs. What is in a slot goes
prepared → active → old → removed.

Rules (design §7):
- A CA is prepared at half life of the active one and activated at 5/6 of that life, or one child life before its end,
  whichever is earlier; a command makes both due at once.
- Nobody's leaf is signed by a CA that somebody else doesn't trust yet: activation waits until every holder of an
  unexpired leaf has acknowledged the trust that carries it. After the deadline it goes on, and names those left behind.
- Old trust goes when its last leaf has expired plus a minute, and every holder has acknowledged a leaf of another CA.
  One that is believed stolen goes with the acknowledgements.
- A slot moves one step at a time, whatever the clock did; an expired root is never replaced without a command, nor
  is one that an operator brought.
- An upstream's root comes and goes with the issuing CAs below it; past its end the upstream is asked for another.
- A signing key is no CA, but waits and goes in the same way: its children are tokens, which live five minutes at most.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from meshca.authority.certify import is_brought, issuer_of
from meshca.authority.lifetimes import Lifetimes
from meshca.authority.ports import Straggler
from meshca.authority.records import ISSUING, JWT, ROOT, AuthorityRecord, AuthorityState, Role
from meshca.spiffe.jwtsvid import LONGEST_LIFE
from meshca.x509.plan import BACKDATING

GRACE = timedelta(seconds=60)
_ACTIVATION_SHARE = 5 / 6


class Observed(Protocol):
    """What the ledger says at one moment; each is asked only where a step depends on it."""

    def behind(self, generation: int) -> Sequence[Straggler]:
        """Return who has not acknowledged this trust generation."""

    def still_on(self, issuer_id: str) -> Sequence[Straggler]:
        """Return who may still serve a leaf of this CA."""

    def last_expiry(self, issuer_id: str, since: datetime) -> datetime | None:
        """Return when the last leaf of this CA ends that was asked for since then."""


@dataclass(frozen=True, slots=True)
class Prepare:
    """Make a new CA."""

    role: Role
    activate_at: datetime
    why: str


@dataclass(frozen=True, slots=True)
class Activate:
    """Let the prepared CA sign; ``left_behind`` had not acknowledged it when the deadline came."""

    prepared: AuthorityRecord
    left_behind: tuple[Straggler, ...] = ()


@dataclass(frozen=True, slots=True)
class Remove:
    """Take a CA out of trust."""

    record: AuthorityRecord
    why: str
    left_behind: tuple[Straggler, ...] = ()


Step = Prepare | Activate | Remove


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast slots move. ``ack_deadline`` None: half of the time from activation to expiry."""

    lifetimes: Lifetimes
    ack_deadline: timedelta | None = None

    def prepare_at(self, record: AuthorityRecord) -> datetime:
        """Return half of the life of a CA, counted from its signature."""
        return _signed_at(record) + (record.not_after - _signed_at(record)) / 2

    def activate_at(self, record: AuthorityRecord) -> datetime:
        """Return when the successor of an active CA should sign."""
        life = record.not_after - _signed_at(record)
        child = self.lifetimes.issuing if record.role == ROOT else self.lifetimes.leaf
        return min(_signed_at(record) + life * _ACTIVATION_SHARE, record.not_after - child)

    def acknowledged_by(self, prepared: AuthorityRecord, active: AuthorityRecord | None) -> datetime:
        """Return until when activation waits for acknowledgements."""
        due = prepared.activate_at or prepared.not_before
        if active is None:
            return due
        patience = max((active.not_after - due) / 2, timedelta(0)) if self.ack_deadline is None else self.ack_deadline
        if active.tainted_at is not None:
            # Whoever has a signing key is anybody until it is gone, and no handshake waits for its successor.
            patience = min(patience, GRACE if prepared.role == JWT else self.lifetimes.leaf / 2)
        return due + patience

    def removed_by(self, old: AuthorityRecord, idle_since: datetime) -> datetime:
        """Return until when the removal of an old CA waits for acknowledgements of other leaves."""
        if old.tainted_at is not None:
            return idle_since + min(self.ack_deadline or self.lifetimes.leaf, self.lifetimes.leaf / 2)
        return idle_since + (self.ack_deadline or max((old.not_after - idle_since) / 2, timedelta(0)))


@dataclass(frozen=True, slots=True)
class Slots:
    """The CAs of a realm that are not removed, at one moment."""

    records: tuple[AuthorityRecord, ...]
    now: datetime

    @classmethod
    def of(cls, records: Iterable[AuthorityRecord], now: datetime) -> Slots:
        """Leave out what is removed."""
        return cls(tuple(record for record in records if record.state != "removed"), now)

    def one(self, role: Role, state: AuthorityState) -> AuthorityRecord | None:
        """Return the CA of this role and state, oldest first where there are several."""
        return next((record for record in self.records if (record.role, record.state) == (role, state)), None)

    def live(self, role: Role) -> AuthorityRecord | None:
        """Return the active CA of this role unless it has expired."""
        active = self.one(role, "active")
        return active if active is not None and active.not_after > self.now else None

    def root_of(self, record: AuthorityRecord) -> AuthorityRecord | None:
        """Return the root above a CA, if it is here."""
        known = {one.id: one for one in self.records}
        above: AuthorityRecord | None = record
        for _ in self.records:  # a chain is no longer than there are CAs, whatever the ledger says
            if above is None or above.role == ROOT:
                return above
            above = known.get(above.parent_id)
        return None

    def children(self, record: AuthorityRecord) -> tuple[AuthorityRecord, ...]:
        """Return the CAs directly below a CA."""
        return tuple(one for one in self.records if one.parent_id == record.id and one.id != record.id)


def next_step(role: Role, slots: Slots, pace: Pace, observed: Observed, *, wanted: bool = False) -> Step | None:
    """Return the step that is due for one slot, if any; ``wanted`` is a command to rotate it now."""
    return (
        _remove_expired(role, slots)
        or _discard(role, slots)
        or _activate(role, slots, pace, observed)
        or _prepare(role, slots, pace, wanted=wanted)
        or _remove_old(role, slots, pace, observed)
    )


def _remove_expired(role: Role, slots: Slots) -> Remove | None:
    """An expired CA is of no use to anybody; the active one leaves its slot with its successor's activation."""
    for record in slots.records:
        if record.role == role and record.state != "active" and record.not_after <= slots.now:
            return Remove(record, "expired")
    return None


def _discard(role: Role, slots: Slots) -> Remove | None:
    """What was prepared is given up where it is tainted, or its root has been replaced meanwhile."""
    prepared = slots.one(role, "prepared")
    if prepared is None:
        return None
    if prepared.tainted_at is not None:
        return Remove(prepared, "tainted before it was used")
    root = slots.root_of(prepared)
    if role == ISSUING and (root is None or root.state == "old"):
        return Remove(prepared, "its root was replaced before it was used")
    return None


def _activate(role: Role, slots: Slots, pace: Pace, observed: Observed) -> Activate | None:
    prepared = slots.one(role, "prepared")
    if prepared is None or not (prepared.is_ours or role == ISSUING):
        return None  # an upstream's root follows the issuing CA below it
    if prepared.activate_at is not None and prepared.activate_at > slots.now:
        return None
    behind = tuple(observed.behind(prepared.generation))
    if behind and slots.now < pace.acknowledged_by(prepared, slots.live(role)):
        return None
    return Activate(prepared, behind)


def _prepare(role: Role, slots: Slots, pace: Pace, *, wanted: bool) -> Prepare | None:
    active = slots.one(role, "active")
    if slots.one(role, "prepared") is not None:
        return None
    if role == JWT:
        return _prepare_key(active, slots, pace, wanted=wanted)
    if active is None:
        return None
    prepare = _prepare_root if role == ROOT else _prepare_issuing
    return prepare(active, slots, pace, wanted=wanted)


def _prepare_key(active: AuthorityRecord | None, slots: Slots, pace: Pace, *, wanted: bool) -> Prepare | None:
    if active is None or active.not_after <= slots.now:
        return Prepare(JWT, slots.now, "none signs now")
    return _prepare_successor(active, slots, pace, wanted=wanted)


def _prepare_issuing(active: AuthorityRecord, slots: Slots, pace: Pace, *, wanted: bool) -> Prepare | None:
    root, above = slots.one(ROOT, "active"), slots.root_of(active)
    if root is None or (root.is_ours and (root.not_after <= slots.now or root.tainted_at is not None)):
        return None  # nothing can be certified, or the root's successor comes first
    if root.not_after <= slots.now:
        return Prepare(ISSUING, slots.now, "the upstream's root has expired")
    if active.not_after <= slots.now:
        return Prepare(ISSUING, slots.now, "the active one has expired")
    if above is None or above.id != root.id:
        return Prepare(ISSUING, slots.now, "the root has been replaced")
    return _prepare_successor(active, slots, pace, wanted=wanted)


def _prepare_root(active: AuthorityRecord, slots: Slots, pace: Pace, *, wanted: bool) -> Prepare | None:
    if not active.is_ours:
        return None
    if active.not_after <= slots.now:
        return Prepare(ROOT, slots.now, "commanded, after the last one had expired") if wanted else None
    if is_brought(issuer_of(active)) and not wanted and active.tainted_at is None:
        return None  # whoever brought it decides about its successor
    return _prepare_successor(active, slots, pace, wanted=wanted)


def _prepare_successor(active: AuthorityRecord, slots: Slots, pace: Pace, *, wanted: bool) -> Prepare | None:
    if active.tainted_at is not None:
        return Prepare(active.role, slots.now, "the active one is tainted")
    if wanted:
        return Prepare(active.role, slots.now, "commanded")
    if slots.now < pace.prepare_at(active):
        return None
    return Prepare(active.role, max(pace.activate_at(active), slots.now), "half of the active one's life is over")


def _remove_old(role: Role, slots: Slots, pace: Pace, observed: Observed) -> Remove | None:
    for record in slots.records:
        if (record.role, record.state) != (role, "old"):
            continue
        if role == ISSUING:
            if (found := _remove_old_issuing(record, slots.now, pace, observed)) is not None:
                return found
        elif role == JWT:
            if (gone := _remove_old_key(record, slots.now)) is not None:
                return gone
        elif not slots.children(record):
            return Remove(record, "no CA below it is left")
    return None


def _remove_old_key(old: AuthorityRecord, now: datetime) -> Remove | None:
    """A token is answered only while its key is active, so that the last one ends a life after that."""
    if old.tainted_at is not None:
        return Remove(old, "tainted")
    last = (old.retired_at or old.not_before) + LONGEST_LIFE
    return Remove(old, "its last token has expired") if now >= last + GRACE else None


def _remove_old_issuing(old: AuthorityRecord, now: datetime, pace: Pace, observed: Observed) -> Remove | None:
    retired = old.retired_at or old.not_before
    if old.tainted_at is not None:
        idle_since, why = max(retired, old.tainted_at), "tainted"
    else:
        # Leaves that were asked for earlier than one life before it retired are gone by then.
        last = observed.last_expiry(old.id, retired - pace.lifetimes.leaf)
        idle_since = max(last or retired, retired) + GRACE
        why = "its last leaf has expired"
    if now < idle_since:
        return None
    left = tuple(observed.still_on(old.id))
    if left and now < pace.removed_by(old, idle_since):
        return None
    return Remove(old, why, left)


def _signed_at(record: AuthorityRecord) -> datetime:
    return record.prepared_at or record.not_before + BACKDATING
