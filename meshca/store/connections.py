"""Connections to the database: one to write through, a pool to read from.

Rules:
- SQLite: WAL, synchronous=FULL (a commit is on the disk when it returns), foreign keys, a busy timeout. A write
  transaction takes the lock at its start (BEGIN IMMEDIATE), so it never fails in the middle for a lock; a read
  connection cannot write.
- The database file is 0600 before SQLite opens it; SQLite gives -wal and -shm the mode of the database file.
- A password in the URL appears in no error and no log line.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError

from meshca.store.errors import StoreError, StoreUrlError

_BUSY_MILLISECONDS = 5_000
_READERS = 8
_WAL_PAGES = 4000
_PRAGMAS = (
    f"PRAGMA busy_timeout={_BUSY_MILLISECONDS}",
    "PRAGMA journal_mode=WAL",
    "PRAGMA synchronous=FULL",
    "PRAGMA foreign_keys=ON",
    f"PRAGMA wal_autocheckpoint={_WAL_PAGES}",
    "PRAGMA cache_size=-32768",
)
_POSTGRESQL_OPTIONS = "-c lock_timeout=5000 -c timezone=UTC"
# A process that was stopped in the middle of a transaction must not keep its locks from all others.
_WRITER_OPTIONS = "-c idle_in_transaction_session_timeout=4000"
# Readers see one state from their first statement to their last, as they do on SQLite, and cannot write.
_READER_OPTIONS = "-c default_transaction_read_only=on -c default_transaction_isolation=repeatable\\ read"


@dataclass(frozen=True)
class Connections:
    """The two engines of one database."""

    writing: Engine
    reading: Engine

    def dispose(self) -> None:
        """Close every connection that is not in use."""
        self.reading.dispose()
        self.writing.dispose()


def parse_url(text: str) -> URL:
    """Return the URL with its driver filled in.

    Raises:
        StoreUrlError: it names neither a SQLite file nor a PostgreSQL database.
    """
    try:
        url = make_url(text)
    except ArgumentError:
        raise StoreUrlError("not a database URL", field="store.url", remedy=_FORMS) from None
    if url.drivername in ("sqlite", "sqlite+pysqlite"):
        return _sqlite_url(url)
    if url.drivername in ("postgresql", "postgres", "postgresql+psycopg"):
        return url.set(drivername="postgresql+psycopg")
    raise StoreUrlError("unknown kind of database", field="store.url", value=url.drivername, remedy=_FORMS)


def place_of(url: URL) -> str:
    """Return what people call the database: the path of its file, or database and host; never a password."""
    if url.drivername.startswith("sqlite"):
        return str(url.database)
    return f"database {url.database} on {url.host or 'the local socket'}"


_FORMS = "write sqlite:////folder/meshca.db or postgresql://user@host/database"


def _sqlite_url(url: URL) -> URL:
    if not url.database or url.database == ":memory:" or url.database.startswith("file:"):
        raise StoreUrlError(
            "a SQLite database must be a file, for a restart would lose the ledger", field="store.url", remedy=_FORMS
        )
    return url.set(drivername="sqlite+pysqlite")


def connect(url: URL) -> Connections:
    """Make the engines; a SQLite file is created 0600 where there is none.

    Raises:
        StoreError: the file cannot be made.
    """
    return _sqlite(url) if url.drivername.startswith("sqlite") else _postgresql(url)


def _sqlite(url: URL) -> Connections:
    _make_private(Path(str(url.database)))
    writing = create_engine(url, pool_size=1, max_overflow=0, pool_timeout=30, connect_args=_SQLITE_ARGUMENTS)
    reading = create_engine(url, pool_size=_READERS, max_overflow=_READERS, connect_args=_SQLITE_ARGUMENTS)
    event.listen(writing, "connect", _prepare_sqlite)
    event.listen(writing, "begin", _begin_immediate)
    event.listen(reading, "connect", _prepare_sqlite_reader)
    event.listen(reading, "begin", _begin)
    return Connections(writing=writing, reading=reading)


# isolation_level None: the driver begins nothing by itself, so that our BEGIN and SAVEPOINT are the only ones.
_SQLITE_ARGUMENTS = {"isolation_level": None, "check_same_thread": False, "cached_statements": 256}


def _make_private(path: Path) -> None:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreError(
            f"the database file cannot be opened: {error.strerror}",
            value=str(path),
            remedy="create its folder, and run as its owner",
        ) from error
    try:
        if stat.S_IMODE(os.fstat(descriptor).st_mode) & 0o077:
            os.fchmod(descriptor, 0o600)
    finally:
        os.close(descriptor)


def _prepare_sqlite(connection: Any, _: object) -> None:
    for pragma in _PRAGMAS:
        connection.execute(pragma)


def _prepare_sqlite_reader(connection: Any, record: object) -> None:
    _prepare_sqlite(connection, record)
    connection.execute("PRAGMA query_only=ON")


def _begin_immediate(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN")


def _postgresql(url: URL) -> Connections:
    writing = create_engine(
        url, pool_size=1, max_overflow=0, pool_pre_ping=True, connect_args=_arguments(url, _WRITER_OPTIONS)
    )
    reading = create_engine(
        url,
        pool_size=_READERS,
        max_overflow=_READERS,
        pool_pre_ping=True,
        connect_args=_arguments(url, _READER_OPTIONS),
    )
    return Connections(writing=writing, reading=reading)


def _arguments(url: URL, options: str = "") -> dict[str, Any]:
    given = url.query.get("options", "")
    return {
        "connect_timeout": 5,
        "application_name": "meshca",
        "options": f"{given if isinstance(given, str) else ' '.join(given)} {_POSTGRESQL_OPTIONS} {options}".strip(),
    }
