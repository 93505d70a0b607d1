"""Appends audit entries to one writer's chain, inside the transaction that they tell of.

The head is kept in memory between commits and read again after a failure. Two processes that share a writer's name
cannot fork the chain: the primary key (writer, seq) refuses the second, who reads the head again and repeats.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

from sqlalchemy import Connection, bindparam, insert, select

from meshca.authority.audit import AuditEntry
from meshca.store.chain import Head, digest
from meshca.store.errors import breaks_constraint
from meshca.store.prepared import Prepared
from meshca.store.schema import AUDIT
from meshca.store.texts import storable
from meshca.store.times import micros

_Row = tuple[str | int, ...]  # in the order of the table's columns
_INSERT = Prepared(insert(AUDIT).values({column.name: bindparam(column.name) for column in AUDIT.c}))


class ChainMovedError(Exception):
    """Another process has appended to this writer's chain."""


class AuditAppender:
    """One writer's chain; used by the writer's thread only."""

    def __init__(self, writer: str, clock: Callable[[], datetime]) -> None:
        self.writer = writer
        self._clock = clock
        self._head: Head | None = None
        self._next: Head | None = None
        # What this process has committed itself: a database that holds less has lost its tail.
        self.known = Head()

    def append(self, connection: Connection, entries: Sequence[AuditEntry]) -> None:
        """Link the entries and insert them.

        Raises:
            ChainMovedError: another process uses the same name for its chain.
        """
        self._next = self._head
        if not entries:
            return
        head = self._head or read_head(connection, self.writer)
        rows = self._linked(head, entries)
        try:
            _INSERT.run_all(connection, rows)
        except Exception as error:
            if breaks_constraint(error):
                raise ChainMovedError from error
            raise
        self._next = Head(head.seq + len(rows), str(rows[-1][-1]))

    def committed(self) -> None:
        """Make what was appended the known end of the chain."""
        self._head = self._next
        self.known = self._head or self.known

    def forget(self) -> None:
        """Read the head from the database next time: the last commit failed, or nobody knows."""
        self._head = self._next = None

    def _linked(self, head: Head, entries: Sequence[AuditEntry]) -> list[_Row]:
        at, writer, previous = micros(self._clock()), self.writer, head.hash
        rows: list[_Row] = []
        for seq, entry in enumerate(entries, start=head.seq + 1):
            actor, subject, reason = storable(entry.actor), storable(entry.subject), storable(entry.reason)
            act = (actor, entry.action, subject, entry.outcome, reason)
            fields = (writer, seq, at, *act, previous)
            previous = digest(fields)
            rows.append((*fields, previous))
        return rows


def read_head(connection: Connection, writer: str) -> Head:
    """Return the end of a writer's chain as the database holds it."""
    newest = select(AUDIT.c.seq, AUDIT.c.hash).where(AUDIT.c.writer == writer).order_by(AUDIT.c.seq.desc()).limit(1)
    row = connection.execute(newest).first()
    return Head(row.seq, row.hash) if row else Head()
