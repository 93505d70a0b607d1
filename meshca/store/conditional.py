"""Statements that both databases know but SQLAlchemy spells by dialect, and the one lock that PostgreSQL needs.

SQLite has one writer at a time (BEGIN IMMEDIATE), so what follows is serial there by itself. PostgreSQL's READ
COMMITTED is not: an intent that is inserted while its identity is being suspended would see no suspension, and the
suspension would not see the intent. So intents share a lock that a suspension takes alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Table, text
from sqlalchemy.dialects import postgresql, sqlite

# Advisory lock keys: any number, as long as nobody else uses it in this database.
_SUSPENSION_LOCK = 0x6D657368_6361_0002
_SEALED_KEYS_LOCK = 0x6D657368_6361_0010
_CHANGES_LOCK = 0x6D657368_6361_0011


def insert_missing(connection: Connection, table: Table, row: Mapping[str, Any]) -> bool:
    """Insert the row unless a unique constraint knows it already; say whether it was inserted."""
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    key = table.primary_key.columns[0]
    # RETURNING, because the row count of an INSERT is not kept by every driver.
    return connection.execute(insert(table).values(row).on_conflict_do_nothing().returning(key)).first() is not None


def bump(connection: Connection, table: Table, keys: Sequence[str], column: str) -> None:
    """Add one to the column of each row, which begins at 1; in the order of the keys, so that two cannot deadlock."""
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    key = table.primary_key.columns[0]
    for value in sorted(set(keys)):
        connection.execute(
            insert(table)
            .values({key.name: value, column: 1})
            .on_conflict_do_update(index_elements=[key], set_={column: table.c[column] + 1})
        )


def share_suspensions(connection: Connection) -> None:
    """Hold off suspensions until this transaction has ended."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock_shared(:key)"), {"key": _SUSPENSION_LOCK})


def own_suspensions(connection: Connection) -> None:
    """Wait for every intent that is being written, and hold off others until this transaction has ended."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _SUSPENSION_LOCK})


def own_sealed_keys(connection: Connection) -> None:
    """Hold off whoever adds or changes sealed keys until this transaction has ended."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _SEALED_KEYS_LOCK})


def own_changes(connection: Connection) -> None:
    """Hold off whoever numbers a change until this transaction has ended; asked for last, it cannot deadlock."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _CHANGES_LOCK})
