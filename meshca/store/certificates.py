"""The ledger's certificates, read: one by serial, many by filter and page.

Rules: the order of every list is (created_at, serial), which never changes for a row, so a page begins where the last
one ended whatever was issued in between (keyset pagination, no OFFSET).
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from functools import lru_cache
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Row,
    Table,
    and_,
    func,
    literal_column,
    select,
    tuple_,
)

from meshca.authority.records import CertificateFilter, CertificateRecord, CertificateStatus
from meshca.errors import InvalidInputError
from meshca.spiffe.id import SpiffeId
from meshca.store.schema import ARCHIVED_CERTIFICATES, CERTIFICATES
from meshca.store.times import micros, moment, optional_moment

# All but the TBS of an intent: nobody who lists certificates needs it.
COLUMNS = [column for column in CERTIFICATES.c if column.name != "tbs"]


def find_certificate(connection: Connection, serial: str) -> CertificateRecord | None:
    """Return the certificate with this serial, archived or not."""
    for table in (CERTIFICATES, ARCHIVED_CERTIFICATES):
        if row := connection.execute(select(*_shown(table)).where(table.c.serial == serial)).first():
            return record(row)
    return None


def list_certificates(connection: Connection, wanted: CertificateFilter) -> list[CertificateRecord]:
    """Return a page of what the filter admits.

    Raises:
        InvalidInputError: `after` is no certificate of this ledger.
    """
    table = ARCHIVED_CERTIFICATES if wanted.archived else CERTIFICATES
    spans = list(_spans(connection, table, wanted))
    first, last = max(span[0] for span in spans), min(span[1] for span in spans)
    if last < first:
        return []
    begin = _created_at(connection, wanted.after) if wanted.after else -1
    later = table.c.created_at >= first
    if begin >= first:  # one condition in any case: of two on one column SQLite uses either
        later = tuple_(table.c.created_at, table.c.serial) > tuple_(begin, wanted.after)
    query = select(*_shown(table)).where(*_conditions(table, wanted), later, table.c.created_at <= last)
    query = query.order_by(table.c.created_at, table.c.serial)
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


def _shown(table: Table) -> list[Column[Any]]:
    return [column for column in table.c if column.name != "tbs"]


def _conditions(table: Table, wanted: CertificateFilter) -> Iterator[ColumnElement[bool]]:
    rare = wanted.status in _RARE
    if wanted.spiffe_id is not None:
        yield _unindexed(table.c.spiffe_id, rare) == str(wanted.spiffe_id)
    if wanted.issuer_id:
        yield _unindexed(table.c.issuer_id, rare) == wanted.issuer_id
    if wanted.holder:
        yield table.c.holder == wanted.holder
    if wanted.status is not None:
        yield _in_status(table, wanted.status, wanted.at)


_Span = tuple[int, int]
_NO_END = 2**62
_NOTHING: _Span = (0, -1)


def _spans(connection: Connection, table: Table, wanted: CertificateFilter) -> Iterator[_Span]:
    """Yield between which creations (both included) all that is wanted lies, by each thing that is asked for.

    An index that is in the order of pages has to be walked no further, whatever else the planner knows.
    """
    yield 0 if wanted.since is None else micros(wanted.since), _NO_END
    yield 0, _NO_END if wanted.until is None else micros(wanted.until) - 1
    if wanted.issuer_id:
        own = select(table.c.created_at).where(table.c.issuer_id == wanted.issuer_id).limit(1)
        ends = [
            connection.execute(own.order_by(end)).scalar() for end in (table.c.created_at, table.c.created_at.desc())
        ]
        yield _NOTHING if ends[0] is None else (ends[0], ends[1] or ends[0])
    if wanted.spiffe_id is None:  # an identity's own index is walked through in no time
        yield from _span_of_status(connection, table, wanted)


# Up to how many it pays to look at, in the index on not_after alone, before the list is walked in order of creation:
# there are few valid ones in an old ledger, and few expired ones in a young one.
_MOST_VALID, _MOST_EXPIRED = 300_000, 50_000


def _span_of_status(connection: Connection, table: Table, wanted: CertificateFilter) -> Iterator[_Span]:
    unexpired = table.c.not_after > micros(wanted.at)
    begins = wanted.since is not None or wanted.after
    if wanted.status == "valid":
        yield _looked_up(connection, unexpired, table.c.created_at, _MOST_VALID // 3 if begins else _MOST_VALID)
    if wanted.status == "expired":
        yield _looked_up(connection, ~unexpired, table.c.created_at, _MOST_EXPIRED)


def _looked_up(connection: Connection, which: ColumnElement[bool], created_at: Column[int], most: int) -> _Span:
    if connection.execute(select(literal_column("1")).where(which).limit(1).offset(most)).first():
        return 0, _NO_END
    # The smallest of the bare column both databases would find by walking through everything else.
    bare = created_at + literal_column("0")
    first, last = connection.execute(select(func.min(bare), func.max(bare)).where(which)).one()
    return _NOTHING if first is None else (first, last)


# States that few certificates are in: their own index is the best, whatever else is asked for.
_RARE = ("pending", "abandoned")


def _unindexed(column: Column[str], rare: bool) -> ColumnElement[str]:
    # An expression is served by no index, which keeps SQLite from choosing the longer way.
    return column.concat("") if rare else column


def _in_status(table: Table, status: CertificateStatus, at: datetime) -> ColumnElement[bool]:
    """Return CertificateRecord.status as a condition."""
    if status == "revoked":
        return table.c.revoked_at.is_not(None)
    unrevoked = table.c.revoked_at.is_(None)
    if status in _RARE:
        # The second term says nothing new, but lets SQLite see that the partial index may be used.
        return and_(unrevoked, table.c.state == status, table.c.state != literal_column("'issued'"))
    issued = and_(unrevoked, table.c.state == "issued")
    unexpired = table.c.not_after > micros(at)
    return and_(issued, ~unexpired) if status == "expired" else and_(issued, unexpired)


def _created_at(connection: Connection, serial: str) -> int:
    # A row that has moved to the archive between two pages keeps its place in the order.
    for table in (CERTIFICATES, ARCHIVED_CERTIFICATES):
        created = connection.execute(select(table.c.created_at).where(table.c.serial == serial)).scalar()
        if created is not None:
            return int(created)
    raise InvalidInputError("no page begins here", field="page_token", value=serial, remedy="begin with the first page")
