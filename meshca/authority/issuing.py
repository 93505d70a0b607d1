"""Issuing a batch.

Rules: intents are committed before anything is signed; results are committed before anything is returned; one call of
the ledger for all intents, one for all results; a request that fails, in whatever way, fails alone; a revocation or
suspension or freeze that lands between intent and result wins, and so does the end of the CA (removed, or tainted and
replaced): the certificate is not released.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import structlog

from meshca.authority import audit
from meshca.authority.audit import AuditEntry
from meshca.authority.freezing import FrozenError
from meshca.authority.ports import Abandoned, Clock, Entropy, Intent, Keys, Ledger, Result
from meshca.authority.records import AuthorityRecord
from meshca.authority.requests import (
    Issued,
    IssueRequest,
    Refused,
    chain_pem,
    granted_life,
    profile_of,
    require_issuable,
)
from meshca.authority.trust import NoActiveAuthorityError, Trust
from meshca.errors import MeshcaError, RefusedError, UnavailableError
from meshca.spiffe.id import SpiffeId, TrustDomain
from meshca.x509.checked import Certificate, CheckedPlan, MisissueError, check_leaf, finish
from meshca.x509.plan import LeafPlan, validity
from meshca.x509.profiles import Profile
from meshca.x509.serial import SERIAL_BYTES, new_serial, serial_hex

_log = structlog.get_logger(__name__)


class SuspendedError(RefusedError):
    """The identity is suspended."""


class UsedUpError(RefusedError):
    """What the request rests on is used up, or over."""


class RevokedBeforeReleaseError(RefusedError):
    """The certificate was revoked, its CA put out of office, or issuance frozen, before it was released."""


class SigningFailedError(UnavailableError):
    """The certificate was planned and recorded, but could not be made."""


@dataclass(slots=True)
class _Slot:
    """One request on its way; ``serial`` is set once its intent has committed."""

    request: IssueRequest
    plan: LeafPlan | None = None
    checked: CheckedPlan | None = None
    serial: str = ""
    certificate: Certificate | None = None
    error: MeshcaError | None = None


@dataclass(frozen=True, slots=True)
class Issuing:
    """Issues batches. It keeps no state, so any number of threads may use it."""

    ledger: Ledger
    keys: Keys
    clock: Clock
    entropy: Entropy
    trust_domain: TrustDomain
    profiles: Mapping[str, Profile]

    def issue(self, requests: Sequence[IssueRequest], trust: Trust) -> list[Issued | Refused]:
        """Answer each request, in order.

        Raises:
            UnavailableError: The ledger does not answer; nothing was released.
        """
        now = self.clock.now()
        slots = [self._planned(request, trust, now) for request in requests]
        self._record_intents(slots, now)
        self._sign(slots, trust)
        self._record_results(slots)
        return [_answer(slot, trust) for slot in slots]

    def _planned(self, request: IssueRequest, trust: Trust, now: datetime) -> _Slot:
        try:
            profile = self.profiles[profile_of(request.kind).name]
            plan = self._plan(request, profile, trust, now)
            return _Slot(request, plan, check_leaf(plan, profile, now))
        except MeshcaError as error:
            return _Slot(request, error=error)

    def _plan(self, request: IssueRequest, profile: Profile, trust: Trust, now: datetime) -> LeafPlan:
        require_issuable(request.spiffe_id, request.kind, self.trust_domain)
        issuer, end = trust.active, trust.active_record.not_after  # which may be that of an upstream's CA above it
        if end <= now:
            raise NoActiveAuthorityError("the active issuing CA has expired", value=issuer.id)
        if issuer.not_before > now:
            raise NoActiveAuthorityError(
                f"the active issuing CA is valid from {issuer.not_before.isoformat()} only: the clock is behind",
                field="clock",
                value=now.isoformat(timespec="seconds"),
                remedy="set the clock of this machine",
            )
        valid = validity(now, granted_life(request.ttl, profile.max_ttl), issuer)
        return LeafPlan(
            spiffe_id=request.spiffe_id,
            spki=request.spki,
            serial=new_serial(self.entropy(SERIAL_BYTES)),
            not_before=valid.not_before,
            not_after=min(valid.not_after, end),
            issuer=issuer,
            dns_names=request.dns_names,
            names_subject=request.names_subject,
        )

    def _record_intents(self, slots: Sequence[_Slot], now: datetime) -> None:
        planned = [slot for slot in slots if slot.plan is not None]
        if not planned:
            return
        intents = [_intent(slot, now) for slot in planned]
        recorded = self.ledger.record_intents(intents)
        refuse = None if all(recorded) else self._refusal()
        for slot, intent, is_recorded in zip(planned, intents, recorded, strict=True):
            if is_recorded or refuse is None:
                slot.serial = intent.serial
            else:
                slot.error = refuse(intent)

    def _refusal(self) -> Callable[[Intent], MeshcaError]:
        """Return what says why the ledger did not take an intent."""
        freeze, suspended = self.ledger.frozen(), self.ledger.suspended()

        def refuse(intent: Intent) -> MeshcaError:
            if freeze is not None:
                return FrozenError(freeze)
            if intent.spiffe_id in suspended:
                return _suspended(intent.spiffe_id)
            if intent.claim is not None:
                return UsedUpError(
                    "the token was used already, or its time is over",
                    field="token",
                    remedy="make a new one with `meshca token AGENT`; who used it stands in `meshca audit tail`",
                )
            return NoActiveAuthorityError(
                "the issuing CA has been replaced meanwhile", value=intent.issuer_id, remedy="ask again in a moment"
            )

        return refuse

    def _sign(self, slots: Sequence[_Slot], trust: Trust) -> None:
        for slot in slots:
            if slot.serial and slot.checked is not None:
                self._sign_one(slot, slot.checked, trust.active_record)

    def _sign_one(self, slot: _Slot, checked: CheckedPlan, issuer: AuthorityRecord) -> None:
        try:
            slot.certificate = finish(checked, self.keys.signer(issuer).sign(checked.spend()))
        except MeshcaError as error:
            slot.error = error
        except Exception:  # a remote signer may raise anything; the intent needs an outcome and the others go on
            _log.exception("signing failed", serial=slot.serial, spiffe_id=str(slot.request.spiffe_id))
            slot.error = SigningFailedError(
                "signing failed; the server's log says why", field="serial", value=slot.serial
            )

    def _record_results(self, slots: Sequence[_Slot]) -> None:
        recorded = [slot for slot in slots if slot.serial]

        def entries(released: Sequence[bool]) -> list[AuditEntry]:
            _withhold(recorded, released)
            return [_entry(slot) for slot in slots]

        if slots:
            self.ledger.record_results([_result(slot) for slot in recorded], entries)


def _intent(slot: _Slot, now: datetime) -> Intent:
    if slot.plan is None or slot.checked is None:
        raise ValueError("an intent needs a checked plan")
    request, plan = slot.request, slot.plan
    return Intent(
        serial=serial_hex(plan.serial),
        spiffe_id=request.spiffe_id,
        issuer_id=plan.issuer.id,
        tbs=slot.checked.tbs,
        not_before=plan.not_before,
        not_after=plan.not_after,
        holder=request.holder,
        kind=request.kind,
        requested_by=request.requested_by,
        created_at=now,
        claim=request.claim,
    )


def _result(slot: _Slot) -> Result | Abandoned:
    if slot.certificate is None:
        return Abandoned(slot.serial, str(slot.error))
    return Result(slot.serial, slot.certificate.der)


def _withhold(recorded: Sequence[_Slot], released: Sequence[bool]) -> None:
    for slot, free in zip(recorded, released, strict=True):
        if not free and slot.error is None:
            slot.error = RevokedBeforeReleaseError(
                "the certificate was revoked, its CA replaced, or issuance frozen, before it was released",
                field="serial",
                value=slot.serial,
            )


def _suspended(spiffe_id: SpiffeId) -> SuspendedError:
    return SuspendedError(
        "the identity is suspended", field="SPIFFE ID", value=str(spiffe_id), remedy="see meshca resume"
    )


def _entry(slot: _Slot) -> AuditEntry:
    request, error = slot.request, slot.error
    outcome = audit.OK
    if error is not None:
        outcome = audit.FAILED if isinstance(error, (UnavailableError, MisissueError)) else audit.REFUSED
    parts = [slot.serial and f"serial {slot.serial}", str(error or request.holder)]
    parts += [f"DNS:{name}" for name in request.dns_names]
    reason = " ".join(part for part in parts if part)
    return AuditEntry(audit.ISSUE, str(request.spiffe_id), outcome, reason, request.requested_by)


def _answer(slot: _Slot, trust: Trust) -> Issued | Refused:
    if slot.error is not None or slot.certificate is None:
        return Refused(slot.error or SigningFailedError("no certificate was made"))
    return Issued(slot.certificate, chain_pem(slot.certificate, trust.chain))
