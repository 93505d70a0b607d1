"""Keys that sign JWT-SVIDs, the tokens they are admitted to sign, and who follows their bundle.

Rules: the bundle's generation grows by one with each change, by a conditional update that also makes two writers take
turns; a token is admitted by one statement, which asks for suspension, freeze and key itself, and holds off both while
its transaction lasts; what a follower has never goes back to an older generation.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, case, delete, exists, func, literal, select, update
from sqlalchemy.dialects import postgresql, sqlite

from meshca.authority.ports import MovedOnError, Straggler, TrustChange
from meshca.authority.records import JWT, AuthorityRecord
from meshca.errors import ConflictError
from meshca.spiffe.id import SpiffeId
from meshca.store.certificates import parsed
from meshca.store.conditional import insert_missing, own_suspensions, share_suspensions
from meshca.store.engine import Store, Transaction
from meshca.store.freezing import IS_FROZEN, require_thawed
from meshca.store.schema import JWT_HOLDERS, JWT_KEYS, REALM, SUSPENSIONS
from meshca.store.times import micros, moment
from meshca.store.trust import moments_of, moments_row, move_authority

_ROWS = 1_000  # in one statement; databases bound its parameters


@dataclass(frozen=True, slots=True)
class Following:
    """A holder has been given this generation of the JWT bundle, and counts as one who follows it until then."""

    holder: str
    spiffe_id: SpiffeId
    generation: int
    until: datetime


def load_keys(connection: Connection) -> list[AuthorityRecord]:
    """Return every key, oldest generation first."""
    rows = connection.execute(select(JWT_KEYS).order_by(JWT_KEYS.c.generation, JWT_KEYS.c.id))
    return [_key(row) for row in rows]


def load_generation(connection: Connection) -> int:
    """Return the bundle's generation; 0 where there is no realm."""
    return connection.execute(select(REALM.c.jwt_generation)).scalar() or 0


def change_keys(connection: Connection, change: TrustChange) -> None:
    """Make the next generation.

    Raises:
        MovedOnError: It is not the next one.
        ConflictError: A key is not in the state that it is to leave, another has the state that
            it is to have, or one is added while issuance is frozen.
    """
    own_suspensions(connection)  # no token of a key that goes is being admitted meanwhile
    advanced = update(REALM).where(REALM.c.jwt_generation == change.generation - 1)
    if connection.execute(advanced.values(jwt_generation=change.generation)).rowcount != 1:
        raise MovedOnError(f"generation {change.generation} of the JWT bundle is not the next one")
    if change.added:
        require_thawed(connection)
    for move in change.moved:
        move_authority(connection, move, JWT_KEYS)
    for record in change.added:
        if not insert_missing(connection, JWT_KEYS, _row(record)):
            raise ConflictError(f"key {record.id} is known, or another is {record.state} already")


def is_admitted(connection: Connection, spiffe_id: SpiffeId, key_id: str) -> bool:
    """Say whether a token of this identity may be answered, in a transaction that a suspension or freeze waits for."""
    share_suspensions(connection)
    suspended = exists(literal(1)).where(SUSPENSIONS.c.spiffe_id == str(spiffe_id)).correlate(None)
    in_office = (JWT_KEYS.c.id == key_id, JWT_KEYS.c.state == "active", JWT_KEYS.c.tainted_at.is_(None))
    wanted = select(JWT_KEYS.c.id).where(*in_office, ~suspended, ~IS_FROZEN)
    return connection.execute(wanted).first() is not None


class JwtHolders:
    """Who follows the JWT bundle, on whichever replica. Implements ``authority.ports.JwtHolders``."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def record(self, followings: Sequence[Following]) -> Future[None]:
        """Record them, without waiting: the future is done once they have committed. Each holder stands there once."""
        rows = [
            {
                "holder": following.holder,
                "spiffe_id": str(following.spiffe_id),
                "generation": following.generation,
                "until": micros(following.until),
            }
            for following in followings
        ]
        return self._store.submit(lambda transaction: _upsert(transaction.connection, rows))

    def behind(self, generation: int, at: datetime) -> list[Straggler]:
        """Return who follows the bundle at this time and has not been given this generation."""
        wanted = select(JWT_HOLDERS).where(JWT_HOLDERS.c.until > micros(at), JWT_HOLDERS.c.generation < generation)
        with self._store.read() as connection:
            return [
                Straggler(row.holder, "jwt", parsed(row.spiffe_id), row.generation)
                for row in connection.execute(wanted.order_by(JWT_HOLDERS.c.holder))
            ]

    def holders(self, at: datetime) -> int:
        """Return how many follow it at this time."""
        wanted = select(func.count()).select_from(JWT_HOLDERS).where(JWT_HOLDERS.c.until > micros(at))
        with self._store.read() as connection:
            return int(connection.execute(wanted).scalar_one())

    def forget(self, now: datetime) -> None:
        """Forget who follows it no more."""

        def forget(transaction: Transaction) -> None:
            transaction.connection.execute(delete(JWT_HOLDERS).where(JWT_HOLDERS.c.until <= micros(now)))

        self._store.write(forget)


def _upsert(connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
    for at in range(0, len(rows), _ROWS):
        _upsert_some(connection, rows[at : at + _ROWS])


def _upsert_some(connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
    table = JWT_HOLDERS
    into = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    upsert = into(table).values(list(rows))
    newer = upsert.excluded.generation
    higher = case((newer > table.c.generation, newer), else_=table.c.generation)
    changed = {"spiffe_id": upsert.excluded.spiffe_id, "generation": higher, "until": upsert.excluded.until}
    connection.execute(upsert.on_conflict_do_update(index_elements=[table.c.holder], set_=changed))


def _row(record: AuthorityRecord) -> dict[str, Any]:
    return {
        "id": record.id,
        "state": record.state,
        "generation": record.generation,
        "spki": record.spki,
        "key_ref": record.key_ref,
        "not_before": micros(record.not_before),
        "not_after": micros(record.not_after),
        **moments_row(record),
    }


def _key(row: Row[Any]) -> AuthorityRecord:
    return AuthorityRecord(
        id=row.id,
        role=JWT,
        state=row.state,
        generation=row.generation,
        certificate=b"",
        parent_id=row.id,
        key_ref=row.key_ref,
        not_before=moment(row.not_before),
        not_after=moment(row.not_after),
        spki=row.spki,
        **moments_of(row),
    )
