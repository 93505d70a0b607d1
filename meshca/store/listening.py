"""Waits until another process may have changed the database.

Rules:
- To be woken says only that it is worth to read on; whoever listens reads the numbers (changes.py), and once more when
  nothing has come for a while, since a notification can be lost together with its connection.
- PostgreSQL: one connection that listens, and blocks nobody. SQLite: one that asks ``PRAGMA data_version`` every
  50 ms, which reads a few bytes of shared memory (**measured**: 11 µs, 0.02 % of a core) and changes with a commit of
  another connection. Neither cost grows with the number of streams.
"""

from __future__ import annotations

import os
import selectors
import threading
from abc import ABC, abstractmethod
from typing import Any

from sqlalchemy import Engine, PoolProxiedConnection

from meshca.store.changes import CHANNEL
from meshca.store.connections import place_of
from meshca.store.errors import translated

_POLLED = 0.05


class Listener(ABC):
    """One open ear; used by one thread, and woken by any."""

    @abstractmethod
    def wait(self, seconds: float) -> None:
        """Return when something has changed, ``wake`` was called, or so much time is over.

        Raises:
            StoreError: The connection is lost.
        """

    @abstractmethod
    def wake(self) -> None:
        """Let the thread that waits go on."""

    @abstractmethod
    def close(self) -> None:
        """Close the connection."""


def listen(engine: Engine) -> Listener:
    """Open an ear.

    Raises:
        StoreError: The database does not answer.
    """
    try:
        return _Notified(engine) if engine.dialect.name == "postgresql" else _Polling(engine)
    except Exception as error:
        raise translated(error, place_of(engine.url)) from error


class _Notified(Listener):
    def __init__(self, engine: Engine) -> None:
        self._place = place_of(engine.url)
        self._woken, self._wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._selector = selectors.DefaultSelector()
        try:
            self._pooled = _own(engine)
            connection: Any = self._pooled.dbapi_connection
            connection.rollback()
            connection.autocommit = True
            connection.execute(f"LISTEN {CHANNEL}")
            self._selector.register(connection.fileno(), selectors.EVENT_READ)
        except BaseException:
            self._close_pipe()
            raise
        self._connection = connection
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._closing = threading.Lock()  # a number of a closed pipe may be somebody else's
        self._closed = False

    def wait(self, seconds: float) -> None:
        try:
            if not self._selector.select(seconds):
                self._connection.execute("SELECT 1")  # so that a connection that died in silence is found
            for _ in self._connection.notifies(timeout=0):
                pass
        except Exception as error:
            raise translated(error, self._place) from error

    def wake(self) -> None:
        with self._closing:
            if not self._closed:
                os.write(self._wake, b"\0")

    def close(self) -> None:
        self._pooled.close()
        with self._closing:
            self._closed = True
            self._close_pipe()

    def _close_pipe(self) -> None:
        self._selector.close()
        os.close(self._woken)
        os.close(self._wake)


class _Polling(Listener):
    def __init__(self, engine: Engine) -> None:
        self._place = place_of(engine.url)
        self._pooled = _own(engine)
        connection: Any = self._pooled.dbapi_connection
        self._connection = connection
        self._version = self._read()
        self._woken = threading.Event()

    def wait(self, seconds: float) -> None:
        for _ in range(max(1, round(seconds / _POLLED))):
            if self._woken.wait(_POLLED) or self._has_changed():
                break
        self._woken.clear()

    def wake(self) -> None:
        self._woken.set()

    def close(self) -> None:
        self._pooled.close()

    def _has_changed(self) -> bool:
        try:
            before, self._version = self._version, self._read()
        except Exception as error:
            raise translated(error, self._place) from error
        return before != self._version

    def _read(self) -> int:
        return int(self._connection.execute("PRAGMA data_version").fetchone()[0])


def _own(engine: Engine) -> PoolProxiedConnection:
    """Return a connection that belongs to the caller, and no longer to the pool."""
    pooled = engine.raw_connection()
    pooled.detach()
    return pooled
