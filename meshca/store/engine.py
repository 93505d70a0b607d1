"""The store: one writer, many readers.

Rules: opening changes no schema (`upgrade` does). Who opens asks `require_current` before the first use, and closes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TypeVar

from sqlalchemy import Connection, func, select

from meshca.store import migrate
from meshca.store.appending import AuditAppender, read_head
from meshca.store.chain import Head
from meshca.store.connections import Connections, connect, parse_url, place_of
from meshca.store.errors import damaged, translated
from meshca.store.fencing import Fence, require_in_force
from meshca.store.listening import Listener, listen
from meshca.store.writer import Operation, Transaction, Writer

__all__ = ["Store", "Transaction", "briefly", "check", "open_store", "schema_of", "upgrade"]

T = TypeVar("T")


def _now() -> datetime:
    return datetime.now(UTC)


class Store:
    """One open database."""

    def __init__(self, connections: Connections, appender: AuditAppender) -> None:
        self._connections = connections
        self._appender = appender
        self._writer = Writer(connections.writing, appender)
        self._fences = threading.local()

    @property
    def writer(self) -> str:
        """The name of this process's audit chain."""
        return self._appender.writer

    def write_as(self, writer: str) -> None:
        """Write another audit chain than the one opened with; for the time before the first write."""
        self._appender.writer = writer

    def has_written(self) -> bool:
        """Whether there is an audit chain of this name already."""
        with self.read() as connection:
            return read_head(connection, self.writer) != Head()

    @property
    def known_head(self) -> Head:
        """The end of the audit chain as this process last committed it."""
        return self._appender.known

    def require_current(self) -> None:
        """Check that the database's schema is the one this code was written for.

        Raises:
            SchemaError: it is older, newer or absent; the message says which, and what to do.
        """
        with self.read() as connection:
            migrate.require_current(connection)

    def write(self, operation: Operation[T]) -> T:
        """Run the operation in a transaction and return its result once it has committed.

        Raises:
            StoreError: the database cannot write now; nothing was changed.
            OvertakenError: this thread works under a fence that is not in force any more; nothing was changed.
        """
        return self._writer.write(self._behind_fence(operation))

    def submit(self, operation: Operation[T]) -> Future[T]:
        """Queue the operation and return at once; the future holds the result once it has committed."""
        return self._writer.submit(self._behind_fence(operation))

    @contextmanager
    def fenced(self, fence: Fence) -> Iterator[None]:
        """Let nothing be written by this thread, for the length of a ``with``, unless the fence is in force."""
        self._fences.current = fence
        try:
            yield
        finally:
            self._fences.current = None

    def _behind_fence(self, operation: Operation[T]) -> Operation[T]:
        fence: Fence | None = getattr(self._fences, "current", None)
        if fence is None:
            return operation

        def checked(transaction: Transaction) -> T:
            require_in_force(transaction.connection, fence)
            return operation(transaction)

        return checked

    def listen(self) -> Listener:
        """Open an ear for what other processes change; whoever asks closes it.

        Raises:
            StoreError: the database does not answer.
        """
        return listen(self._connections.reading)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Lend a connection that reads one consistent state and cannot write; any thread may ask.

        Raises:
            StoreError: the database does not answer.
        """
        try:
            with self._connections.reading.connect() as connection, connection.begin():
                yield connection
        except Exception as error:
            shown = translated(error, place_of(self._connections.reading.url))
            if shown is error:
                raise
            raise shown from error

    def server_time(self) -> datetime | None:
        """Return what the database's server says of the time; None where it has no clock of its own."""
        with self.read() as connection:
            if connection.dialect.name != "postgresql":
                return None
            found: datetime = connection.execute(select(func.clock_timestamp())).scalar_one()
            return found.astimezone(UTC)

    def close(self) -> None:
        """Finish what is queued and close every connection."""
        self._writer.close()
        self._connections.dispose()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_store(url: str, *, writer: str = "server", clock: Callable[[], datetime] = _now) -> Store:
    """Open the database; `writer` names this process's audit chain, `clock` gives audit records their time.

    Raises:
        StoreUrlError: the URL names no SQLite file and no PostgreSQL database.
        StoreError: the database file cannot be made.
    """
    return Store(connect(parse_url(url)), AuditAppender(writer, clock))


def upgrade(url: str) -> None:
    """Bring the schema of the database to what this code was written for; an absent database is made.

    Raises:
        SchemaError: the schema is newer than this code.
        StoreError: the database does not answer.
    """
    with briefly(url) as connection:
        migrate.upgrade(connection)


def schema_of(url: str) -> str | None:
    """Return the schema that the database has; None for none.

    Raises:
        StoreError: the database does not answer.
    """
    with briefly(url) as connection:
        return migrate.revision(connection)


def check(url: str) -> str:
    """Return the schema, having checked that it is current and that no page of a SQLite file is damaged.

    Raises:
        SchemaError: it is absent, older or newer.
        StoreError: the database does not answer, or is damaged.
    """
    with briefly(url) as connection:
        migrate.require_current(connection)
        if connection.dialect.name == "sqlite":
            found = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar()
            if found != "ok":
                raise damaged(place_of(connection.engine.url))
        return migrate.newest()


@contextmanager
def briefly(url: str) -> Iterator[Connection]:
    """Lend a connection that writes, in one transaction, outside of any store."""
    connections = connect(parse_url(url))
    try:
        with connections.writing.connect() as connection, connection.begin():
            yield connection
    except Exception as error:
        shown = translated(error, place_of(connections.writing.url))
        if shown is error:
            raise
        raise shown from error
    finally:
        connections.dispose()
