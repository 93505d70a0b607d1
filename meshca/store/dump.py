"""All tables as lines of JSON, the same from SQLite and PostgreSQL: what a backup holds of the database.

Rules: it is read in the caller's transaction, one state from the first table to the last; every table of the schema is
in it, so that a new one cannot be forgotten; bytes are base64, everything else is what the column holds.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from sqlalchemy import Connection, LargeBinary, Table, insert, select

from meshca.errors import InvalidInputError
from meshca.store.schema import METADATA

_ROWS = 1_000


class DumpError(InvalidInputError):
    """A dump is not what this code writes."""


class Dump:
    """The lines of a dump, for one iteration; ``counts`` are the rows of each table so far."""

    def __init__(self, connection: Connection) -> None:
        self.counts: dict[str, int] = {}
        self._connection = connection

    def __iter__(self) -> Iterator[bytes]:
        """Yield for each table a line with its name and columns, then its rows; at the end the counts."""
        for table in METADATA.sorted_tables:
            self.counts[table.name] = 0
            yield line_of({"table": table.name, "columns": table.columns.keys()})
            yield from self._rows(table)
        yield line_of({"counts": self.counts})

    def _rows(self, table: Table) -> Iterator[bytes]:
        packs = [_packs(column.type) for column in table.c]
        everything = select(table).execution_options(yield_per=_ROWS)
        for rows in self._connection.execute(everything).partitions():
            self.counts[table.name] += len(rows)
            yield b"".join([line_of([pack(value) for pack, value in zip(packs, row, strict=True)]) for row in rows])


class Loader:
    """Takes the lines of a dump. Without a connection it only checks them."""

    def __init__(self, connection: Connection | None = None) -> None:
        self.counts: dict[str, int] = {}
        self._connection = connection
        self._table: Table | None = None
        self._unpack: list[Callable[[Any], Any]] = []
        self._waiting: list[dict[str, Any]] = []

    def begin(self, name: str, columns: Sequence[str]) -> None:
        """Go on with a table.

        Raises:
            DumpError: There is no such table, it comes twice, or it has other columns.
        """
        self.flush()
        table = METADATA.tables.get(name)
        if table is None or name in self.counts or list(columns) != table.columns.keys():
            raise DumpError("the backup does not fit this meshca's tables", value=name)
        self._table, self.counts[name] = table, 0
        self._unpack = [_unpacks(column.type) for column in table.c]

    def row(self, values: Sequence[Any]) -> None:
        """Take one row of the table.

        Raises:
            DumpError: It is none.
        """
        if self._table is None or len(values) != len(self._unpack):
            raise DumpError("the backup holds a row of no table")
        try:
            unpacked = [unpack(value) for unpack, value in zip(self._unpack, values, strict=True)]
        except (ValueError, TypeError) as error:
            raise DumpError("the backup holds a row that is none", value=self._table.name) from error
        self.counts[self._table.name] += 1
        if self._connection is not None:
            self._waiting.append(dict(zip(self._table.columns.keys(), unpacked, strict=True)))
            if len(self._waiting) == _ROWS:
                self.flush()

    def flush(self) -> None:
        """Write what has gathered."""
        if self._connection is not None and self._table is not None and self._waiting:
            self._connection.execute(insert(self._table), self._waiting)
        self._waiting = []

    def finish(self, counts: dict[str, int]) -> None:
        """Compare with what the dump says it holds.

        Raises:
            DumpError: A table is missing, or rows are.
        """
        self.flush()
        if counts != self.counts or self.counts.keys() != METADATA.tables.keys():
            raise DumpError("the backup lacks tables or rows")


def line_of(document: Any) -> bytes:
    """Return a document as one line."""
    return json.dumps(document, separators=(",", ":")).encode() + b"\n"


def _packs(kind: Any) -> Callable[[Any], Any]:
    if isinstance(kind, LargeBinary):
        return lambda value: None if value is None else base64.b64encode(value).decode()
    return lambda value: value


def _unpacks(kind: Any) -> Callable[[Any], Any]:
    if isinstance(kind, LargeBinary):
        return lambda value: None if value is None else base64.b64decode(value, validate=True)
    python = kind.python_type

    def checked(value: Any) -> Any:
        if value is not None and type(value) is not python:
            raise TypeError(f"not {python.__name__}")
        return value

    return checked
