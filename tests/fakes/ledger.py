"""A ledger in memory that keeps every promise of ``authority.ports.Ledger`` but durability."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from meshca.authority.audit import AuditEntry
from meshca.authority.ports import Abandoned, Intent, Move, Result, Revocation, TrustChange
from meshca.authority.records import AuthorityRecord, CaRequest, CertificateFilter, CertificateRecord, Freeze, Realm
from meshca.errors import ConflictError
from meshca.spiffe.id import SpiffeId
from meshca.x509.crl import Crl, RevokedEntry

RecordsAudit = Callable[[Sequence[CertificateRecord]], Sequence[AuditEntry]]


@dataclass
class InMemoryLedger:
    """One lock is one transaction. ``audit`` is the log, ``epochs`` the drain epochs, ``tbs`` what intents hold."""

    audit: list[AuditEntry] = field(default_factory=list)
    epochs: Counter[str] = field(default_factory=Counter)
    tbs: dict[str, bytes] = field(default_factory=dict)
    crls: dict[str, list[Crl]] = field(default_factory=dict)
    _realm: Realm | None = None
    _authorities: dict[str, AuthorityRecord] = field(default_factory=dict)
    _certificates: dict[str, CertificateRecord] = field(default_factory=dict)
    _suspensions: dict[SpiffeId, Revocation] = field(default_factory=dict)
    _freeze: Freeze | None = None
    _request: CaRequest | None = None
    _generation: int = 0
    _jwt_keys: dict[str, AuthorityRecord] = field(default_factory=dict)
    _jwt_generation: int = 0
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def realm(self) -> Realm | None:
        return self._realm

    def create_realm(
        self,
        realm: Realm,
        authorities: Sequence[AuthorityRecord],
        crls: Sequence[Crl],
        audit: Sequence[AuditEntry],
    ) -> None:
        with self._lock:
            if self._realm is not None:
                raise ConflictError("there is a realm already", value=str(self._realm.trust_domain))
            self._realm = realm
            self._authorities = {record.id: record for record in authorities}
            self.store_crls(crls, 1, audit)

    def authorities(self) -> list[AuthorityRecord]:
        with self._lock:
            return sorted(self._authorities.values(), key=lambda record: (record.generation, record.id))

    def change_trust(self, change: TrustChange, audit: Sequence[AuditEntry]) -> None:
        with self._lock:
            self._require_next(change.crls, change.generation)
            if change.added and self._freeze is not None:
                raise ConflictError("issuance was frozen meanwhile")
            changed = dict(self._authorities)
            for move in change.moved:
                if changed[move.id].state != move.before:
                    raise ConflictError(f"CA {move.id} is not {move.before} any more")
                changed[move.id] = _moved(changed[move.id], move)
            for one in change.reparented:
                assert changed[one.id].parent_id == one.before
                changed[one.id] = replace(changed[one.id], parent_id=one.after)
            for record in change.added:
                if record.id in changed:
                    raise ConflictError("this CA is known already", value=record.id)
                changed[record.id] = record
            _require_one_each(changed.values())
            self._authorities = changed
            self.store_crls(change.crls, change.generation, audit)

    def hasten(self, ca_id: str, at: datetime, audit: AuditEntry) -> bool:
        with self._lock:
            table = self._jwt_keys if ca_id in self._jwt_keys else self._authorities
            record = table[ca_id]
            if record.state != "prepared" or (record.activate_at is not None and record.activate_at <= at):
                return False
            table[ca_id] = replace(record, activate_at=at)
            self.audit.append(audit)
            return True

    def taint(self, ca_ids: Sequence[str], at: datetime, audit: Sequence[AuditEntry]) -> list[str]:
        with self._lock:
            every = {**self._authorities, **self._jwt_keys}
            found = [every[ca_id] for ca_id in ca_ids]
            marked = [record for record in found if record.state != "removed" and record.tainted_at is None]
            for record in marked:
                table = self._jwt_keys if record.id in self._jwt_keys else self._authorities
                table[record.id] = replace(record, tainted_at=at)
            ids = sorted(record.id for record in marked)
            self.audit += [each for each in audit if each.subject in ids]
            return ids

    def lapsed(self, at: datetime) -> int:
        with self._lock:
            issued = [each for each in self._certificates.values() if each.state == "issued" and not each.revoked_at]
            valid = any(each.not_after > at for each in issued)
            return 0 if valid else len({each.spiffe_id for each in issued})

    def last_expiry(self, issuer_id: str, since: datetime) -> datetime | None:
        with self._lock:
            wanted = [record for record in self._certificates.values() if record.issuer_id == issuer_id]
            ends = [each.not_after for each in wanted if each.created_at >= since and each.state != "abandoned"]
            return max(ends, default=None)

    def record_intents(self, intents: Sequence[Intent]) -> list[bool]:
        with self._lock:
            return [self._record_intent(intent) for intent in intents]

    def record_results(
        self, results: Sequence[Result | Abandoned], audit: Callable[[Sequence[bool]], Sequence[AuditEntry]]
    ) -> list[bool]:
        with self._lock:
            done = [self._record_result(result) for result in results]
            self.audit += audit(done)
            return done

    def revoke(self, serials: Sequence[str], revocation: Revocation, audit: RecordsAudit) -> list[CertificateRecord]:
        with self._lock:
            known = [self._certificates[serial] for serial in serials if serial in self._certificates]
            return self._revoke(known, revocation, audit)

    def suspend(self, spiffe_id: SpiffeId, revocation: Revocation, audit: RecordsAudit) -> list[CertificateRecord]:
        with self._lock:
            self._suspensions.setdefault(spiffe_id, revocation)
            own = [record for record in self._certificates.values() if record.spiffe_id == spiffe_id]
            revoked = self._revoke(own, revocation, audit)
            if not revoked:
                self.epochs[f"identity:{spiffe_id}"] += 1
            return revoked

    def resume(self, spiffe_id: SpiffeId, audit: AuditEntry) -> bool:
        with self._lock:
            if self._suspensions.pop(spiffe_id, None) is None:
                return False
            self.audit.append(audit)
            return True

    def pending_request(self) -> CaRequest | None:
        request = self._request
        return None if request is None or request.key_id in self._authorities else request

    def keep_request(self, request: CaRequest, audit: AuditEntry) -> bool:
        with self._lock:
            if self.pending_request() is not None:
                return False
            self._request = request
            self.audit.append(audit)
            return True

    def freeze(self, freeze: Freeze, audit: AuditEntry) -> bool:
        with self._lock:
            if self._freeze is not None:
                return False
            self._freeze = freeze
            self.audit.append(audit)
            return True

    def unfreeze(self, audit: AuditEntry) -> bool:
        with self._lock:
            if self._freeze is None:
                return False
            self._freeze = None
            self.audit.append(audit)
            return True

    def frozen(self) -> Freeze | None:
        return self._freeze

    def suspended(self) -> frozenset[SpiffeId]:
        with self._lock:
            return frozenset(self._suspensions)

    def revoked(self, issuer_id: str, at: datetime) -> list[RevokedEntry]:
        with self._lock:
            entries = [
                RevokedEntry(int(record.serial, 16), record.revoked_at, record.revocation_reason)
                for record in self._certificates.values()
                if record.issuer_id == issuer_id and record.revoked_at is not None
                if record.not_after > at or record.revocation_listed_until is None
            ]
            return sorted(entries, key=lambda entry: entry.serial)

    def store_crls(self, crls: Sequence[Crl], generation: int, audit: Sequence[AuditEntry]) -> None:
        with self._lock:
            self._require_next(crls, generation)
            self._generation = generation
            for crl in crls:
                self.crls.setdefault(crl.issuer_id, []).append(crl)
                self._mark_listed(crl)
            self.audit += audit

    def jwt_keys(self) -> list[AuthorityRecord]:
        with self._lock:
            return sorted(self._jwt_keys.values(), key=lambda record: (record.generation, record.id))

    def jwt_generation(self) -> int:
        return self._jwt_generation

    def change_jwt_keys(self, change: TrustChange, audit: Sequence[AuditEntry]) -> None:
        with self._lock:
            if change.generation != self._jwt_generation + 1:
                raise ConflictError("not the next generation", value=str(change.generation))
            if change.added and self._freeze is not None:
                raise ConflictError("issuance was frozen meanwhile")
            changed = dict(self._jwt_keys)
            for move in change.moved:
                if changed[move.id].state != move.before:
                    raise ConflictError(f"key {move.id} is not {move.before} any more")
                changed[move.id] = _moved(changed[move.id], move)
            changed |= {record.id: record for record in change.added}
            states = Counter(record.state for record in changed.values())
            if states["active"] > 1 or states["prepared"] > 1:
                raise ConflictError("another key has this state already")
            self._jwt_keys, self._jwt_generation = changed, change.generation
            self.audit += audit

    def admit_token(self, spiffe_id: SpiffeId, key_id: str, audit: AuditEntry) -> bool:
        with self._lock:
            key = self._jwt_keys.get(key_id)
            in_office = key is not None and key.state == "active" and key.tainted_at is None
            if not in_office or spiffe_id in self._suspensions or self._freeze is not None:
                return False
            self.audit.append(audit)
            return True

    def latest_crls(self) -> dict[str, Crl]:
        with self._lock:
            return {issuer_id: crls[-1] for issuer_id, crls in self.crls.items()}

    def generation(self) -> int:
        return self._generation

    def certificate(self, serial: str) -> CertificateRecord | None:
        return self._certificates.get(serial)

    def certificates(self, wanted: CertificateFilter) -> list[CertificateRecord]:
        with self._lock:
            ordered = sorted(self._certificates.values(), key=_page_order)
            if wanted.after in self._certificates:
                last = _page_order(self._certificates[wanted.after])
                ordered = [record for record in ordered if _page_order(record) > last]
            admitted = [record for record in ordered if wanted.admits(record)]
            return admitted[: wanted.limit] if wanted.limit else admitted

    def record_audit(self, entries: Sequence[AuditEntry]) -> None:
        with self._lock:
            self.audit += entries

    def put_authority(self, record: AuthorityRecord) -> None:
        """Replace a CA's record, as a rotation or an operator would."""
        with self._lock:
            self._authorities[record.id] = record

    def _record_intent(self, intent: Intent) -> bool:
        if intent.spiffe_id in self._suspensions or self._freeze is not None or self._out_of_office(intent.issuer_id):
            return False
        self.tbs[intent.serial] = intent.tbs
        self._certificates[intent.serial] = CertificateRecord(
            serial=intent.serial,
            spiffe_id=intent.spiffe_id,
            issuer_id=intent.issuer_id,
            state="pending",
            certificate=b"",
            not_before=intent.not_before,
            not_after=intent.not_after,
            holder=intent.holder,
            kind=intent.kind,
            requested_by=intent.requested_by,
            created_at=intent.created_at,
        )
        return True

    def _out_of_office(self, issuer_id: str) -> bool:
        issuer = self._authorities.get(issuer_id)
        return issuer is not None and (
            issuer.state == "removed" or (issuer.state == "old" and issuer.tainted_at is not None)
        )

    def _record_result(self, result: Result | Abandoned) -> bool:
        record = self._certificates[result.serial]
        if record.state != "pending" or record.revoked_at is not None:
            return False
        if isinstance(result, Result) and (self._freeze is not None or self._out_of_office(record.issuer_id)):
            return False
        if isinstance(result, Result):
            done = replace(record, state="issued", certificate=result.certificate)
        else:
            done = replace(record, state="abandoned")
        self._certificates[result.serial] = done
        return True

    def _revoke(
        self, records: Iterable[CertificateRecord], revocation: Revocation, audit: RecordsAudit
    ) -> list[CertificateRecord]:
        revoked = [
            replace(record, revoked_at=revocation.at, revocation_reason=revocation.reason)
            for record in records
            if record.revoked_at is None and record.not_after > revocation.at
        ]
        self._certificates |= {record.serial: record for record in revoked}
        self.epochs.update({f"identity:{record.spiffe_id}" for record in revoked})
        self.audit += audit(revoked)
        return revoked

    def _require_next(self, crls: Sequence[Crl], generation: int) -> None:
        if generation != self._generation + 1:
            raise ConflictError("not the next trust generation", value=str(generation))
        for crl in crls:
            stored = self.crls.get(crl.issuer_id)
            if stored and crl.number <= stored[-1].number:
                raise ConflictError("not a higher CRL number", value=str(crl.number))

    def _mark_listed(self, crl: Crl) -> None:
        for serial, record in self._certificates.items():
            due = record.revoked_at is not None and record.revocation_listed_until is None
            if due and record.issuer_id == crl.issuer_id and record.not_after < crl.this_update:
                self._certificates[serial] = replace(record, revocation_listed_until=crl.this_update)


def _moved(record: AuthorityRecord, move: Move) -> AuthorityRecord:
    match move.after:
        case "active":
            return replace(record, state="active", activated_at=move.at)
        case "old":
            return replace(record, state="old", retired_at=move.at)
    return replace(record, state=move.after)


def _require_one_each(records: Iterable[AuthorityRecord]) -> None:
    counted = Counter((record.role, record.state) for record in records if record.role != "intermediate")
    for role in ("root", "issuing"):
        for state in ("active", "prepared"):
            if counted[role, state] > 1:
                raise ConflictError(f"another {role} CA is {state} already")


def _page_order(record: CertificateRecord) -> tuple[datetime, str]:
    return (record.created_at, record.serial)
