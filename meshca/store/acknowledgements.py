"""Who has acknowledged which trust generation, and what an Envoy has refused.

Rules: an acknowledgement never goes back to an older generation, whatever order two streams report in. Those who must
acknowledge are the holders of unexpired, unrevoked leaves, connected or not: the ledger knows them, not the streams.
A refused content is remembered, since Envoy acknowledges the same bytes the next time. Both are forgotten with the
certificates of their time, since every Envoy that ever ran has left some.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, and_, case, delete, func, or_, select
from sqlalchemy.dialects import postgresql, sqlite

from meshca.authority.ports import Straggler
from meshca.authority.requests import DROP_ONCE, ISSUED_ONCE
from meshca.spiffe.id import SpiffeId
from meshca.store.certificates import parsed
from meshca.store.changes import REJECTED
from meshca.store.engine import Store, Transaction
from meshca.store.schema import ACKNOWLEDGEMENTS, CERTIFICATES, NACKS
from meshca.store.texts import storable
from meshca.store.times import micros, moment


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """A holder has put in force this trust generation, or a leaf of this CA, or both; 0 and "" say nothing."""

    holder: str
    kind: str
    spiffe_id: SpiffeId
    generation: int
    at: datetime
    issuer_id: str = ""


@dataclass(frozen=True, slots=True)
class Rejection:
    """An Envoy has refused this content."""

    node: str
    content_hash: str
    type_url: str
    message: str
    at: datetime


class Acknowledgements:
    """The acknowledgements and rejections of one store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def record(self, acknowledgements: Sequence[Acknowledgement]) -> Future[None]:
        """Record them, without waiting: the future is done once they have committed."""
        rows = [_row(acknowledgement) for acknowledgement in acknowledgements]
        # One row twice in a statement is an error to PostgreSQL; of two, the higher generation counts.
        newest: dict[tuple[str, str], dict[str, Any]] = {}
        for row in sorted(rows, key=lambda row: row["generation"]):
            key = (row["holder"], row["spiffe_id"])
            newest[key] = {**row, "issuer_id": row["issuer_id"] or newest.get(key, row)["issuer_id"]}
        return self._store.submit(lambda transaction: _upsert(transaction.connection, list(newest.values())))

    def generation_of(self, holder: str, spiffe_id: SpiffeId) -> int:
        """Return the trust generation that the holder has acknowledged; 0 for none."""
        query = select(ACKNOWLEDGEMENTS.c.generation).where(
            ACKNOWLEDGEMENTS.c.holder == holder, ACKNOWLEDGEMENTS.c.spiffe_id == str(spiffe_id)
        )
        with self._store.read() as connection:
            return connection.execute(query).scalar() or 0

    def stragglers(self, generation: int, at: datetime) -> list[Straggler]:
        """Return who holds a leaf that is unexpired at this time and has not acknowledged the generation."""
        behind = or_(ACKNOWLEDGEMENTS.c.generation.is_(None), ACKNOWLEDGEMENTS.c.generation < generation)
        return self._waited_for(_holding(at).where(behind))

    def still_on(self, issuer_id: str, at: datetime) -> list[Straggler]:
        """Return who may still serve a leaf of this CA: the last one acknowledged, or an unexpired one and no other."""
        acknowledged = func.coalesce(ACKNOWLEDGEMENTS.c.issuer_id, "")
        unknown = and_(acknowledged == "", CERTIFICATES.c.issuer_id == issuer_id)
        return self._waited_for(_holding(at).where(or_(acknowledged == issuer_id, unknown)))

    def holders(self, at: datetime) -> int:
        """Return how many holders of an unexpired leaf there are to wait for."""
        with self._store.read() as connection:
            return connection.execute(select(func.count()).select_from(_holding(at).subquery())).scalar_one()

    def _waited_for(self, query: Any) -> list[Straggler]:
        with self._store.read() as connection:
            return [
                Straggler(row.holder, row.kind, parsed(row.spiffe_id), row.acknowledged or 0)
                for row in connection.execute(query)
            ]

    def reject(self, rejection: Rejection) -> Future[None]:
        """Remember what a node has refused, without waiting."""
        row = {
            "node": storable(rejection.node),
            "content_hash": rejection.content_hash,
            "type_url": rejection.type_url,
            "message": storable(rejection.message),
            "at": micros(rejection.at),
        }

        def remember(transaction: Transaction) -> None:
            upsert = _insert(transaction.connection)(NACKS).values(row)
            replaced = {name: upsert.excluded[name] for name in ("type_url", "message", "at")}
            transaction.connection.execute(
                upsert.on_conflict_do_update(index_elements=NACKS.primary_key.columns, set_=replaced)
            )
            # Its Envoy may come to another replica next, and acknowledge there what it has refused here.
            transaction.changed(REJECTED, json.dumps([row["node"], row["type_url"], row["content_hash"]]))

        return self._store.submit(remember)

    def rejections(self, node: str) -> list[Rejection]:
        """Return what the node has refused, oldest first."""
        query = select(NACKS).where(NACKS.c.node == node).order_by(NACKS.c.at, NACKS.c.content_hash)
        with self._store.read() as connection:
            return [
                Rejection(row.node, row.content_hash, row.type_url, row.message, moment(row.at))
                for row in connection.execute(query)
            ]

    def forget(self, before: datetime, now: datetime) -> None:
        """Forget what was refused before this time, or acknowledged by a holder that has no unexpired leaf any more."""
        holding = select(CERTIFICATES.c.holder).where(CERTIFICATES.c.not_after > micros(now))
        old = (
            delete(ACKNOWLEDGEMENTS).where(
                ACKNOWLEDGEMENTS.c.at < micros(before), ACKNOWLEDGEMENTS.c.holder.not_in(holding)
            ),
            delete(NACKS).where(NACKS.c.at < micros(before)),
        )

        def forget(transaction: Transaction) -> None:
            for statement in old:
                transaction.connection.execute(statement)

        self._store.write(forget)


def _row(acknowledgement: Acknowledgement) -> dict[str, Any]:
    return {
        "holder": acknowledgement.holder,
        "kind": acknowledgement.kind,
        "spiffe_id": str(acknowledgement.spiffe_id),
        "generation": acknowledgement.generation,
        "at": micros(acknowledgement.at),
        "issuer_id": acknowledgement.issuer_id,
    }


def _insert(connection: Connection) -> Any:
    return postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert


def _upsert(connection: Connection, rows: list[dict[str, Any]]) -> None:
    """Write what is new: a generation only grows; of leaves, the last one acknowledged counts."""
    if not rows:
        return
    upsert = _insert(connection)(ACKNOWLEDGEMENTS)
    old, new = ACKNOWLEDGEMENTS.c, upsert.excluded
    newer, another = old.generation < new.generation, and_(new.issuer_id != "", new.issuer_id != old.issuer_id)
    statement = upsert.on_conflict_do_update(
        index_elements=ACKNOWLEDGEMENTS.primary_key.columns,
        set_={
            "kind": new.kind,
            "at": new.at,
            "generation": case((newer, new.generation), else_=old.generation),
            "issuer_id": case((new.issuer_id != "", new.issuer_id), else_=old.issuer_id),
        },
        where=or_(newer, another),
    )
    connection.execute(statement, sorted(rows, key=lambda row: (row["holder"], row["spiffe_id"])))


def _holding(at: datetime) -> Any:
    """Select the holders of an unexpired leaf that are waited for, with what they have acknowledged."""
    same = and_(
        ACKNOWLEDGEMENTS.c.holder == CERTIFICATES.c.holder, ACKNOWLEDGEMENTS.c.spiffe_id == CERTIFICATES.c.spiffe_id
    )
    return (
        select(
            CERTIFICATES.c.holder,
            func.min(CERTIFICATES.c.kind).label("kind"),
            CERTIFICATES.c.spiffe_id,
            func.max(ACKNOWLEDGEMENTS.c.generation).label("acknowledged"),
        )
        .select_from(CERTIFICATES.outerjoin(ACKNOWLEDGEMENTS, same))
        .where(
            CERTIFICATES.c.not_after > micros(at),
            CERTIFICATES.c.revoked_at.is_(None),
            CERTIFICATES.c.state == "issued",
            CERTIFICATES.c.holder != ISSUED_ONCE,
            CERTIFICATES.c.holder.not_like(f"{DROP_ONCE}%"),
        )
        .group_by(CERTIFICATES.c.holder, CERTIFICATES.c.spiffe_id)
        .order_by(CERTIFICATES.c.spiffe_id, CERTIFICATES.c.holder)
    )
