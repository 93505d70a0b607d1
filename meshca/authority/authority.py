"""The certificate authority: issue, revoke, suspend, resume, and keep the published trust true.

Rules: what a method returns or emits has committed before; a revocation is in the ledger and the audit log first, on
a CRL next (``publish_crls``); trust is replaced whole and only by a sound one, and where that fails the old one stays
and an alarm goes out. Any thread may call any method.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

import structlog

from meshca.authority import audit
from meshca.authority.audit import AuditEntry
from meshca.authority.ceremony import Ceremony
from meshca.authority.events import Problem, Subscriber, Subscribers, TrustAlarm, TrustChanged
from meshca.authority.freezing import Freezing
from meshca.authority.issuing import Issuing
from meshca.authority.jwt_keys import JwtKeys
from meshca.authority.lifetimes import Lifetimes
from meshca.authority.ports import Ledger, OvertakenError, Ports
from meshca.authority.problems import Problems
from meshca.authority.profiles import lives_in_force, profiles_in_force
from meshca.authority.publishing import ACTOR, Published, Publishing, listed_since
from meshca.authority.records import CertificateFilter, CertificateRecord, Realm
from meshca.authority.recovery import losses
from meshca.authority.requests import Issued, IssueRequest, Refused
from meshca.authority.revoking import Revoked, Revoking
from meshca.authority.rotation import Rotation
from meshca.authority.slots import Pace
from meshca.authority.succession import Succession
from meshca.authority.tokens import Tokens
from meshca.authority.trust import Trust
from meshca.authority.upstreams import Known, NoUpstream, Upstream, foreign_in_use, is_settled, newer_crls
from meshca.errors import ConflictError, MeshcaError, NotFoundError
from meshca.spiffe.id import SpiffeId
from meshca.x509.crl import Crl
from meshca.x509.profiles import Profile

_log = structlog.get_logger(__name__)

_PUBLICATION = "publication of CRLs"
_UPSTREAM_CRLS = "taking in the upstream's CRLs"
_ATTEMPTS = 8  # replicas that revoke at once publish at once


class NoRealmError(NotFoundError):
    """The ledger is empty."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a configuration says of an authority."""

    profiles: Mapping[str, Profile] | None = None  # where those of the realm are narrower by configuration
    ack_deadline: timedelta | None = None  # None: half of the time from activation to expiry
    upstream: Upstream = field(default_factory=NoUpstream)  # where issuing CAs are certified if the root isn't ours
    jwt_issuer: str = ""  # the URL by which readers of OpenID Connect know us; empty: none do


DEFAULTS = Settings()


class Authority:
    """The CA of one trust domain, on one ledger."""

    def __init__(self, ports: Ports, settings: Settings = DEFAULTS) -> None:
        """Read realm and trust.

        Raises:
            NoRealmError: The ledger is empty.
        """
        self._ledger, self._clock = ports.ledger, ports.clock
        self._realm = _realm(ports.ledger)
        self._profiles = settings.profiles or profiles_in_force(self._realm.lifetimes)
        self._lifetimes = lives_in_force(self._profiles)
        self._issuing = Issuing(
            ledger=ports.ledger,
            keys=ports.keys,
            clock=ports.clock,
            entropy=ports.entropy,
            trust_domain=self._realm.trust_domain,
            profiles=self._profiles,
        )
        self._publishing = Publishing(ports.ledger, ports.keys)
        self._one_publication = threading.RLock()
        self._subscribers = Subscribers()
        self._problems = Problems()
        self._trust = self._publishing.stored(ports.clock.now())
        rotation = Rotation(
            ports=ports,
            trust_domain=self._realm.trust_domain,
            profiles=self._profiles,
            pace=Pace(self._lifetimes, settings.ack_deadline),
            upstream=settings.upstream,
        )
        self._revoking = Revoking(ports.ledger, ports.clock, self._realm.trust_domain, self._subscribers.emit)
        self.freezing = Freezing(ports.ledger, ports.clock, self._realm.trust_domain)
        self.succession = Succession(rotation, self._problems, self._one_publication, self._adopt)
        self.ceremony = Ceremony(self.succession)
        self._upstream = settings.upstream
        self.jwt_keys = JwtKeys(
            ports,
            self._realm.trust_domain,
            rotation.pace,
            self._problems,
            self._subscribers.emit,
            eager=bool(settings.jwt_issuer),
        )
        self.tokens = Tokens(ports, self.jwt_keys, settings.jwt_issuer)

    @property
    def realm(self) -> Realm:
        """Return the realm as it was made."""
        return self._realm

    @property
    def lifetimes(self) -> Lifetimes:
        """Return the lives in force."""
        return self._lifetimes

    @property
    def profiles(self) -> Mapping[str, Profile]:
        """Return the profiles in force."""
        return self._profiles

    @property
    def trust(self) -> Trust:
        """Return the trust as last read or published; whoever sends it calls ``require_sound`` first."""
        return self._trust

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Return what an operator has to look at."""
        return self._problems.all

    def subscribe(self, callback: Subscriber) -> None:
        """Call back with every event from now on; the callback returns at once and calls nothing of ours that waits."""
        self._subscribers.add(callback)

    def start(self) -> tuple[CertificateRecord, ...]:
        """Publish what a crash may have left unpublished, and return the intents that were left unfinished.

        Unfinished intents stay ``pending``: nobody was given their certificate, and they can be revoked. A publication
        that fails is an alarm, not an obstacle: the server goes on with the trust that is stored.
        """
        now = self._clock.now()
        self._tell_losses(losses(self._ledger.authorities(), self._ledger.lapsed(now), now))
        self.succession.settle()
        self.jwt_keys.advance()
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
        return self._revoking.revoke(serial, reason, actor)

    def suspend(self, spiffe_id: SpiffeId, reason: str, actor: str) -> Revoked:
        """Revoke every certificate of the identity and issue none until ``resume``.

        Raises:
            InvalidInputError: The reason is none, or the identity is not of this trust domain.
        """
        return self._revoking.suspend(spiffe_id, reason, actor)

    def resume(self, spiffe_id: SpiffeId, actor: str) -> None:
        """Let the identity hold certificates again; what was revoked stays revoked.

        Raises:
            ConflictError: It is not suspended.
        """
        self._revoking.resume(spiffe_id, actor)

    def publish_crls(self) -> Trust:
        """Bring the published trust up to the ledger, and return it; emits ``TrustChanged`` if it changed.

        Also for a tick: with nothing new it makes no CRL. Revocations that came close together share one.

        Raises:
            MeshcaError: There is no sound new trust; the old one stays, ``problems`` says why, ``TrustAlarm`` went out.
        """
        return self._publish({})

    def follow(self) -> Trust:
        """Put in force what another process has stored, and return it; makes nothing itself.

        Raises:
            MeshcaError: It is unsound, or the ledger does not answer; the old trust stays, as with ``publish_crls``.
        """
        with self._one_publication:
            now = self._clock.now()
            try:
                trust = self._publishing.stored(now)
                trust.require_sound(now)
            except MeshcaError as error:
                self._alarm(error, "the stored trust is not followed")
                raise
            self._problems.clear(_PUBLICATION)
            self._adopt(trust)
            return trust

    def fetch_crls(self) -> None:
        """Ask the upstream for its CRLs, and publish what is new; for a tick.

        While it does not answer, those that are known are used until shortly before they end.
        """
        known, now = Known(self._ledger.authorities(), self._ledger.latest_crls()), self._clock.now()
        cas = foreign_in_use(known.records, now)
        if not cas:
            return
        try:
            found = newer_crls(self._upstream.crls(cas), cas, known, now)  # outside the lock: it may take seconds
        except MeshcaError as error:
            self._note_upstream(str(error))
            return
        self._note_upstream("; ".join(found.faults))
        if fresh := {crl.issuer_id: crl for crl in found.crls if is_settled(crl, now)}:
            self._publish(fresh)

    def _note_upstream(self, reason: str) -> None:
        if not reason:
            self._problems.clear(_UPSTREAM_CRLS)
        elif self._problems.put(_UPSTREAM_CRLS, reason, self._clock.now()):
            _log.warning("no CRLs from the upstream", reason=reason)

    def _publish(self, foreign: Mapping[str, Crl]) -> Trust:
        with self._one_publication:
            try:
                published = self._next_trust(foreign)
            except OvertakenError:
                raise  # whoever has taken over publishes
            except MeshcaError as error:
                self._alarm(error, "no trust published")
                raise
            if published.overdue is None:
                self._problems.clear(_PUBLICATION)
            else:
                self._alarm(published.overdue, "the CRL of a root is overdue")
            self._adopt(published.trust)
            return published.trust

    def suspended(self) -> frozenset[SpiffeId]:
        """Return the suspended identities."""
        return self._ledger.suspended()

    def certificate(self, serial: str) -> CertificateRecord | None:
        """Return the certificate with this serial."""
        return self._ledger.certificate(serial)

    def certificates(self, wanted: CertificateFilter) -> list[CertificateRecord]:
        """Return the certificates that the filter admits."""
        return self._ledger.certificates(wanted)

    def _tell_losses(self, found: Sequence[str]) -> None:
        for loss in found:
            _log.warning("lost", what=loss)
        entries = [AuditEntry(audit.RECOVER, "trust", audit.OK, loss, ACTOR) for loss in found]
        try:
            self._ledger.record_audit(entries)
        except MeshcaError as error:  # a full disk must not keep the server from serving what it has
            _log.warning("losses not audited", reason=str(error))

    def _adopt(self, trust: Trust) -> None:
        before, self._trust = self._trust, trust
        if trust.marks != before.marks:
            self._subscribers.emit(TrustChanged(trust, listed_since(before, trust)))

    def _next_trust(self, foreign: Mapping[str, Crl]) -> Published:
        for _ in range(_ATTEMPTS - 1):
            try:
                return self._publishing.next(self._trust, self._clock.now(), foreign)
            except ConflictError:  # another process published in between; what it stored is where we go on
                _log.info("publication raced")
        return self._publishing.next(self._trust, self._clock.now(), foreign)

    def _alarm(self, error: MeshcaError, what: str) -> None:
        problem = self._problems.put(_PUBLICATION, str(error), self._clock.now())
        if problem is not None:
            _log.error(what, reason=problem.reason, since=problem.since.isoformat())
            self._record_failure(problem)
            self._subscribers.emit(TrustAlarm(problem))

    def _record_failure(self, problem: Problem) -> None:
        """Audit the failure if the ledger can; it may be what failed, and must not hide the reason then."""
        entry = AuditEntry(audit.PUBLISH_CRL, "trust", audit.FAILED, problem.reason, ACTOR)
        try:
            self._ledger.record_audit([entry])
        except MeshcaError as error:
            _log.warning("failure not audited", reason=str(error))


def _realm(ledger: Ledger) -> Realm:
    realm = ledger.realm()
    if realm is None:
        raise NoRealmError("there is no certificate authority here yet", remedy="run meshca init")
    return realm
