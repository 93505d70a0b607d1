"""Revocation and suspension, each one transaction with the drain epochs that end what is open.

Rules: a certificate is revoked once, and only while it is unexpired. `revocation_listed_until` is set when a CRL that
lists it has been made after its expiry (RFC 5280 §3.3): from then on it need not be listed.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, Select, Table, delete, or_, select, update

from meshca.authority.ports import Revocation
from meshca.authority.records import CertificateRecord
from meshca.spiffe.id import SpiffeId
from meshca.store.certificates import COLUMNS, parsed, record
from meshca.store.conditional import bump, insert_missing, own_suspensions
from meshca.store.schema import ARCHIVED_CERTIFICATES, CERTIFICATES, DRAIN_EPOCHS, SUSPENSIONS
from meshca.store.times import micros, moment
from meshca.x509.crl import RevokedEntry

# Bound parameters of one statement; SQLite allows 32,766, PostgreSQL 65,535.
_CHUNK = 1_000


def identity_scope(spiffe_id: SpiffeId) -> str:
    """Return the drain epoch's scope that ends the connections of one identity."""
    return f"identity:{spiffe_id}"


def revoke_serials(connection: Connection, serials: Sequence[str], revocation: Revocation) -> list[CertificateRecord]:
    """Revoke what can be, bump the epoch of each identity concerned, and return what was revoked."""
    wanted = sorted(set(serials))
    revoked: list[CertificateRecord] = []
    for start in range(0, len(wanted), _CHUNK):
        chosen = CERTIFICATES.c.serial.in_(wanted[start : start + _CHUNK])
        revoked.extend(_revoke_where(connection, chosen, revocation))
    bump(connection, DRAIN_EPOCHS, [identity_scope(record.spiffe_id) for record in revoked], "value")
    return revoked


def suspend_identity(connection: Connection, spiffe_id: SpiffeId, revocation: Revocation) -> list[CertificateRecord]:
    """Suspend the identity, revoke all that it holds, bump its epoch, and return what was revoked."""
    own_suspensions(connection)
    insert_missing(
        connection,
        SUSPENSIONS,
        {
            "spiffe_id": str(spiffe_id),
            "since": micros(revocation.at),
            "reason": revocation.reason,
            "actor": revocation.actor,
        },
    )
    revoked = _revoke_where(connection, CERTIFICATES.c.spiffe_id == str(spiffe_id), revocation)
    bump(connection, DRAIN_EPOCHS, [identity_scope(spiffe_id)], "value")
    return revoked


def resume_identity(connection: Connection, spiffe_id: SpiffeId) -> bool:
    """End the suspension; False when there is none."""
    return connection.execute(delete(SUSPENSIONS).where(SUSPENSIONS.c.spiffe_id == str(spiffe_id))).rowcount == 1


def suspended_identities(connection: Connection) -> frozenset[SpiffeId]:
    """Return the identities that get nothing until they are resumed."""
    return frozenset(parsed(text) for text in connection.execute(select(SUSPENSIONS.c.spiffe_id)).scalars())


def listed_entries(connection: Connection, issuer_id: str, at: datetime) -> list[RevokedEntry]:
    """Return what the issuer's next CRL lists, by serial."""
    unlisted = CERTIFICATES.c.revocation_listed_until.is_(None)
    current = _revoked_by(CERTIFICATES, issuer_id, or_(CERTIFICATES.c.not_after > micros(at), unlisted))
    # Nothing in the archive is unexpired, unless the clock ran far ahead for a while and has been set back.
    archived = _revoked_by(ARCHIVED_CERTIFICATES, issuer_id, ARCHIVED_CERTIFICATES.c.not_after > micros(at))
    found = [*connection.execute(current), *connection.execute(archived)]
    return [
        RevokedEntry(serial=int(serial, 16), revoked_at=moment(revoked_at), reason=reason)
        for serial, revoked_at, reason in sorted(tuple(row) for row in found)
    ]


def _revoked_by(table: Table, issuer_id: str, due: ColumnElement[bool]) -> Select[tuple[str, int, str]]:
    return select(table.c.serial, table.c.revoked_at, table.c.revocation_reason).where(
        table.c.issuer_id == issuer_id, table.c.revoked_at.is_not(None), due
    )


def mark_listed(connection: Connection, issuer_id: str, this_update: datetime) -> None:
    """Note that a CRL of this time has listed what had expired before it."""
    connection.execute(
        update(CERTIFICATES)
        .where(
            CERTIFICATES.c.issuer_id == issuer_id,
            CERTIFICATES.c.revoked_at.is_not(None),
            CERTIFICATES.c.revocation_listed_until.is_(None),
            CERTIFICATES.c.not_after < micros(this_update),
        )
        .values(revocation_listed_until=micros(this_update))
    )


def _revoke_where(
    connection: Connection, chosen: ColumnElement[bool], revocation: Revocation
) -> list[CertificateRecord]:
    statement = (
        update(CERTIFICATES)
        .where(chosen, CERTIFICATES.c.revoked_at.is_(None), CERTIFICATES.c.not_after > micros(revocation.at))
        .values(revoked_at=micros(revocation.at), revocation_reason=revocation.reason)
        .returning(*COLUMNS)
    )
    return sorted((record(row) for row in connection.execute(statement)), key=lambda found: found.serial)
