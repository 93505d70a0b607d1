"""The ledger's certificates, read: one by serial, many by filter and page.

Rules: the order of every list is (created_at, serial), which never changes for a row, so a page begins where the last
one ended whatever was issued in between (keyset pagination, no OFFSET).
"""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache
from typing import Any

from sqlalchemy import Column, ColumnElement, Connection, Row, Select, and_, func, literal_column, select, tuple_

from meshca.authority.records import CertificateFilter, CertificateRecord, CertificateStatus
from meshca.errors import InvalidInputError
from meshca.spiffe.id import SpiffeId
from meshca.store.schema import CERTIFICATES
from meshca.store.times import micros, moment, optional_moment

# All but the TBS of an intent: nobody who lists certificates needs it.
COLUMNS = [column for column in CERTIFICATES.c if column.name != "tbs"]


def find_certificate(connection: Connection, serial: str) -> CertificateRecord | None:
    """Return the certificate with this serial."""
    row = connection.execute(select(*COLUMNS).where(CERTIFICATES.c.serial == serial)).first()
    return record(row) if row else None


def list_certificates(connection: Connection, wanted: CertificateFilter) -> list[CertificateRecord]:
    """Return a page of what the filter admits.

    Raises:
        InvalidInputError: `after` is no certificate of this ledger.
    """
    query = _filtered(wanted).order_by(CERTIFICATES.c.created_at, CERTIFICATES.c.serial)
    if wanted.after:
        place = tuple_(CERTIFICATES.c.created_at, CERTIFICATES.c.serial)
        query = query.where(place > tuple_(_created_at(connection, wanted.after), wanted.after))
    if wanted.limit:
        query = query.limit(wanted.limit)
    return [record(row) for row in connection.execute(query)]


def record(row: Row[Any]) -> CertificateRecord:
    """Return the row as a value."""
    return CertificateRecord(
        serial=row.serial,
        spiffe_id=parsed(row.spiffe_id),
        issuer_id=row.issuer_id,
        state=row.state,
        certificate=row.certificate or b"",
        not_before=moment(row.not_before),
        not_after=moment(row.not_after),
        holder=row.holder,
        kind=row.kind,
        requested_by=row.requested_by,
        created_at=moment(row.created_at),
        revoked_at=optional_moment(row.revoked_at),
        revocation_reason=row.revocation_reason or "",
        revocation_listed_until=optional_moment(row.revocation_listed_until),
    )


@lru_cache(maxsize=4096)
def parsed(text: str) -> SpiffeId:
    """Return the identity; the same few thousand stand in millions of rows."""
    return SpiffeId.parse(text)


def _filtered(wanted: CertificateFilter) -> Select[Any]:
    query = select(*COLUMNS)
    rare = wanted.status in _RARE
    if wanted.spiffe_id is not None:
        query = query.where(_unindexed(CERTIFICATES.c.spiffe_id, rare) == str(wanted.spiffe_id))
    if wanted.issuer_id:
        query = query.where(_unindexed(CERTIFICATES.c.issuer_id, rare) == wanted.issuer_id)
        # A planner that goes by creation instead need not begin before the issuer did.
        first = select(func.min(CERTIFICATES.c.created_at)).where(CERTIFICATES.c.issuer_id == wanted.issuer_id)
        query = query.where(CERTIFICATES.c.created_at >= first.scalar_subquery())
    if wanted.holder:
        query = query.where(CERTIFICATES.c.holder == wanted.holder)
    if wanted.status is not None:
        query = query.where(_in_status(wanted.status, wanted.at))
    return query


# States that few certificates are in: their own index is the best, whatever else is asked for.
_RARE = ("pending", "abandoned")


def _unindexed(column: Column[str], rare: bool) -> ColumnElement[str]:
    # An expression is served by no index, which keeps SQLite from choosing the longer way.
    return column.concat("") if rare else column


def _in_status(status: CertificateStatus, at: datetime) -> ColumnElement[bool]:
    """Return CertificateRecord.status as a condition."""
    if status == "revoked":
        return CERTIFICATES.c.revoked_at.is_not(None)
    unrevoked = CERTIFICATES.c.revoked_at.is_(None)
    if status in _RARE:
        # The second term says nothing new, but lets SQLite see that the partial index may be used.
        return and_(unrevoked, CERTIFICATES.c.state == status, CERTIFICATES.c.state != literal_column("'issued'"))
    issued = and_(unrevoked, CERTIFICATES.c.state == "issued")
    unexpired = CERTIFICATES.c.not_after > micros(at)
    if status == "expired":
        return and_(issued, ~unexpired)
    # Nothing older than the oldest unexpired one needs to be looked at. The index on not_after alone answers that; the
    # smallest of the bare column both databases would find by walking through everything that has expired.
    created_at = CERTIFICATES.c.created_at + literal_column("0")
    oldest = select(func.min(created_at)).where(unexpired).scalar_subquery()
    return and_(issued, unexpired, CERTIFICATES.c.created_at >= oldest)


def _created_at(connection: Connection, serial: str) -> int:
    created = connection.execute(select(CERTIFICATES.c.created_at).where(CERTIFICATES.c.serial == serial)).scalar()
    if created is None:
        raise InvalidInputError(
            "no page begins here", field="page_token", value=serial, remedy="begin with the first page"
        )
    return int(created)
