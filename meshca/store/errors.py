"""What can go wrong in the store, in words that may be shown.

StoreError (UnavailableError)
 ├─ StoreClosedError      the server is stopping
 ├─ SchemaError           the database's schema is not the one this code was written for
 └─ everything the database refuses for a while: a full disk, a lock, a lost connection

Database errors are translated in one place, here. Their own text may hold values and names of hosts, so it goes no
further than `__cause__`.
"""

from __future__ import annotations

import sqlite3

import psycopg
from sqlalchemy.exc import DBAPIError, InvalidRequestError, StatementError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from meshca.errors import InvalidInputError, UnavailableError


class StoreError(UnavailableError):
    """The database does not answer, or cannot write; the same call may succeed later."""


class StoreClosedError(StoreError):
    """The store has been closed."""

    def __init__(self) -> None:
        super().__init__("the store is closed", remedy="the server is stopping; call again when it has started")


class SchemaError(StoreError):
    """The database's schema is older or newer than this code."""


class StoreUrlError(InvalidInputError):
    """The database URL is none that the store understands."""


# A transaction that lost against another one and may be run again: PostgreSQL's serialization failure and deadlock.
_LOST_RACE = frozenset({"40001", "40P01"})
_FULL = frozenset({"SQLITE_FULL", "53100"})
_BROKEN = frozenset({"SQLITE_IOERR", "58030"})
_LOCKED = frozenset({"SQLITE_BUSY", "SQLITE_LOCKED", "55P03", "57014"})
_READ_ONLY = frozenset({"SQLITE_READONLY", "25006"})
_DAMAGED = frozenset({"SQLITE_CORRUPT", "SQLITE_NOTADB", "XX001", "XX002"})

_WORDS: tuple[tuple[frozenset[str], str, str], ...] = (
    (_FULL, "the disk that holds the database is full; nothing was changed", "free some space and call again"),
    (
        _BROKEN,
        "the disk that holds the database refuses to work; nothing was changed",
        "check it and its quota (dmesg)",
    ),
    (
        _LOCKED,
        "another process keeps the database locked; nothing was changed",
        "find who holds it open (fuser, pg_locks) and call again",
    ),
    (_READ_ONLY, "the database is read-only; nothing was changed", "check the modes of its file and folder"),
)


def damaged(place: str) -> StoreError:
    """Return the error for a database whose pages are not what was written; ``place`` says which."""
    return StoreError(
        "the database is damaged",
        field=place,
        remedy="keep it for whoever looks into it, and `meshca restore` the newest backup into an empty home",
    )


def translated(error: BaseException, place: str = "") -> BaseException:
    """Return the error that a caller may see: database errors as StoreError, every other one as it is."""
    if isinstance(error, PoolTimeoutError):
        return _caused(StoreError("every database connection is busy", remedy="call again"), error)
    if not _is_outage(_original(error)) and not isinstance(error, InvalidRequestError):
        return error
    code = _code(error)
    if code in _DAMAGED:
        return _caused(damaged(place), error)
    for codes, message, remedy in _WORDS:
        if code in codes:
            return _caused(StoreError(message, remedy=remedy), error)
    return _caused(StoreError("the database does not answer", remedy="see the server's log; call again"), error)


def lost_race(error: BaseException) -> bool:
    """Tell whether the database gave up this transaction for another one's sake."""
    return _code(error) in _LOST_RACE


def breaks_constraint(error: BaseException) -> bool:
    """Tell whether a constraint of the schema refused the row."""
    return isinstance(_original(error), sqlite3.IntegrityError | psycopg.IntegrityError)


def _is_outage(original: BaseException) -> bool:
    if isinstance(original, sqlite3.IntegrityError | sqlite3.ProgrammingError | sqlite3.DataError):
        return False
    if isinstance(original, psycopg.IntegrityError | psycopg.ProgrammingError | psycopg.DataError):
        return False
    return isinstance(original, sqlite3.Error | psycopg.Error)


def _original(error: BaseException) -> BaseException:
    # SQLAlchemy wraps what its connection raised; the bulk statements use the driver's cursor and raise it bare.
    wrapped = isinstance(error, DBAPIError | StatementError)
    return error.orig if wrapped and error.orig is not None else error  # type: ignore[attr-defined]


def _code(error: BaseException) -> str:
    original = _original(error)
    if isinstance(original, sqlite3.Error):
        # Extended codes refine a primary one: SQLITE_BUSY_SNAPSHOT, SQLITE_READONLY_DBMOVED, SQLITE_CORRUPT_INDEX.
        name = getattr(original, "sqlite_errorname", "")
        return "_".join(name.split("_")[:2])
    if isinstance(original, psycopg.Error):
        return original.sqlstate or ""
    return ""


def _caused(shown: StoreError, error: BaseException) -> StoreError:
    shown.__cause__ = error
    return shown
