"""How one CA follows another: ticks, commands, and what is told about them.

Rules: a tick moves each slot by one step at most; a command makes its step due and moves the slot at once; an attempt
that failed is repeated later each time; whoever was left behind at a deadline is named until it has caught up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import structlog

from meshca.authority import audit
from meshca.authority.audit import AuditEntry
from meshca.authority.ports import Straggler
from meshca.authority.problems import Problems
from meshca.authority.records import ISSUING, ROOT, AuthorityRecord, Role
from meshca.authority.rotation import ACTOR, Done, Rotation
from meshca.authority.slots import Activate, Prepare, Slots
from meshca.authority.trust import Trust
from meshca.errors import ConflictError, InvalidInputError, MeshcaError, NotFoundError

_log = structlog.get_logger(__name__)

_FIRST_PAUSE, _LONGEST_PAUSE = timedelta(seconds=1), timedelta(minutes=5)
# From nothing that is valid to a root and an issuing CA that sign takes two steps each; the rest takes out what is old.
_MOST_STEPS = 12
_NAMED = 5
_EXPIRED = "trust in the root"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a CA has come: who must acknowledge it and has not, of how many, and until when that is waited for."""

    record: AuthorityRecord
    holders: int
    waiting_for: tuple[Straggler, ...]
    deadline: datetime | None


@dataclass(slots=True)
class _Pause:
    """When a slot whose step failed is tried again."""

    until: datetime
    span: timedelta


@dataclass(slots=True)
class Succession:
    """Moves the slots. Any thread may call it; ``changing`` lets one change of trust run at a time."""

    rotation: Rotation
    problems: Problems
    changing: AbstractContextManager[object]
    adopt: Callable[[Trust], None]
    _pauses: dict[Role, _Pause] = field(default_factory=dict)
    _left_behind: dict[Role, Activate] = field(default_factory=dict)

    def advance(self) -> tuple[Done, ...]:
        """Make the step that is due for each slot; what fails is a problem, and comes again."""
        with self.changing:
            made = tuple(done for role in (ROOT, ISSUING) if (done := self._tried(role)) is not None)
            self._watch_those_left_behind()
            self._watch_the_root()
            return made

    def settle(self) -> tuple[Done, ...]:
        """Make steps until none is due now: after a start, or a command."""
        made: list[Done] = []
        while len(made) < _MOST_STEPS and (more := self.advance()):
            made += more
        return tuple(made)

    def rotate(self, role: Role, actor: str) -> str:
        """Replace a root or issuing CA before its time, and return the id of its successor.

        Raises:
            ConflictError: Its key isn't ours to replace, or issuance is frozen.
            MeshcaError: It could not be prepared; nothing was changed.
        """
        with self.changing:
            found = self._hastened(role, actor) or self._commanded(role, actor)
            self.settle()
            return found

    def taint(self, ca_id: str, actor: str) -> tuple[str, ...]:
        """Mark a CA as believed stolen, with all below it; returns those that were not yet.

        Raises:
            NotFoundError: No CA in use has this id.
            ConflictError: It is tainted already.
        """
        with self.changing:
            slots = self._slots()
            record = next((one for one in slots.records if one.id == ca_id), None)
            if record is None:
                raise NotFoundError("no CA in use has this id", field="ID", value=ca_id, remedy="see meshca ca show")
            concerned = [record, *_below(record, slots)]
            entries = [AuditEntry(audit.TAINT, one.id, audit.OK, f"{one.role} CA", actor) for one in concerned]
            marked = self.rotation.ports.ledger.taint([one.id for one in concerned], slots.now, entries)
            if not marked:
                raise ConflictError("it is tainted already", field="ID", value=ca_id, remedy="see meshca ca show")
            _log.warning("tainted", authorities=marked, actor=actor)
            self._pauses.clear()
            self.settle()
            return tuple(marked)

    def progress(self, ca_id: str) -> Progress:
        """Return how far a CA has come.

        Raises:
            NotFoundError: There is none with this id.
        """
        slots = self._slots()
        record = next((one for one in slots.records if one.id == ca_id), None)
        if record is None:
            raise NotFoundError("no CA in use has this id", field="ID", value=ca_id, remedy="see meshca ca show")
        return self._progress(record, slots)

    def progresses(self) -> list[Progress]:
        """Return how far each CA in use has come, all at one moment: one may leave between two questions."""
        slots = self._slots()
        return [self._progress(record, slots) for record in slots.records]

    def _progress(self, record: AuthorityRecord, slots: Slots) -> Progress:
        return Progress(record, self.rotation.ports.acknowledgements.holders(slots.now), *self._awaited(record, slots))

    def newest_below(self, ca_id: str) -> AuthorityRecord | None:
        """Return the issuing CA below a root that was made last, an upstream's CAs between them or not."""
        slots = self._slots()
        below = [record for record in slots.records if record.role == ISSUING and _is_below(record, ca_id, slots)]
        return max(below, key=lambda record: record.generation, default=None)

    def _awaited(self, record: AuthorityRecord, slots: Slots) -> tuple[tuple[Straggler, ...], datetime | None]:
        pace, acknowledgements = self.rotation.pace, self.rotation.ports.acknowledgements
        if record.state == "prepared":
            deadline = pace.acknowledged_by(record, slots.live(record.role))
            return tuple(acknowledgements.stragglers(record.generation, slots.now)), deadline
        if record.state == "old" and record.role == ISSUING:
            return tuple(acknowledgements.still_on(record.id, slots.now)), None
        return (), None

    def _slots(self) -> Slots:
        return Slots.of(self.rotation.ports.ledger.authorities(), self.rotation.ports.clock.now())

    def _hastened(self, role: Role, actor: str) -> str:
        """Make the activation of what is prepared already due now, and return its id."""
        slots = self._slots()
        prepared = slots.one(role, "prepared")
        if prepared is None:
            return ""
        reason = f"{role} CA: activation is due now, by command"
        self.rotation.ports.ledger.hasten(
            prepared.id, slots.now, AuditEntry(audit.ROTATE, prepared.id, audit.OK, reason, actor)
        )
        return prepared.id

    def _commanded(self, role: Role, actor: str) -> str:
        self._require_ours(role)
        done = self.rotation.step(role, wanted=True, actor=actor)
        while done is not None and not isinstance(done.step, Prepare):  # something else was due first
            self._made(role, done)
            done = self.rotation.step(role, wanted=True, actor=actor)
        if done is None:
            raise ConflictError(
                f"no {role} CA can be prepared now", field="rotate", value=role, remedy="see meshca status"
            )
        self._made(role, done)
        return done.ca_id

    def _require_ours(self, role: Role) -> None:
        active = self._slots().one(role, "active")
        if role == ROOT and active is not None and not active.is_ours:
            raise InvalidInputError(
                "the root is an upstream's and is replaced there",
                field="rotate",
                value=role,
                remedy="replace it at the upstream, then run `meshca rotate issuing`",
            )

    def _tried(self, role: Role) -> Done | None:
        now = self.rotation.ports.clock.now()
        pause = self._pauses.get(role)
        if pause is not None and pause.until - pause.span <= now < pause.until:
            return None
        try:
            done = self.rotation.step(role)
        except ConflictError as error:
            _log.info("rotation raced", role=role, reason=str(error))  # another process made a step; ours comes again
            return None
        except MeshcaError as error:
            self._failed(role, error, now)
            return None
        self._pauses.pop(role, None)
        self.problems.clear(_slot(role))
        if done is not None:
            self._made(role, done)
        return done

    def _failed(self, role: Role, error: MeshcaError, now: datetime) -> None:
        known = self._pauses.get(role)
        span = min(known.span * 2, _LONGEST_PAUSE) if known else _FIRST_PAUSE
        self._pauses[role] = _Pause(now + span, span)
        if self.problems.put(_slot(role), str(error), now):
            _log.error("rotation failed", role=role, reason=str(error), again_in=span.total_seconds())
            self.rotation.ports.ledger.record_audit([AuditEntry(audit.ROTATE, role, audit.FAILED, str(error), ACTOR)])

    def _made(self, role: Role, done: Done) -> None:
        step = type(done.step).__name__.lower()
        behind = [str(straggler) for straggler in done.left_behind]
        log = _log.warning if behind else _log.info
        log(
            "rotation",
            step=step,
            role=role,
            ca=done.ca_id,
            generation=done.trust.generation,
            left_behind=behind[:_NAMED],
        )
        if isinstance(done.step, Activate):
            self._left_behind[role] = done.step
        self.adopt(done.trust)

    def _watch_those_left_behind(self) -> None:
        for role, step in list(self._left_behind.items()):
            now = self.rotation.ports.clock.now()
            behind = step.left_behind and self.rotation.ports.acknowledgements.stragglers(step.prepared.generation, now)
            if behind:
                self.problems.put(_behind(role), _without(step.prepared, behind), now)
            else:
                self.problems.clear(_behind(role))
                del self._left_behind[role]

    def _watch_the_root(self) -> None:
        slots = self._slots()
        root = slots.one(ROOT, "active")
        if root is None or root.not_after > slots.now:
            self.problems.clear(_EXPIRED)
            return
        since = root.not_after.isoformat(timespec="seconds")
        remedy = "run `meshca rotate root`" if root.is_ours else "bring a chain below another root"
        reason = f"the root {root.id} expired on {since}: no certificate of this trust domain verifies; {remedy}"
        if self.problems.put(_EXPIRED, reason, slots.now):
            _log.error("root expired", ca=root.id, since=since, remedy=remedy)


def _is_below(record: AuthorityRecord, root_id: str, slots: Slots) -> bool:
    root = slots.root_of(record)
    return root is not None and root.id == root_id


def _below(record: AuthorityRecord, slots: Slots) -> list[AuthorityRecord]:
    """Return every CA below one: whoever stole its key can have made others like them."""
    found: list[AuthorityRecord] = []
    for child in slots.children(record):
        found += [child, *_below(child, slots)]
    return found


def _without(prepared: AuthorityRecord, behind: Sequence[Straggler]) -> str:
    names = ", ".join(map(str, behind[:_NAMED])) + (f" and {len(behind) - _NAMED} more" if len(behind) > _NAMED else "")
    return f"CA {prepared.id} was activated at its deadline without {names}: see that they connect"


def _slot(role: Role) -> str:
    return f"rotation of the {role} CA"


def _behind(role: Role) -> str:
    return f"acknowledgement of the {role} CA"
