"""Statements compiled once from the Core tables and run many times through the driver's own cursor.

Measured for 50 certificates on SQLite: SQLAlchemy's execution costs more than the inserts themselves. Where a batch
is written for every certificate, this path is used; everywhere else plain Core is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Dialect, Executable
from sqlalchemy.dialects import sqlite
from sqlalchemy.dialects.postgresql import psycopg

_DIALECTS: dict[str, Dialect] = {
    "sqlite": sqlite.dialect(paramstyle="qmark"),
    "postgresql": psycopg.dialect(paramstyle="format"),  # type: ignore[no-untyped-call]
}


class Prepared:
    """One Core statement as SQL text for each database, with the order of its parameters."""

    def __init__(self, statement: Executable) -> None:
        self._forms = {name: _compiled(statement, dialect) for name, dialect in _DIALECTS.items()}

    def run_each(self, connection: Connection, rows: Sequence[Mapping[str, Any]]) -> list[int]:
        """Run once for each row and return how many rows of the table each run changed."""
        if not rows:
            return []
        sql, names = self._forms[connection.dialect.name]
        values = [tuple([row[name] for name in names]) for row in rows]
        cursor: Any = connection.connection.cursor()
        try:
            return (
                _each_sqlite(cursor, sql, values) if connection.dialect.name == "sqlite" else _each(cursor, sql, values)
            )
        finally:
            cursor.close()

    def run_all(self, connection: Connection, rows: Sequence[tuple[Any, ...]]) -> None:
        """Run once for each row of parameters in the statement's own order, where nobody needs to know the counts."""
        sql, _ = self._forms[connection.dialect.name]
        cursor: Any = connection.connection.cursor()
        try:
            cursor.executemany(sql, rows)
        finally:
            cursor.close()


def _compiled(statement: Any, dialect: Any) -> tuple[str, tuple[str, ...]]:
    compiled = statement.compile(dialect=dialect)
    return str(compiled), tuple(compiled.positiontup or ())


def _each_sqlite(cursor: Any, sql: str, rows: list[tuple[Any, ...]]) -> list[int]:
    # executemany would tell only the sum; a loop costs a microsecond more for each row.
    counts = []
    for row in rows:
        cursor.execute(sql, row)
        counts.append(cursor.rowcount)
    return counts


def _each(cursor: Any, sql: str, rows: list[tuple[Any, ...]]) -> list[int]:
    # returning=True makes psycopg keep one result for each row, all of them sent in one pipeline.
    cursor.executemany(sql, rows, returning=True)
    counts = [cursor.rowcount]
    while cursor.nextset():
        counts.append(cursor.rowcount)
    return counts
