"""When certificates end: what rotation and recovery ask of the ledger."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection, and_, distinct, func, select

from meshca.store.schema import CERTIFICATES
from meshca.store.times import micros, optional_moment


def last_expiry(connection: Connection, issuer_id: str, since: datetime) -> datetime | None:
    """Return when the last certificate of this CA ends that was asked for since then, unless it was abandoned."""
    found = connection.execute(
        select(func.max(CERTIFICATES.c.not_after)).where(
            CERTIFICATES.c.issuer_id == issuer_id,
            CERTIFICATES.c.created_at >= micros(since),
            CERTIFICATES.c.state != "abandoned",
        )
    ).scalar()
    return optional_moment(found)


def lapsed(connection: Connection, at: datetime) -> int:
    """Return how many identities have had a certificate, if none of any of them is valid; else 0."""
    issued = and_(CERTIFICATES.c.state == "issued", CERTIFICATES.c.revoked_at.is_(None))
    valid = select(CERTIFICATES.c.serial).where(issued, CERTIFICATES.c.not_after > micros(at)).limit(1)
    if connection.execute(valid).first() is not None:
        return 0
    return connection.execute(select(func.count(distinct(CERTIFICATES.c.spiffe_id))).where(issued)).scalar_one()
