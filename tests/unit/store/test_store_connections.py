"""URLs, file modes and pragmas."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from meshca.store.connections import Connections, connect, parse_url
from meshca.store.engine import open_store, upgrade
from meshca.store.errors import StoreError, StoreUrlError


@pytest.fixture
def connections(tmp_path: Path) -> Iterator[Connections]:
    opened = connect(parse_url(f"sqlite:///{tmp_path}/meshca.db"))
    yield opened
    opened.dispose()


@pytest.mark.parametrize(
    ("text", "driver"),
    [
        ("sqlite:////srv/meshca.db", "sqlite+pysqlite"),
        ("postgresql://user:secret@db/meshca", "postgresql+psycopg"),
        ("postgres://db/meshca", "postgresql+psycopg"),
        ("postgresql+psycopg:///meshca?host=/run", "postgresql+psycopg"),
    ],
)
def test_a_url_gets_its_driver(text: str, driver: str) -> None:
    assert parse_url(text).drivername == driver


@pytest.mark.parametrize("text", ["sqlite://", "sqlite:///:memory:", "sqlite:///file:x?mode=memory&uri=true"])
def test_a_database_in_memory_is_refused(text: str) -> None:
    with pytest.raises(StoreUrlError, match="must be a file"):
        parse_url(text)


@pytest.mark.parametrize("text", ["", "meshca.db", "mysql://user:secret@db/meshca", "postgresql+asyncpg://db/x"])
def test_another_url_is_refused_without_its_secret(text: str) -> None:
    with pytest.raises(StoreUrlError) as caught:
        parse_url(text)
    assert "secret" not in str(caught.value)


def test_the_files_are_private_whatever_the_mode_of_the_database_was(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/meshca.db"
    (tmp_path / "meshca.db").touch(0o666)
    (tmp_path / "meshca.db").chmod(0o666)
    upgrade(url)
    with open_store(url) as store:
        store.write(lambda transaction: transaction.connection.exec_driver_sql("DELETE FROM leases"))
        store.require_current()
        modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes == {"meshca.db": 0o600, "meshca.db-wal": 0o600, "meshca.db-shm": 0o600}


def test_a_commit_is_on_the_disk(connections: Connections) -> None:
    with connections.writing.connect() as connection:
        found = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    assert found == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 5000}


def test_a_folder_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"cannot be opened: No such file.*absent/meshca\.db"):
        open_store(f"sqlite:///{tmp_path}/absent/meshca.db")


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "meshca.db").write_bytes(b"not a database" * 100)
    with pytest.raises(
        StoreError, match=r"meshca\.db: the database is damaged; keep it .* `meshca restore` the newest backup"
    ):
        upgrade(f"sqlite:///{tmp_path}/meshca.db")
