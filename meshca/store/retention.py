"""Retention: certificates that expired long ago move from the ledger into the archive.

Rules:
- What has not expired before the given time stays. A revoked certificate stays until a CRL that was made after its
  expiry has listed it (RFC 5280 §3.3), or its issuer makes no CRLs any more, being removed or expired itself.
- Intents that were never finished move as well: they have expired like everything else.
- One batch is one transaction, which deletes what its statement finds due and inserts exactly what that returned: a
  crash moves all of a batch or nothing, and of two processes one moves a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, delete, insert, or_, select

from meshca.authority import audit
from meshca.authority.audit import AuditEntry
from meshca.store.engine import Store, Transaction
from meshca.store.schema import ARCHIVED_CERTIFICATES, AUTHORITIES, CERTIFICATES
from meshca.store.times import micros

ACTOR = "retention"
_BATCH = 500


@dataclass(frozen=True, slots=True)
class Retention:
    """Moves records of one store into its archive."""

    store: Store
    batch: int = _BATCH

    def archive(self, before: datetime, now: datetime) -> int:
        """Move at most one batch of what expired before this time, and return how many records that were.

        Raises:
            StoreError: The database does not answer; nothing was moved.
        """
        due = _due(before, now)
        with self.store.read() as connection:
            if connection.execute(select(CERTIFICATES.c.serial).where(due).limit(1)).first() is None:
                return 0

        def move(transaction: Transaction) -> int:
            moved = _move(transaction.connection, due, self.batch)
            if moved:
                transaction.audit(_entry(moved, before))
            return len(moved)

        return self.store.write(move)


def _due(before: datetime, now: datetime) -> ColumnElement[bool]:
    silent = or_(AUTHORITIES.c.state == "removed", AUTHORITIES.c.not_after <= micros(now))
    return and_(
        CERTIFICATES.c.not_after < micros(before),
        or_(
            CERTIFICATES.c.revoked_at.is_(None),
            CERTIFICATES.c.revocation_listed_until.is_not(None),
            CERTIFICATES.c.issuer_id.in_(select(AUTHORITIES.c.id).where(silent)),
        ),
    )


def _move(connection: Connection, due: ColumnElement[bool], batch: int) -> list[dict[str, Any]]:
    # Two processes on PostgreSQL take different rows; SQLite, which ignores the lock, lets one write at a time.
    oldest = (
        select(CERTIFICATES.c.serial)
        .where(due)
        .order_by(CERTIFICATES.c.not_after)
        .limit(batch)
        .with_for_update(skip_locked=True)
        # A plain subquery may be run again for each row, and finds others each time: then there is no limit.
        .cte("oldest")
    )
    gone = (
        delete(CERTIFICATES).where(CERTIFICATES.c.serial.in_(select(oldest.c.serial)), due).returning(*CERTIFICATES.c)
    )
    rows = [dict(row) for row in connection.execute(gone).mappings()]
    if rows:
        connection.execute(insert(ARCHIVED_CERTIFICATES), rows)
    return rows


def _entry(moved: list[dict[str, Any]], before: datetime) -> AuditEntry:
    serials = sorted(row["serial"] for row in moved)
    reason = f"{len(moved)} expired before {before.isoformat(timespec='seconds')}, {serials[0]} to {serials[-1]}"
    return AuditEntry(audit.ARCHIVE, "ledger", audit.OK, reason, ACTOR)
