"""The certificate authority: issue, revoke, suspend, resume, and keep the published trust true.

Rules: what a method returns or emits has committed before; a revocation is in the ledger and the audit log first, on
a CRL next (``publish_crls``); trust is replaced whole and only by a sound one, and where that fails the old one stays
and an alarm goes out. Any thread may call any method.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import structlog

from meshca.authority import audit
from meshca.authority.audit import AuditEntry
from meshca.authority.events import LeafRevoked, Problem, Resumed, Subscriber, Subscribers, TrustAlarm, TrustChanged
from meshca.authority.issuing import Issuing
from meshca.authority.lifetimes import Lifetimes
from meshca.authority.ports import Clock, Entropy, Ledger, Revocation, Signer
from meshca.authority.publishing import ACTOR, Publishing, listed_since
from meshca.authority.reasons import parse_reason
from meshca.authority.records import CertificateFilter, CertificateRecord, Realm
from meshca.authority.requests import Issued, IssueRequest, Refused
from meshca.authority.trust import Trust
from meshca.errors import ConflictError, InvalidInputError, MeshcaError, NotFoundError
from meshca.spiffe.id import SpiffeId
from meshca.x509.serial import parse_serial

_log = structlog.get_logger(__name__)

_PUBLICATION = "publication of CRLs"
_ATTEMPTS = 3


class NoRealmError(NotFoundError):
    """The ledger is empty."""


@dataclass(frozen=True, slots=True)
class Revoked:
    """What a revocation reached. ``serials`` were revoked by this call; ``already`` had been before."""

    serials: tuple[str, ...]
    spiffe_id: SpiffeId
    suspended: bool
    already: tuple[str, ...] = ()


class Authority:
    """The CA of one trust domain, on one ledger."""

    def __init__(
        self,
        ledger: Ledger,
        signers: Mapping[str, Signer],
        clock: Clock,
        entropy: Entropy,
        *,
        lifetimes: Lifetimes | None = None,
    ) -> None:
        """Read realm and trust; ``signers`` by key_ref, ``lifetimes`` where the realm's own are overruled.

        Raises:
            NoRealmError: The ledger is empty.
            NoActiveAuthorityError: No issuing CA can sign now.
        """
        self._ledger = ledger
        self._clock = clock
        self._realm = _realm(ledger)
        self._lifetimes = lifetimes or self._realm.lifetimes
        self._issuing = Issuing(
            ledger=ledger,
            signers=signers,
            clock=clock,
            entropy=entropy,
            trust_domain=self._realm.trust_domain,
            longest=self._lifetimes.leaf,
        )
        self._publishing = Publishing(ledger, signers)
        self._one_publication = threading.RLock()
        self._subscribers = Subscribers()
        self._problems: dict[str, Problem] = {}
        self._trust = self._publishing.stored(clock.now())

    @property
    def realm(self) -> Realm:
        """Return the realm as it was made."""
        return self._realm

    @property
    def lifetimes(self) -> Lifetimes:
        """Return the lives in force."""
        return self._lifetimes

    @property
    def trust(self) -> Trust:
        """Return the trust as last read or published; whoever sends it calls ``require_sound`` first."""
        return self._trust

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Return what an operator has to look at."""
        return tuple(self._problems.values())

    def subscribe(self, callback: Subscriber) -> None:
        """Call back with every event from now on; the callback returns at once and calls nothing of ours that waits."""
        self._subscribers.add(callback)

    def start(self) -> tuple[CertificateRecord, ...]:
        """Publish what a crash may have left unpublished, and return the intents that were left unfinished.

        Unfinished intents stay ``pending``: nobody was given their certificate, and they can be revoked. A publication
        that fails is an alarm, not an obstacle: the server goes on with the trust that is stored.
        """
        now = self._clock.now()
        pending = self._ledger.certificates(CertificateFilter(at=now, status="pending"))
        unfinished = tuple(record for record in pending if record.not_after > now)
        if unfinished:
            _log.warning("unfinished intents", count=len(unfinished), serials=[r.serial for r in unfinished[:10]])
        try:
            self.publish_crls()
        except MeshcaError as error:
            _log.warning("starting with the stored trust", reason=str(error))
        return unfinished

    def issue(self, requests: Sequence[IssueRequest]) -> list[Issued | Refused]:
        """Answer each request, in order, once the ledger holds the outcome.

        Raises:
            UnavailableError: The ledger does not answer; nothing was released.
        """
        return self._issuing.issue(requests, self._trust)

    def revoke(self, serial: str, reason: str, actor: str) -> Revoked:
        """Revoke one certificate; one that is revoked already stays as it is.

        Raises:
            InvalidInputError: The serial or the reason is none.
            NotFoundError: No certificate has this serial.
            ConflictError: It has expired.
        """
        revocation = Revocation(self._clock.now(), parse_reason(reason), actor)
        parse_serial(serial)
        revoked = self._ledger.revoke([serial], revocation, lambda records: _revocation_entries(records, revocation))
        if not revoked:
            return self._not_revoked(serial, revocation)
        self._subscribers.emit(LeafRevoked(frozenset([serial]), revoked[0].spiffe_id, suspended=False))
        return Revoked((serial,), revoked[0].spiffe_id, suspended=False)

    def suspend(self, spiffe_id: SpiffeId, reason: str, actor: str) -> Revoked:
        """Revoke every certificate of the identity and issue none until ``resume``.

        Raises:
            InvalidInputError: The reason is none, or the identity is not of this trust domain.
        """
        revocation = Revocation(self._clock.now(), parse_reason(reason), actor)
        self._require_ours(spiffe_id)

        def entries(records: Sequence[CertificateRecord]) -> list[AuditEntry]:
            act = AuditEntry(audit.SUSPEND, str(spiffe_id), audit.OK, revocation.reason, actor)
            return [act, *_revocation_entries(records, revocation)]

        revoked = self._ledger.suspend(spiffe_id, revocation, entries)
        serials = tuple(record.serial for record in revoked)
        self._subscribers.emit(LeafRevoked(frozenset(serials), spiffe_id, suspended=True))
        return Revoked(serials, spiffe_id, suspended=True)

    def resume(self, spiffe_id: SpiffeId, actor: str) -> None:
        """Let the identity hold certificates again; what was revoked stays revoked.

        Raises:
            ConflictError: It is not suspended.
        """
        if not self._ledger.resume(spiffe_id, AuditEntry(audit.RESUME, str(spiffe_id), audit.OK, "", actor)):
            raise self._audited(
                ConflictError("the identity is not suspended", field="SPIFFE ID", value=str(spiffe_id)),
                AuditEntry(audit.RESUME, str(spiffe_id), audit.REFUSED, "not suspended", actor),
            )
        self._subscribers.emit(Resumed(spiffe_id))

    def publish_crls(self) -> Trust:
        """Bring the published trust up to the ledger, and return it; emits ``TrustChanged`` if it changed.

        Also for a tick: with nothing new it makes no CRL. Revocations that came close together share one.

        Raises:
            MeshcaError: There is no sound new trust; the old one stays, ``problems`` says why, ``TrustAlarm`` went out.
        """
        with self._one_publication:
            before = self._trust
            try:
                trust = self._next_trust()
            except MeshcaError as error:
                self._alarm(error)
                raise
            self._problems.pop(_PUBLICATION, None)
            self._trust = trust
            if trust.marks != before.marks:
                self._subscribers.emit(TrustChanged(trust, listed_since(before, trust)))
            return trust

    def suspended(self) -> frozenset[SpiffeId]:
        """Return the suspended identities."""
        return self._ledger.suspended()

    def certificate(self, serial: str) -> CertificateRecord | None:
        """Return the certificate with this serial."""
        return self._ledger.certificate(serial)

    def certificates(self, wanted: CertificateFilter) -> list[CertificateRecord]:
        """Return the certificates that the filter admits."""
        return self._ledger.certificates(wanted)

    def _next_trust(self) -> Trust:
        for _ in range(_ATTEMPTS - 1):
            try:
                return self._publishing.next(self._trust, self._clock.now())
            except ConflictError:  # another process published in between; what it stored is where we go on
                _log.info("publication raced")
        return self._publishing.next(self._trust, self._clock.now())

    def _alarm(self, error: MeshcaError) -> None:
        known = self._problems.get(_PUBLICATION)
        since = known.since if known else self._clock.now()
        problem = Problem(_PUBLICATION, since, str(error))
        self._problems[_PUBLICATION] = problem
        _log.error("no trust published", reason=problem.reason, since=since.isoformat())
        if problem != known:
            self._record_failure(problem)
            self._subscribers.emit(TrustAlarm(problem))

    def _record_failure(self, problem: Problem) -> None:
        """Audit the failure if the ledger can; it may be what failed, and must not hide the reason then."""
        entry = AuditEntry(audit.PUBLISH_CRL, "trust", audit.FAILED, problem.reason, ACTOR)
        try:
            self._ledger.record_audit([entry])
        except MeshcaError as error:
            _log.warning("failure not audited", reason=str(error))

    def _not_revoked(self, serial: str, revocation: Revocation) -> Revoked:
        """Say why the ledger revoked nothing."""
        record = self._ledger.certificate(serial)
        if record is not None and record.revoked_at is not None:
            return Revoked((), record.spiffe_id, suspended=False, already=(serial,))
        error: MeshcaError = NotFoundError("no certificate has this serial", field="serial", value=serial)
        if record is not None:
            error = ConflictError(
                "the certificate has expired, nothing is left to revoke", field="serial", value=serial
            )
        subject = str(record.spiffe_id) if record else ""
        reason = f"serial {serial}: {error.message}"
        raise self._audited(error, AuditEntry(audit.REVOKE, subject, audit.REFUSED, reason, revocation.actor))

    def _audited(self, error: MeshcaError, entry: AuditEntry) -> MeshcaError:
        self._ledger.record_audit([entry])
        return error

    def _require_ours(self, spiffe_id: SpiffeId) -> None:
        if spiffe_id.trust_domain != self._realm.trust_domain or spiffe_id.is_trust_domain:
            raise InvalidInputError(
                f"names no identity of the trust domain {self._realm.trust_domain}",
                field="SPIFFE ID",
                value=str(spiffe_id),
            )


def _realm(ledger: Ledger) -> Realm:
    realm = ledger.realm()
    if realm is None:
        raise NoRealmError("there is no certificate authority here yet", remedy="run meshca init")
    return realm


def _revocation_entries(records: Sequence[CertificateRecord], revocation: Revocation) -> list[AuditEntry]:
    return [
        AuditEntry(
            audit.REVOKE,
            str(record.spiffe_id),
            audit.OK,
            f"serial {record.serial}: {revocation.reason}",
            revocation.actor,
        )
        for record in records
    ]
