"""The authority's ledger over a Store: each change is one operation of the group commit, audit included."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

from meshca.authority.audit import AuditEntry
from meshca.authority.ports import Abandoned, Intent, Ledger, Result, Revocation, TrustChange
from meshca.authority.records import AuthorityRecord, CaRequest, CertificateFilter, CertificateRecord, Freeze, Realm
from meshca.spiffe.id import SpiffeId
from meshca.store import changes, freezing, jwt
from meshca.store.certificates import find_certificate, list_certificates
from meshca.store.conditional import own_suspensions
from meshca.store.engine import Store, Transaction
from meshca.store.expiry import lapsed, last_expiry
from meshca.store.issuing import finish_intents, insert_intents
from meshca.store.requests import keep, load_pending
from meshca.store.revocation import (
    listed_entries,
    resume_identity,
    revoke_serials,
    suspend_identity,
    suspended_identities,
)
from meshca.store.schema import AUTHORITIES, JWT_KEYS
from meshca.store.trust import (
    advance_generation,
    hasten,
    insert_authority,
    insert_crls,
    insert_realm,
    load_authorities,
    load_generation,
    load_latest_crls,
    load_realm,
    move_authority,
    reparent,
    taint,
)
from meshca.x509.crl import Crl, RevokedEntry


class SqlLedger:
    """Implements authority.ports.Ledger; its methods are documented there."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def realm(self) -> Realm | None:
        """Return the realm, or None."""
        with self._store.read() as connection:
            return load_realm(connection)

    def create_realm(
        self, realm: Realm, authorities: Sequence[AuthorityRecord], crls: Sequence[Crl], audit: Sequence[AuditEntry]
    ) -> None:
        """Write the realm, its CAs and their CRLs, all or nothing."""

        def create(transaction: Transaction) -> None:
            insert_realm(transaction.connection, realm)
            for record in authorities:
                insert_authority(transaction.connection, record)
            insert_crls(transaction.connection, crls)
            transaction.audit(*audit)

        self._store.write(create)

    def authorities(self) -> list[AuthorityRecord]:
        """Return every CA, oldest generation first."""
        with self._store.read() as connection:
            return load_authorities(connection)

    def change_trust(self, change: TrustChange, audit: Sequence[AuditEntry]) -> None:
        """Make the next trust generation, all or nothing."""

        def change_it(transaction: Transaction) -> None:
            if any(move.after in {"old", "removed"} for move in change.moved):
                own_suspensions(transaction.connection)  # nothing of a CA that goes is being issued meanwhile
            advance_generation(transaction.connection, change.generation)
            if change.added:
                freezing.require_thawed(transaction.connection)
            for move in change.moved:
                move_authority(transaction.connection, move)
            for one in change.reparented:
                reparent(transaction.connection, one)
            for record in change.added:
                insert_authority(transaction.connection, record)
            insert_crls(transaction.connection, change.crls)
            transaction.audit(*audit)
            transaction.changed(changes.TRUST)

        self._store.write(change_it)

    def hasten(self, ca_id: str, at: datetime, audit: AuditEntry) -> bool:
        """Make an activation due; False when it is already."""

        def hasten_it(transaction: Transaction) -> bool:
            if not any(hasten(transaction.connection, ca_id, at, table) for table in (AUTHORITIES, JWT_KEYS)):
                return False
            transaction.audit(audit)
            return True

        return self._store.write(hasten_it)

    def taint(self, ca_ids: Sequence[str], at: datetime, audit: Sequence[AuditEntry]) -> list[str]:
        """Mark CAs as believed stolen; returns those that were not yet."""

        def taint_them(transaction: Transaction) -> list[str]:
            marked = [
                each for table in (AUTHORITIES, JWT_KEYS) for each in taint(transaction.connection, ca_ids, at, table)
            ]
            transaction.audit(*(each for each in audit if each.subject in marked))
            transaction.changed(changes.TRUST)
            transaction.changed(changes.JWT)
            return marked

        return self._store.write(taint_them)

    def lapsed(self, at: datetime) -> int:
        """Return how many identities have had a certificate, if none is valid any more."""
        with self._store.read() as connection:
            return lapsed(connection, at)

    def last_expiry(self, issuer_id: str, since: datetime) -> datetime | None:
        """Return when the last leaf of this CA ends that was asked for since then."""
        with self._store.read() as connection:
            return last_expiry(connection, issuer_id, since)

    def record_intents(self, intents: Sequence[Intent]) -> list[bool]:
        """Write the intents; False for each whose identity is suspended."""
        return self._store.write(lambda transaction: insert_intents(transaction.connection, intents))

    def record_results(
        self, results: Sequence[Result | Abandoned], audit: Callable[[Sequence[bool]], Sequence[AuditEntry]]
    ) -> list[bool]:
        """Finish the intents; False for each that may not be released."""

        def finish(transaction: Transaction) -> list[bool]:
            released = finish_intents(transaction.connection, results)
            transaction.audit(*audit(released))
            return released

        return self._store.write(finish)

    def revoke(
        self,
        serials: Sequence[str],
        revocation: Revocation,
        audit: Callable[[Sequence[CertificateRecord]], Sequence[AuditEntry]],
    ) -> list[CertificateRecord]:
        """Revoke those that can be and bump their drain epochs."""

        def revoke(transaction: Transaction) -> list[CertificateRecord]:
            revoked = revoke_serials(transaction.connection, serials, revocation)
            transaction.audit(*audit(revoked))
            for spiffe_id in {record.spiffe_id for record in revoked}:
                _tell_revoked(transaction, spiffe_id, revoked, suspended=False)
            return revoked

        return self._store.write(revoke)

    def suspend(
        self,
        spiffe_id: SpiffeId,
        revocation: Revocation,
        audit: Callable[[Sequence[CertificateRecord]], Sequence[AuditEntry]],
    ) -> list[CertificateRecord]:
        """Suspend the identity, revoke all of it, bump its drain epoch."""

        def suspend(transaction: Transaction) -> list[CertificateRecord]:
            revoked = suspend_identity(transaction.connection, spiffe_id, revocation)
            transaction.audit(*audit(revoked))
            _tell_revoked(transaction, spiffe_id, revoked, suspended=True)
            return revoked

        return self._store.write(suspend)

    def resume(self, spiffe_id: SpiffeId, audit: AuditEntry) -> bool:
        """End the suspension; False when there is none."""

        def resume(transaction: Transaction) -> bool:
            if not resume_identity(transaction.connection, spiffe_id):
                return False
            transaction.audit(audit)
            transaction.changed(changes.SUSPENSIONS)
            return True

        return self._store.write(resume)

    def freeze(self, freeze: Freeze, audit: AuditEntry) -> bool:
        """Let nothing be issued from here on; False when that is so already."""

        def freeze_it(transaction: Transaction) -> bool:
            done = freezing.freeze(transaction.connection, freeze)
            transaction.audit(*[audit] * done)
            transaction.changed(changes.FREEZE)
            return done

        return self._store.write(freeze_it)

    def unfreeze(self, audit: AuditEntry) -> bool:
        """Let certificates be issued again; False when they are."""

        def unfreeze_it(transaction: Transaction) -> bool:
            done = freezing.unfreeze(transaction.connection)
            transaction.audit(*[audit] * done)
            transaction.changed(changes.FREEZE)
            return done

        return self._store.write(unfreeze_it)

    def frozen(self) -> Freeze | None:
        """Return since when nothing is issued, or None."""
        with self._store.read() as connection:
            return freezing.load_freeze(connection)

    def suspended(self) -> frozenset[SpiffeId]:
        """Return the suspended identities."""
        with self._store.read() as connection:
            return suspended_identities(connection)

    def revoked(self, issuer_id: str, at: datetime) -> list[RevokedEntry]:
        """Return what the issuer's next CRL lists."""
        with self._store.read() as connection:
            return listed_entries(connection, issuer_id, at)

    def store_crls(self, crls: Sequence[Crl], generation: int, audit: Sequence[AuditEntry]) -> None:
        """Store the CRLs as the next trust generation."""

        def store(transaction: Transaction) -> None:
            advance_generation(transaction.connection, generation)
            insert_crls(transaction.connection, crls)
            transaction.audit(*audit)
            transaction.changed(changes.TRUST)

        self._store.write(store)

    def pending_request(self) -> CaRequest | None:
        """Return the request for an issuing CA's certificate that waits for its chain."""
        with self._store.read() as connection:
            return load_pending(connection)

    def keep_request(self, request: CaRequest, audit: AuditEntry) -> bool:
        """Keep a request; False while another is pending."""

        def keep_it(transaction: Transaction) -> bool:
            if not keep(transaction.connection, request):
                return False
            transaction.audit(audit)
            return True

        return self._store.write(keep_it)

    def jwt_keys(self) -> list[AuthorityRecord]:
        """Return every key that signs or has signed JWT-SVIDs, oldest generation first."""
        with self._store.read() as connection:
            return jwt.load_keys(connection)

    def jwt_generation(self) -> int:
        """Return how often the JWT bundle has changed."""
        with self._store.read() as connection:
            return jwt.load_generation(connection)

    def change_jwt_keys(self, change: TrustChange, audit: Sequence[AuditEntry]) -> None:
        """Make the next generation of the JWT bundle, all or nothing."""

        def change_them(transaction: Transaction) -> None:
            jwt.change_keys(transaction.connection, change)
            transaction.audit(*audit)
            transaction.changed(changes.JWT)

        self._store.write(change_them)

    def admit_token(self, spiffe_id: SpiffeId, key_id: str, audit: AuditEntry) -> bool:
        """Write the entry of a token; False where it may not be answered."""

        def admit(transaction: Transaction) -> bool:
            admitted = jwt.is_admitted(transaction.connection, spiffe_id, key_id)
            transaction.audit(*[audit] * admitted)
            return admitted

        return self._store.write(admit)

    def latest_crls(self) -> dict[str, Crl]:
        """Return the newest CRL of each issuer."""
        with self._store.read() as connection:
            return load_latest_crls(connection)

    def generation(self) -> int:
        """Return the trust generation."""
        with self._store.read() as connection:
            return load_generation(connection)

    def certificate(self, serial: str) -> CertificateRecord | None:
        """Return the certificate with this serial."""
        with self._store.read() as connection:
            return find_certificate(connection, serial)

    def certificates(self, wanted: CertificateFilter) -> list[CertificateRecord]:
        """Return a page of what the filter admits."""
        with self._store.read() as connection:
            return list_certificates(connection, wanted)

    def record_audit(self, entries: Sequence[AuditEntry]) -> None:
        """Append entries that come with no change."""
        self._store.write(lambda transaction: transaction.audit(*entries))

    def ask_rotation(self, spiffe_id: SpiffeId, audit: AuditEntry) -> None:
        """Let every replica give the live streams of an identity a new leaf."""

        def ask(transaction: Transaction) -> None:
            transaction.audit(audit)
            transaction.changed(changes.ROTATE, str(spiffe_id))

        self._store.write(ask)


def _tell_revoked(
    transaction: Transaction, spiffe_id: SpiffeId, revoked: Sequence[CertificateRecord], *, suspended: bool
) -> None:
    serials = frozenset(record.serial for record in revoked if record.spiffe_id == spiffe_id)
    for change in changes.Revocations(spiffe_id, serials, suspended).changes():
        transaction.changed(change.topic, change.subject)


def _is_a_ledger(ledger: SqlLedger) -> Ledger:
    """Let the type checker compare the class with its port."""
    return ledger
