"""Carrying out one step of rotation: make, activate or remove a CA, as one new trust generation.

Rules: ``slots.next_step`` decides, this only does it; the whole next trust is checked before anything is stored, and
stored in one transaction with its audit entries; what fails changes nothing and is tried again, later each time, since
each attempt to prepare leaves a key behind that nobody uses.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime

from meshca.authority import audit
from meshca.authority.audit import AuditEntry
from meshca.authority.certify import LEAST_CHILDREN, CaWish, certify, first_crl, issuer_of
from meshca.authority.crls import plan_crl, sign_crl, tainted_children, united
from meshca.authority.ports import (
    Acknowledgements,
    Keys,
    KeyUnavailableError,
    Ledger,
    Move,
    MovedOnError,
    Ports,
    Signer,
    Straggler,
    TrustChange,
)
from meshca.authority.records import INTERMEDIATE, ISSUING, ROOT, AuthorityRecord, Role
from meshca.authority.slots import Activate, Pace, Prepare, Remove, Slots, Step, next_step
from meshca.authority.trust import Trust, build_trust
from meshca.authority.upstreams import (
    Certification,
    Known,
    Upstream,
    UpstreamChain,
    accepted,
    crls_of,
    is_settled,
    refused,
    travelling,
)
from meshca.spiffe.id import TrustDomain
from meshca.x509.carequest import RequestPlan
from meshca.x509.crl import Crl
from meshca.x509.foreign import ForeignChainError
from meshca.x509.profiles import Profile

ACTOR = "authority"
_ATTEMPTS = 20
_NAMED = 10  # so many stragglers stand in an audit entry by name


@dataclass(frozen=True, slots=True)
class Done:
    """A step that was made, and the trust that it led to."""

    step: Step
    ca_id: str
    trust: Trust

    @property
    def left_behind(self) -> tuple[Straggler, ...]:
        """Return who had not acknowledged when the deadline came."""
        return () if isinstance(self.step, Prepare) else self.step.left_behind


@dataclass(frozen=True, slots=True)
class Observation:
    """What the ledger says at one moment. Implements ``slots.Observed``."""

    ledger: Ledger
    acknowledgements: Acknowledgements
    now: datetime

    def behind(self, generation: int) -> Sequence[Straggler]:
        """Return who has not acknowledged this trust generation."""
        return self.acknowledgements.stragglers(generation, self.now)

    def still_on(self, issuer_id: str) -> Sequence[Straggler]:
        """Return who may still serve a leaf of this CA."""
        return self.acknowledgements.still_on(issuer_id, self.now)

    def last_expiry(self, issuer_id: str, since: datetime) -> datetime | None:
        """Return when the last leaf of this CA ends that was asked for since then."""
        return self.ledger.last_expiry(issuer_id, since)


@dataclass(slots=True)
class _Once:
    """Makes one key, however often a step is computed: it takes long, and each would stay behind in its store."""

    keys: Keys
    made: tuple[Signer, int] | None = None

    def key(self, role: Role, trust_domain: TrustDomain, generation: int) -> tuple[Signer, str]:
        """Return the key, and by which ``key_ref`` a CA of this generation finds it."""
        if self.made is None:
            self.made = (self.keys.create(role, trust_domain, generation), generation)
        key, first = self.made
        return key, key.key_ref if first == generation else self.keys.reference(key, first)


@dataclass(frozen=True, slots=True)
class Rotation:
    """Makes steps. It keeps no state; its caller lets one change of trust run at a time."""

    ports: Ports
    trust_domain: TrustDomain
    profiles: Mapping[str, Profile]
    pace: Pace
    upstream: Upstream

    def step(self, role: Role, *, wanted: bool = False, actor: str = ACTOR) -> Done | None:
        """Make the step that is due for one slot, if any.

        Raises:
            UnsoundTrustError: The next trust would stop handshakes; nothing was stored.
            UnavailableError: A key store, the upstream or the ledger does not answer; nothing was stored.
            ConflictError: Other processes were faster again and again; nothing was stored.
        """
        once = _Once(self.ports.keys)
        for _ in range(_ATTEMPTS - 1):
            with suppress(MovedOnError):  # another replica has published a CRL, say: look again at what is due
                return self._step(role, once, wanted=wanted, actor=actor)
        return self._step(role, once, wanted=wanted, actor=actor)

    def _step(self, role: Role, once: _Once, *, wanted: bool, actor: str) -> Done | None:
        now = self.ports.clock.now()
        records = self.ports.ledger.authorities()
        observed = Observation(self.ports.ledger, self.ports.acknowledgements, now)
        step = next_step(role, Slots.of(records, now), self.pace, observed, wanted=wanted)
        if step is None:
            return None
        if isinstance(step, Prepare) and self.ports.ledger.frozen() is not None:
            return None
        return self._carry_out(step, records, (now, actor), once)

    def _carry_out(self, step: Step, records: Sequence[AuthorityRecord], by: tuple[datetime, str], once: _Once) -> Done:
        now, actor = by
        generation = self.ports.ledger.generation() + 1
        match step:
            case Prepare():
                change, ca_id = self._prepare(step, records, (generation, now), once)
            case Activate():
                change, ca_id = activation(step, records, generation, now), step.prepared.id
            case Remove():
                change, ca_id = self._remove(step, records, generation, now), step.record.id
        latest = self.ports.ledger.latest_crls()
        trust = build_trust(generation, after(change, records), _newest(latest, change.crls), now)
        trust.require_sound(now, after=latest)
        entries = [_entry(step, ca_id, generation, actor), *_others(change, ca_id, records, actor)]
        self.ports.ledger.change_trust(change, entries)
        return Done(step, ca_id, trust)

    def _prepare(
        self, step: Prepare, records: Sequence[AuthorityRecord], at: tuple[int, datetime], once: _Once
    ) -> tuple[TrustChange, str]:
        generation, now = at
        root, wish = Slots.of(records, now).live(ROOT), self.wish(step, records, generation, now)
        if step.role == ISSUING and (root is None or not root.is_ours):
            return self._from_upstream(wish, records)
        key, key_ref = once.key(step.role, self.trust_domain, generation)
        parent = root if step.role == ISSUING else None
        signer = key if parent is None else self.ports.keys.signer(parent)
        made = replace(certify(wish, key, parent, signer, self.ports.entropy), key_ref=key_ref)
        crl = first_crl(made, key, now)
        return TrustChange(generation, added=(made,), crls=(crl,)), made.id

    def wish(self, step: Prepare, records: Sequence[AuthorityRecord], generation: int, now: datetime) -> CaWish:
        """Return the wish for a CA that is to be prepared."""
        return CaWish(
            role=step.role,
            profile=self.profiles[step.role],
            trust_domain=self.trust_domain,
            generation=generation,
            now=now,
            activate_at=step.activate_at,
            name_constraint=_is_constrained(records),
            least=LEAST_CHILDREN * self.pace.lifetimes.leaf,
        )

    def _from_upstream(self, wish: CaWish, records: Sequence[AuthorityRecord]) -> tuple[TrustChange, str]:
        self.upstream.require_ready()
        key = self.ports.keys.create(ISSUING, self.trust_domain, wish.generation)
        ders = self.upstream.certify(certification(wish, key))
        known = Known(records, self.ports.ledger.latest_crls())
        try:
            chain = accepted(ders, wish, key, known)
            crls = travelling(chain, crls_of(self.upstream, chain), known, wish.now).crls
        except ForeignChainError as error:
            raise refused(error) from error
        own = first_crl(chain.issuing, key, wish.now)
        settled = (crl for crl in crls if is_settled(crl, wish.now))
        return with_chain(chain, (own, *settled), wish.generation), chain.issuing.id

    def _remove(self, step: Remove, records: Sequence[AuthorityRecord], generation: int, now: datetime) -> TrustChange:
        gone = [step.record, *_needless_above(step.record, records)]
        moved = tuple(Move(record.id, record.state, "removed", now) for record in gone)
        change = TrustChange(generation, moved=moved)
        if step.record.tainted_at is None or step.record.role != ISSUING:
            return change
        return replace(change, crls=self._listing(step.record, after(change, records), now))

    def _listing(self, gone: AuthorityRecord, records: Iterable[AuthorityRecord], now: datetime) -> tuple[Crl, ...]:
        """Return the parent's CRL with a tainted CA on it.

        Where the parent cannot sign now it is left to the next publication: without a CRL of its own the CA is refused
        all the same.
        """
        parent = next((record for record in records if record.id == gone.parent_id), None)
        if parent is None or not parent.is_ours or parent.state == "removed" or parent.not_after <= now:
            return ()
        latest = self.ports.ledger.latest_crls().get(parent.id)
        entries = united(self.ports.ledger.revoked(parent.id, now), tainted_children(parent.id, records, now))
        number = 1 if latest is None else latest.number + 1
        try:
            return (sign_crl(plan_crl(issuer_of(parent), number, entries, now), self.ports.keys.signer(parent)),)
        except KeyUnavailableError:
            return ()


def _is_constrained(records: Iterable[AuthorityRecord]) -> bool:
    """Whether the CAs of this realm carry a name constraint, as `init --name-constraint` set it: all or none do."""
    return any(issuer_of(record).name_constrained for record in records if record.is_ours)


def after(change: TrustChange, records: Iterable[AuthorityRecord]) -> list[AuthorityRecord]:
    """Return the CAs as they are once a change has been made."""
    moves = {move.id: move for move in change.moved}
    parents = {one.id: one.after for one in change.reparented}
    changed = [_moved(record, moves[record.id]) if record.id in moves else record for record in records]
    below = [replace(record, parent_id=parents.get(record.id, record.parent_id)) for record in changed]
    return [*below, *change.added]


def _moved(record: AuthorityRecord, move: Move) -> AuthorityRecord:
    match move.after:
        case "active":
            return replace(record, state="active", activated_at=move.at)
        case "old":
            return replace(record, state="old", retired_at=move.at)
    return replace(record, state=move.after)


def activation(step: Activate, records: Sequence[AuthorityRecord], generation: int, now: datetime) -> TrustChange:
    """Return the change that lets a prepared CA sign, together with those of an upstream above it."""
    entering = [step.prepared, *(one for one in _above(step.prepared, records) if one.state == "prepared")]
    roles = {record.role for record in entering}
    leaving = [one for one in records if one.state == "active" and one.role in roles and one not in entering]
    out = [Move(one.id, "active", "removed" if one.not_after <= now else "old", now) for one in leaving]
    return TrustChange(generation, moved=(*out, *(Move(one.id, "prepared", "active", now) for one in entering)))


def with_chain(chain: UpstreamChain, crls: Iterable[Crl], generation: int) -> TrustChange:
    """Return the change that brings a chain into trust, with these CRLs, its issuing CA's own first one among them."""
    return TrustChange(
        generation,
        moved=chain.returning,
        added=(*chain.above, chain.issuing),
        crls=tuple(crls),
        reparented=chain.reparented,
    )


def certification(wish: CaWish, key: Signer) -> Certification:
    """Return what an upstream is asked for; the key signs the request.

    Raises:
        KeyUnavailableError: It does not sign now.
    """
    plan = RequestPlan(wish.trust_domain, key.spki)
    return Certification(
        csr=plan.finish(key.sign(plan.tbs)),
        organization=wish.trust_domain.name,
        common_name=plan.common_name,
        uri=str(wish.trust_domain.id),
        life=wish.profile.max_ttl,
        now=wish.now,
    )


def _above(record: AuthorityRecord, records: Sequence[AuthorityRecord]) -> list[AuthorityRecord]:
    """Return the CAs above one, its parent first."""
    known = {one.id: one for one in records}
    found: list[AuthorityRecord] = []
    while (parent := known.get(record.parent_id)) is not None and parent.id != record.id and parent not in found:
        found.append(parent)
        record = parent
    return found


def _needless_above(record: AuthorityRecord, records: Sequence[AuthorityRecord]) -> list[AuthorityRecord]:
    """Return the upstream's CAs above an issuing CA that have no other CA below them; of roots those never used."""
    gone = [record]
    for parent in _above(record, records):
        below = [one for one in records if one.parent_id == parent.id != one.id and one.state != "removed"]
        others = [one for one in below if one not in gone]
        unused = parent.role == INTERMEDIATE or (parent.state == "prepared" and not parent.is_ours)
        if not unused or parent.state == "removed" or others:
            break
        gone.append(parent)
    return gone[1:]


def _newest(latest: Mapping[str, Crl], fresh: Iterable[Crl]) -> dict[str, Crl]:
    return {**latest, **{crl.issuer_id: crl for crl in fresh}}


def _entry(step: Step, ca_id: str, generation: int, actor: str) -> AuditEntry:
    match step:
        case Prepare(role=role, activate_at=activate_at, why=why):
            what = f"{role} CA prepared, {why}; activation due {activate_at.isoformat(timespec='seconds')}"
        case Activate(prepared=prepared, left_behind=behind):
            what = f"{prepared.role} CA activated{named(behind)}"
        case Remove(record=record, why=why, left_behind=behind):
            what = f"{record.role} CA removed, {why}{named(behind)}"
    return AuditEntry(audit.ROTATE, ca_id, audit.OK, f"{what}; trust generation {generation}", actor)


def _others(change: TrustChange, ca_id: str, records: Iterable[AuthorityRecord], actor: str) -> Iterator[AuditEntry]:
    """Yield what becomes of the CAs that a step takes along: those it replaces, and an upstream's above it."""
    roles = {record.id: record.role for record in records}
    for move in change.moved:
        if move.id != ca_id:
            what = f"{roles[move.id]} CA {move.after}, together with {ca_id}; trust generation {change.generation}"
            yield AuditEntry(audit.ROTATE, move.id, audit.OK, what, actor)


def named(behind: Sequence[Straggler]) -> str:
    """Return who was left behind, as the end of a sentence."""
    if not behind:
        return ""
    more = f" and {len(behind) - _NAMED} more" if len(behind) > _NAMED else ""
    return f" without {', '.join(map(str, behind[:_NAMED]))}{more}"
