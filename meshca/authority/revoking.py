"""Revoking certificates, and suspending identities.

Rules: a revocation is in the ledger and the audit log before anybody is told; what was revoked stays revoked; a refusal
is audited as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from meshca.authority import audit
from meshca.authority.audit import AuditEntry
from meshca.authority.events import Event, LeafRevoked, Resumed
from meshca.authority.ports import Clock, Ledger, Revocation
from meshca.authority.reasons import parse_reason
from meshca.authority.records import CertificateRecord
from meshca.errors import ConflictError, InvalidInputError, MeshcaError, NotFoundError
from meshca.spiffe.id import SpiffeId, TrustDomain
from meshca.x509.serial import parse_serial


@dataclass(frozen=True, slots=True)
class Revoked:
    """What a revocation reached. ``serials`` were revoked by this call; ``already`` had been before."""

    serials: tuple[str, ...]
    spiffe_id: SpiffeId
    suspended: bool
    already: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Revoking:
    """Revokes, suspends and resumes. Any thread may call it."""

    ledger: Ledger
    clock: Clock
    trust_domain: TrustDomain
    tell: Callable[[Event], None]

    def revoke(self, serial: str, reason: str, actor: str) -> Revoked:
        """Revoke one certificate; one that is revoked already stays as it is.

        Raises:
            InvalidInputError: The serial or the reason is none.
            NotFoundError: No certificate has this serial.
            ConflictError: It has expired.
        """
        revocation = Revocation(self.clock.now(), parse_reason(reason), actor)
        parse_serial(serial)
        revoked = self.ledger.revoke([serial], revocation, lambda records: _revocation_entries(records, revocation))
        if not revoked:
            return self._not_revoked(serial, revocation)
        self.tell(LeafRevoked(frozenset([serial]), revoked[0].spiffe_id, suspended=False))
        return Revoked((serial,), revoked[0].spiffe_id, suspended=False)

    def suspend(self, spiffe_id: SpiffeId, reason: str, actor: str) -> Revoked:
        """Revoke every certificate of the identity and issue none until ``resume``.

        Raises:
            InvalidInputError: The reason is none, or the identity is not of this trust domain.
        """
        revocation = Revocation(self.clock.now(), parse_reason(reason), actor)
        self._require_ours(spiffe_id)

        def entries(records: Sequence[CertificateRecord]) -> list[AuditEntry]:
            act = AuditEntry(audit.SUSPEND, str(spiffe_id), audit.OK, revocation.reason, actor)
            return [act, *_revocation_entries(records, revocation)]

        revoked = self.ledger.suspend(spiffe_id, revocation, entries)
        serials = tuple(record.serial for record in revoked)
        self.tell(LeafRevoked(frozenset(serials), spiffe_id, suspended=True))
        return Revoked(serials, spiffe_id, suspended=True)

    def resume(self, spiffe_id: SpiffeId, actor: str) -> None:
        """Let the identity hold certificates again; what was revoked stays revoked.

        Raises:
            ConflictError: It is not suspended.
        """
        if not self.ledger.resume(spiffe_id, AuditEntry(audit.RESUME, str(spiffe_id), audit.OK, "", actor)):
            raise self._audited(
                ConflictError("the identity is not suspended", field="SPIFFE ID", value=str(spiffe_id)),
                AuditEntry(audit.RESUME, str(spiffe_id), audit.REFUSED, "not suspended", actor),
            )
        self.tell(Resumed(spiffe_id))

    def _not_revoked(self, serial: str, revocation: Revocation) -> Revoked:
        """Say why the ledger revoked nothing."""
        record = self.ledger.certificate(serial)
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
        self.ledger.record_audit([entry])
        return error

    def _require_ours(self, spiffe_id: SpiffeId) -> None:
        if spiffe_id.trust_domain != self.trust_domain or spiffe_id.is_trust_domain:
            raise InvalidInputError(
                f"names no identity of the trust domain {self.trust_domain}",
                field="SPIFFE ID",
                value=str(spiffe_id),
            )


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
