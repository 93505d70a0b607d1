"""Group commit: one thread writes, and one commit pays for everything that was waiting.

Rules:
- An operation is called with a Transaction in the writer's thread. It is answered after the commit, never before.
- Each operation of a batch runs in a SAVEPOINT of its own: one that raises fails alone. (A batch of one needs none.)
- A batch that cannot be committed (full disk, lock, lost connection) fails as a whole, with an error that says why;
  the next batch starts afresh.
- The audit entries of all operations of a batch are linked to the chain at its end, in the same commit; what they
  changed is numbered after that, and nothing follows.
- A batch that lost against another process (deadlock, another writer on our chain) is run again. So an operation must
  do all it does through the Transaction, and may be called more than once.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

import structlog
from sqlalchemy import Connection, Engine

from meshca.authority.audit import AuditEntry
from meshca.store.appending import AuditAppender, ChainMovedError
from meshca.store.changes import Change, append
from meshca.store.connections import place_of
from meshca.store.errors import StoreClosedError, StoreError, lost_race, translated
from meshca.store.prepared import Prepared

T = TypeVar("T")

_LARGEST_BATCH = 256
_ATTEMPTS = 5

_log = structlog.get_logger("meshca.store")


class Transaction:
    """What an operation may do: use the connection, add audit entries, ask to be called after the commit."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.entries: list[AuditEntry] = []
        self.changes: list[Change] = []
        self.callbacks: list[Callable[[], None]] = []

    def audit(self, *entries: AuditEntry) -> None:
        """Append to the audit chain in the same commit."""
        self.entries.extend(entries)

    def changed(self, topic: str, subject: str = "") -> None:
        """Let other replicas hear of it (changes.py)."""
        self.changes.append(Change(topic, subject))

    def after_commit(self, callback: Callable[[], None]) -> None:
        """Call this once the change is durable, before the answer is given."""
        self.callbacks.append(callback)

    def run_each(self, statement: Prepared, rows: list[dict[str, Any]]) -> list[int]:
        """Run a prepared statement for each row; return how many rows of the table each run changed."""
        return statement.run_each(self.connection, rows)


Operation = Callable[[Transaction], T]


@dataclass
class _Job:
    operation: Callable[[Transaction], Any]
    future: Future[Any]
    result: Any = None
    error: BaseException | None = None
    callbacks: list[Callable[[], None]] = field(default_factory=list)

    def answer(self) -> None:
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.result)


class Writer:
    """The thread that owns the only connection that writes."""

    def __init__(self, engine: Engine, appender: AuditAppender) -> None:
        self._engine = engine
        self._appender = appender
        self._queue: SimpleQueue[_Job | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="meshca-store-writer", daemon=True)
        self._thread.start()

    def submit(self, operation: Operation[T]) -> Future[T]:
        """Queue the operation; the future holds its result once it has committed."""
        future: Future[T] = Future()
        with self._lock:
            if self._closed:
                raise StoreClosedError
            self._queue.put(_Job(operation, future))
        return future

    def write(self, operation: Operation[T]) -> T:
        """Run the operation and return its result once it has committed."""
        if threading.current_thread() is self._thread:
            raise RuntimeError("an operation must not wait for another one: the writer's thread would wait for itself")
        return self.submit(operation).result()

    def close(self) -> None:
        """Finish what is queued, then stop; what comes later is refused."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        while True:
            jobs, last = self._take()
            running = [job for job in jobs if job.future.set_running_or_notify_cancel()]
            if running:
                self._commit(running)
            if last:
                return

    def _take(self) -> tuple[list[_Job], bool]:
        jobs: list[_Job] = []
        job = self._queue.get()
        with contextlib.suppress(Empty):
            while job is not None:
                jobs.append(job)
                if len(jobs) == _LARGEST_BATCH:
                    return jobs, False
                job = self._queue.get_nowait()
            return jobs, True
        return jobs, False

    def _commit(self, jobs: list[_Job]) -> None:
        try:
            self._attempt(jobs)
        except BaseException as error:
            shown = translated(error, place_of(self._engine.url))
            if not (len(jobs) == 1 and shown is error):
                _log.error("store_commit_failed", operations=len(jobs), error=type(error).__name__, shown=str(shown))
            for job in jobs:
                job.error = shown
        else:
            _call_back(jobs)
        for job in jobs:
            job.answer()

    def _attempt(self, jobs: list[_Job]) -> None:
        for _ in range(_ATTEMPTS):
            try:
                self._run(jobs)
            except Exception as error:
                self._appender.forget()
                if not isinstance(error, ChainMovedError) and not lost_race(error):
                    raise
            else:
                return
        raise StoreError("the change lost against other writers again and again", remedy="call again")

    def _run(self, jobs: list[_Job]) -> None:
        with self._engine.connect() as connection, connection.begin():
            entries: list[AuditEntry] = []
            changes: list[Change] = []
            for job in jobs:
                transaction = Transaction(connection)
                if len(jobs) == 1:
                    job.result = job.operation(transaction)
                else:
                    _run_apart(job, transaction)
                if job.error is None:
                    job.callbacks = transaction.callbacks
                    entries.extend(transaction.entries)
                    changes.extend(transaction.changes)
            self._appender.append(connection, entries)
            append(connection, self._appender.writer, changes)
        self._appender.committed()


def _run_apart(job: _Job, transaction: Transaction) -> None:
    job.error = None
    savepoint = transaction.connection.begin_nested()
    try:
        job.result = job.operation(transaction)
    except Exception as error:
        if lost_race(error):
            raise
        try:
            savepoint.rollback()
        except Exception:
            # SQLite ends the whole transaction on a full disk; what came before in this batch is gone as well.
            raise error from None
        job.error = translated(error, place_of(transaction.connection.engine.url))
    else:
        savepoint.commit()


def _call_back(jobs: list[_Job]) -> None:
    for job in jobs:
        for callback in job.callbacks if job.error is None else ():
            try:
                callback()
            except Exception:
                # It has committed: a listener that fails must not make it look as if it had not.
                _log.exception("after_commit_failed")
