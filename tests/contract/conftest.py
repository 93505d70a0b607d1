"""One suite over both databases: every test here runs on SQLite and on PostgreSQL.

MESHCA_TEST_POSTGRES=postgresql+psycopg://user@/database?host=… names a PostgreSQL database. The tests make schemas of
their own in it and drop them again. The schema is made once a session: a file to copy, or tables to empty.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import pytest
from sqlalchemy import create_engine, make_url, text

from meshca.store.engine import Store, open_store, upgrade
from meshca.store.schema import METADATA

POSTGRES = os.environ.get("MESHCA_TEST_POSTGRES", "")
BOTH = ["sqlite", "postgresql"]


def _run(url: str, statement: str) -> None:
    engine = create_engine(make_url(url))
    try:
        with engine.begin() as connection:
            connection.execute(text(statement))
    finally:
        engine.dispose()


@contextmanager
def _postgres_schema() -> Iterator[str]:
    if not POSTGRES:
        pytest.skip("MESHCA_TEST_POSTGRES names no PostgreSQL database")
    schema = f"meshca_test_{secrets.token_hex(6)}"
    _run(POSTGRES, f"CREATE SCHEMA {schema}")
    url = make_url(POSTGRES).update_query_dict({"options": f"-csearch_path={schema}"})
    yield url.render_as_string(hide_password=False)
    _run(POSTGRES, f"DROP SCHEMA {schema} CASCADE")


@pytest.fixture(scope="session")
def postgres_schema() -> Callable[[], AbstractContextManager[str]]:
    """Make PostgreSQL schemas without any table."""
    return _postgres_schema


@pytest.fixture(params=BOTH)
def empty_database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a database without any table."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/meshca.db"
        return
    with _postgres_schema() as url:
        yield url


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with the newest schema."""
    path = tmp_path_factory.mktemp("template") / "meshca.db"
    upgrade(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def postgres_database() -> Iterator[str]:
    """The URL of a PostgreSQL schema with the newest tables."""
    with _postgres_schema() as url:
        upgrade(url)
        yield url


@pytest.fixture(params=BOTH)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a database with the newest schema and no row."""
    if request.param == "sqlite":
        shutil.copyfile(request.getfixturevalue("sqlite_template"), tmp_path / "meshca.db")
        return f"sqlite:///{tmp_path}/meshca.db"
    url: str = request.getfixturevalue("postgres_database")
    _run(url, f"TRUNCATE {', '.join(METADATA.tables)}")
    return url


@pytest.fixture
def open_another(database: str) -> Iterator[Callable[[str], Store]]:
    """Open further stores on the same database, each with a chain of its own, as replicas do."""
    with ExitStack() as opened:
        yield lambda writer: opened.enter_context(open_store(database, writer=writer))


@pytest.fixture
def store(open_another: Callable[[str], Store]) -> Store:
    """An open store."""
    return open_another("server")
