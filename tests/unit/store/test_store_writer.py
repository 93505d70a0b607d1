"""Group commit: who fails alone, who fails together, and that the store goes on."""

from __future__ import annotations

import resource
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest
from sqlalchemy import event, insert, select
from store_examples import entry

from meshca.errors import NotFoundError
from meshca.store.engine import Store, Transaction, open_store, upgrade
from meshca.store.errors import StoreClosedError, StoreError
from meshca.store.schema import AUDIT, LEASES


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    url = f"sqlite:///{tmp_path}/meshca.db"
    upgrade(url)
    with open_store(url) as opened:
        yield opened


def add(name: str, *, size: int = 1) -> Callable[[Transaction], str]:
    def operation(transaction: Transaction) -> str:
        row = {"name": name, "holder": "x" * size, "epoch": 1, "expires_at": 1}
        transaction.connection.execute(insert(LEASES).values(row))
        transaction.audit(entry("apply", name))
        return name

    return operation


def add_and_fail(name: str, error: Exception) -> Callable[[Transaction], None]:
    def operation(transaction: Transaction) -> None:
        add(name)(transaction)
        transaction.after_commit(lambda: pytest.fail("called after a failure"))
        raise error

    return operation


def names(store: Store) -> list[str]:
    with store.read() as connection:
        return list(connection.execute(select(LEASES.c.name).order_by(LEASES.c.name)).scalars())


def audited(store: Store) -> list[tuple[int, str]]:
    with store.read() as connection:
        return [(row.seq, row.subject) for row in connection.execute(select(AUDIT).order_by(AUDIT.c.seq))]


class Batch:
    """Keeps the writer busy, so that what is submitted meanwhile becomes one batch."""

    def __init__(self, store: Store) -> None:
        self._running, self._go = threading.Event(), threading.Event()
        self._first = store.submit(self._wait)
        assert self._running.wait(10)

    def _wait(self, _: Transaction) -> None:
        self._running.set()
        assert self._go.wait(10)

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        self._go.set()
        self._first.result(10)


def commits(store: Store) -> list[int]:
    counted: list[int] = []
    event.listen(store._connections.writing, "commit", lambda _: counted.append(1))
    return counted


def test_what_waits_together_commits_together(store: Store) -> None:
    counted = commits(store)
    with Batch(store):
        futures = [store.submit(add(f"{number:02}")) for number in range(20)]
    assert [future.result(10) for future in futures] == names(store)
    assert len(counted) == 2
    assert [seq for seq, _ in audited(store)] == list(range(1, 21))


@pytest.mark.parametrize("error", [NotFoundError("gone"), ValueError("bug")], ids=["ours", "a-bug"])
def test_an_operation_fails_alone(store: Store, error: Exception) -> None:
    with Batch(store):
        before, failing, after = store.submit(add("1")), store.submit(add_and_fail("2", error)), store.submit(add("3"))
    assert (before.result(10), failing.exception(10), after.result(10)) == ("1", error, "3")
    assert (names(store), audited(store)) == (["1", "3"], [(1, "1"), (2, "3")])


def test_an_operation_that_is_alone_fails_and_leaves_nothing(store: Store) -> None:
    with pytest.raises(NotFoundError, match="gone"):
        store.write(add_and_fail("1", NotFoundError("gone")))
    assert store.write(add("2")) == "2"
    assert (names(store), audited(store)) == (["2"], [(1, "2")])


def test_a_constraint_is_the_operations_own_fault(store: Store) -> None:
    with Batch(store):
        first, second, third = (store.submit(add(name)) for name in ("1", "1", "2"))
    assert (first.result(10), third.result(10)) == ("1", "2")
    assert "UNIQUE" in str(second.exception(10))


def test_listeners_are_called_after_the_commit_and_before_the_answer(store: Store) -> None:
    seen: list[list[str]] = []

    def failing_listener() -> None:
        raise ValueError("a bug of the listener")

    def operation(transaction: Transaction) -> None:
        add("1")(transaction)
        transaction.after_commit(lambda: seen.append(names(store)))
        transaction.after_commit(failing_listener)
        transaction.after_commit(lambda: seen.append(["still called"]))

    store.write(operation)
    assert seen == [["1"], ["still called"]]


def test_a_cancelled_operation_is_not_run(store: Store) -> None:
    with Batch(store):
        cancelled, kept = store.submit(add("1")), store.submit(add("2"))
        assert cancelled.cancel()
    kept.result(10)
    assert names(store) == ["2"]


def test_an_operation_may_not_wait_for_another(store: Store) -> None:
    with pytest.raises(RuntimeError, match="would wait for itself"):
        store.write(lambda _: store.write(add("1")))


def test_what_is_queued_is_finished_at_the_end_and_the_rest_refused(store: Store) -> None:
    with Batch(store):
        futures: list[Future[str]] = [store.submit(add(str(number))) for number in range(3)]
    store.close()
    store.close()
    assert [future.result(0) for future in futures] == ["0", "1", "2"]
    with pytest.raises(StoreClosedError, match="the store is closed"):
        store.write(add("3"))


@pytest.mark.parametrize("together", [1, 3])
def test_a_full_database_fails_all_and_the_store_goes_on(store: Store, together: int) -> None:
    """SQLITE_FULL inside a statement: SQLite may end the whole transaction by itself."""
    store.write(add("0"))

    def limit(pages: int) -> Callable[[Transaction], object]:
        return lambda transaction: transaction.connection.exec_driver_sql(f"PRAGMA max_page_count={pages}").scalar()

    store.write(limit(1))  # SQLite raises it to the present size
    with Batch(store):
        futures = [store.submit(add(f"big {number}", size=100_000)) for number in range(together)]
    for future in futures:
        assert isinstance(future.exception(10), StoreError)
        assert "disk that holds the database is full; nothing was changed; free some space" in str(future.exception(10))
    store.write(limit(1 << 30))
    assert store.write(add("1")) == "1"
    assert (names(store), audited(store)) == (["0", "1"], [(1, "0"), (2, "1")])


def test_a_commit_that_the_disk_refuses_fails_all_and_the_store_goes_on(store: Store, tmp_path: Path) -> None:
    """The write-ahead log may not grow: the statements succeed, the commit does not."""
    store.write(add("0"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = (tmp_path / "meshca.db-wal").stat().st_size
    try:
        with Batch(store):
            futures = [store.submit(add(name)) for name in ("1", "2")]
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        errors = [future.exception(10) for future in futures]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    for error in errors:
        assert isinstance(error, StoreError)
        assert "the disk that holds the database refuses to work; nothing was changed" in str(error)
    assert names(store) == ["0"]
    assert store.write(add("3")) == "3"
    assert audited(store) == [(1, "0"), (2, "3")]


def test_a_locked_database_fails_all_and_the_store_goes_on(store: Store, tmp_path: Path) -> None:
    def impatient(connection: sqlite3.Connection, *_: object) -> None:
        connection.execute("PRAGMA busy_timeout=10")

    event.listen(store._connections.writing, "checkout", impatient)
    other = sqlite3.connect(tmp_path / "meshca.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="another process keeps the database locked; nothing was changed"):
        store.write(add("1"))
    other.execute("ROLLBACK")
    other.close()
    assert store.write(add("2")) == "2"
    assert names(store) == ["2"]


def test_many_threads_write_and_read(store: Store) -> None:
    def work(worker: int) -> None:
        for number in range(10):
            store.write(add(f"{worker}-{number}"))
            assert f"{worker}-{number}" in names(store)

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(names(store)) == 40
    assert [seq for seq, _ in audited(store)] == list(range(1, 41))
