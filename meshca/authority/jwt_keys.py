"""The keys that sign JWT-SVIDs: when one is made, put in office and taken away.

Rules (design §7): ``slots`` decides by the rules that CAs have, this only does it; a key signs only after everybody who
follows the bundle was given it, and after those who fetch it now and then have had the time to; an old key stays until
its last token has expired; a tainted one goes as soon as its successor signs. The first key is made when a token, or
the bundle, is first asked for, or at the start where readers of OpenID Connect are to find one. What fails changes
nothing and is tried again, later each time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import structlog

from meshca.authority import audit
from meshca.authority.audit import AuditEntry
from meshca.authority.events import Event, JwtTrustChanged
from meshca.authority.jwt_trust import JwtTrust, build_jwt_trust
from meshca.authority.ports import Move, Ports, Straggler, TrustChange
from meshca.authority.problems import Problems
from meshca.authority.records import JWT, AuthorityRecord
from meshca.authority.rotation import ACTOR, activation, named
from meshca.authority.slots import Activate, Pace, Prepare, Remove, Slots, Step, next_step
from meshca.authority.succession import Progress
from meshca.errors import ConflictError, MeshcaError, NotFoundError
from meshca.spiffe.id import TrustDomain

_log = structlog.get_logger(__name__)

REFRESHED = timedelta(minutes=5)
"""How often those who fetch the bundle over HTTP are told to fetch it again."""
_ROTATION = "rotation of the JWT signing key"
_FIRST_PAUSE, _LONGEST_PAUSE = timedelta(seconds=1), timedelta(minutes=5)
_MOST_STEPS = 6


@dataclass(frozen=True, slots=True)
class _Observation:
    """Implements ``slots.Observed``: of a signing key only the followers of the bundle matter."""

    ports: Ports
    now: datetime

    def behind(self, generation: int) -> Sequence[Straggler]:
        return self.ports.jwt_holders.behind(generation, self.now)

    def still_on(self, _: str) -> Sequence[Straggler]:
        return ()

    def last_expiry(self, _: str, __: datetime) -> datetime | None:
        return None


@dataclass(slots=True)
class JwtKeys:
    """The slot of signing keys. Any thread may call it."""

    ports: Ports
    trust_domain: TrustDomain
    pace: Pace
    problems: Problems
    emit: Callable[[Event], None]
    eager: bool = False  # make the first key before anybody asks
    trust: JwtTrust = field(default_factory=JwtTrust)
    _changing: threading.RLock = field(default_factory=threading.RLock)
    _again_at: datetime | None = None
    _pause: timedelta = _FIRST_PAUSE

    def __post_init__(self) -> None:
        """Read what the ledger holds."""
        self.trust = self._stored(self.ports.clock.now())

    def require(self) -> JwtTrust:
        """Return the keys, having made the first where there is none that signs.

        Raises:
            MeshcaError: It cannot be made.
        """
        now = self.ports.clock.now()
        if self.trust.signing is None or self.trust.signing.not_after <= now:
            with self._changing:
                try:
                    while self._step(wanted=False) is not None:
                        pass
                except ConflictError:  # another process was faster, and what it made is ours as well
                    self._adopt(now)
        return self.trust

    def refresh(self) -> None:
        """Read again what another process may have changed."""
        with self._changing:
            self._adopt(self.ports.clock.now())

    def advance(self) -> tuple[Step, ...]:
        """Make what steps are due; what fails is a problem, and comes again. The first key waits for ``require``."""
        with self._changing:
            now = self.ports.clock.now()
            if self._again_at is not None and self._again_at - _LONGEST_PAUSE <= now < self._again_at:
                return ()
            if not self.eager and not self.ports.ledger.jwt_keys():
                return ()
            try:
                made = self._settled()
            except ConflictError as error:  # another process was faster; ours comes again
                _log.info("rotation raced", role=JWT, reason=str(error))
                return ()
            except MeshcaError as error:
                self._failed(error, now)
                return ()
            self._again_at, self._pause = None, _FIRST_PAUSE
            self.problems.clear(_ROTATION)
            return made

    def rotate(self, actor: str) -> str:
        """Replace the signing key before its time, and return its successor's id.

        Raises:
            MeshcaError: It could not be prepared; nothing was changed.
        """
        with self._changing:
            self.require()
            prepared = self._slots().one(JWT, "prepared")
            if prepared is None:
                step = self._step(wanted=True, actor=actor)
                while step is not None and not isinstance(step, Prepare):  # something else was due first
                    step = self._step(wanted=True, actor=actor)
                prepared = self._slots().one(JWT, "prepared")
            if prepared is None:
                raise ConflictError("no key can be prepared now", field="rotate", value=JWT, remedy="see meshca status")
            self._hasten(prepared, actor)
            self.advance()
            return prepared.id

    def taint(self, key_id: str, actor: str) -> None:
        """Mark a signing key as believed stolen.

        Raises:
            NotFoundError: No key in use has this id.
            ConflictError: It is tainted already.
        """
        with self._changing:
            now, record = self.ports.clock.now(), self.find(key_id)
            if record is None:
                raise NotFoundError("no key in use has this id", field="ID", value=key_id, remedy="see meshca ca show")
            entry = AuditEntry(audit.TAINT, key_id, audit.OK, "JWT signing key", actor)
            if not self.ports.ledger.taint([key_id], now, [entry]):
                raise ConflictError("it is tainted already", field="ID", value=key_id, remedy="see meshca ca show")
            _log.warning("tainted", authorities=[key_id], actor=actor)
            self._again_at = None
            self.advance()
            self._adopt(now)

    def find(self, key_id: str) -> AuthorityRecord | None:
        """Return the key in use that has this id."""
        return next((record for record in self._slots().records if record.id == key_id), None)

    def progress(self) -> tuple[Progress, ...]:
        """Return how far each key in use has come: who follows the bundle and was not given it yet, until when."""
        slots, found = self._slots(), []
        holders = self.ports.jwt_holders.holders(slots.now)
        for record in slots.records:
            behind: tuple[Straggler, ...] = ()
            deadline = None
            if record.state == "prepared":
                behind = tuple(self.ports.jwt_holders.behind(record.generation, slots.now))
                deadline = self.pace.acknowledged_by(record, slots.live(JWT))
            found.append(Progress(record, holders, behind, deadline))
        return tuple(found)

    # ---- inside

    def _slots(self) -> Slots:
        return Slots.of(self.ports.ledger.jwt_keys(), self.ports.clock.now())

    def _settled(self) -> tuple[Step, ...]:
        made: list[Step] = []
        while len(made) < _MOST_STEPS and (step := self._step(wanted=False)) is not None:
            made.append(step)
        self._adopt(self.ports.clock.now())  # what another process has done, or time
        return tuple(made)

    def _step(self, *, wanted: bool, actor: str = ACTOR) -> Step | None:
        now, records = self.ports.clock.now(), self.ports.ledger.jwt_keys()
        step = next_step(JWT, Slots.of(records, now), self.pace, _Observation(self.ports, now), wanted=wanted)
        if step is None or (isinstance(step, Prepare) and self.ports.ledger.frozen() is not None):
            return None
        change, key_id = self._change(step, records, now)
        self.ports.ledger.change_jwt_keys(change, [_entry(step, key_id, change.generation, actor)])
        behind = () if isinstance(step, Prepare) else step.left_behind
        log = _log.warning if behind else _log.info
        log("rotation", step=type(step).__name__.lower(), role=JWT, key=key_id, generation=change.generation)
        self._adopt(now)
        return step

    def _change(self, step: Step, records: Sequence[AuthorityRecord], now: datetime) -> tuple[TrustChange, str]:
        generation = self.ports.ledger.jwt_generation() + 1
        match step:
            case Prepare():
                made = self._made(step, records, generation, now)
                return TrustChange(generation, added=(made,)), made.id
            case Activate():
                return activation(step, records, generation, now), step.prepared.id
            case Remove():
                moved = Move(step.record.id, step.record.state, "removed", now)
                return TrustChange(generation, moved=(moved,)), step.record.id

    def _made(
        self, step: Prepare, records: Sequence[AuthorityRecord], generation: int, now: datetime
    ) -> AuthorityRecord:
        key = self.ports.keys.create(JWT, self.trust_domain, generation)
        return AuthorityRecord(
            id=key.key_id,
            role=JWT,
            state="prepared",
            generation=generation,
            certificate=b"",
            parent_id=key.key_id,
            key_ref=self.ports.keys.reference(key, generation),
            not_before=now,
            not_after=now + self.pace.lifetimes.issuing,
            prepared_at=now,
            activate_at=self._activate_at(step, records, now),
            spki=key.spki,
        )

    def _activate_at(self, step: Prepare, records: Sequence[AuthorityRecord], now: datetime) -> datetime:
        """Give those who fetch the bundle now and then the time to; not where nothing good signs meanwhile."""
        live = Slots.of(records, now).live(JWT)
        if live is None or live.tainted_at is not None:
            return step.activate_at
        return max(step.activate_at, now + self.spread)

    @property
    def spread(self) -> timedelta:
        """How long a key is published before it signs, at least."""
        return min(REFRESHED, self.pace.lifetimes.issuing / 12)

    def _hasten(self, prepared: AuthorityRecord, actor: str) -> None:
        due = max(self.ports.clock.now(), (prepared.prepared_at or prepared.not_before) + self.spread)
        reason = f"JWT signing key: activation is due {due.isoformat(timespec='seconds')}, by command"
        self.ports.ledger.hasten(prepared.id, due, AuditEntry(audit.ROTATE, prepared.id, audit.OK, reason, actor))

    def _stored(self, now: datetime) -> JwtTrust:
        return build_jwt_trust(self.ports.ledger.jwt_generation(), self.ports.ledger.jwt_keys(), now)

    def _adopt(self, now: datetime) -> None:
        before, self.trust = self.trust, self._stored(now)
        if self.trust != before:
            self.emit(JwtTrustChanged(self.trust))

    def _failed(self, error: MeshcaError, now: datetime) -> None:
        self._again_at, self._pause = now + self._pause, min(self._pause * 2, _LONGEST_PAUSE)
        if self.problems.put(_ROTATION, str(error), now):
            _log.error("rotation failed", role=JWT, reason=str(error))
            entry = AuditEntry(audit.ROTATE, JWT, audit.FAILED, str(error), ACTOR)
            self.ports.ledger.record_audit([entry])


def _entry(step: Step, key_id: str, generation: int, actor: str) -> AuditEntry:
    match step:
        case Prepare(activate_at=activate_at, why=why):
            what = f"prepared, {why}; activation due {activate_at.isoformat(timespec='seconds')} at the earliest"
        case Activate(left_behind=behind):
            what = f"activated{named(behind)}"
        case Remove(why=why):
            what = f"removed, {why}"
    reason = f"JWT signing key {what}; generation {generation} of the JWT bundle"
    return AuditEntry(audit.ROTATE, key_id, audit.OK, reason, actor)
