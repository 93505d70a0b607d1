"""Where a case runs: a copy of a home that was made once, on SQLite or PostgreSQL, with keys that open at once."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import URL, create_engine, make_url, text

from meshca.keys import sealed
from meshca.keys.passphrase import Passphrase
from meshca.server import house, init
from meshca.server.config import Address, Config
from meshca.server.home import Home
from meshca.server.house import House, SystemClock, open_house
from meshca.server.init import InitOptions, initialise
from meshca.spiffe.id import TrustDomain
from meshca.store import engine
from meshca.store.connections import Connections, connect
from meshca.store.engine import upgrade
from meshca.store.schema import METADATA

TRUST_DOMAIN = TrustDomain("shop.test")
PASSPHRASE = b"correct horse"
SLOTS = 4


class MovableClock(SystemClock):
    """The machine's clock, and how far it was moved ahead in this process."""

    ahead = timedelta(0)

    def now(self) -> datetime:
        """Return the time, aware, in UTC."""
        return datetime.now(UTC) + MovableClock.ahead


def warm_up() -> None:
    """Let keys open at once, and the clock be moved; for this process and what it forks."""
    # scrypt at its real cost would be most of what these tests do; sealing and opening are otherwise as they are.
    setattr(sealed, "_COST", 2)  # noqa: B010
    setattr(sealed, "_COSTS", {2})  # noqa: B010
    for module in (house, init):
        setattr(module, "SystemClock", MovableClock)  # noqa: B010
    setattr(engine, "connect", _remembering(connect))  # noqa: B010


def _remembering(make: Callable[[URL], Connections]) -> Callable[[URL], Connections]:
    """Let every store use the statements that the first one compiled: half of what a process does that ends soon."""
    first: list[Connections] = []

    def connect_and_remember(url: URL) -> Connections:
        made = make(url)
        first.append(made)
        for ours, known in ((made.writing, first[0].writing), (made.reading, first[0].reading)):
            ours.dialect, ours._compiled_cache = known.dialect, known._compiled_cache
        return made

    return connect_and_remember


@dataclass(frozen=True)
class Place:
    """One home and its database, which a case may spoil."""

    home: Home
    config: Config

    def open(self) -> House:
        """Open the parts of a server there."""
        return open_house(self.home, self.config, PASSPHRASE)


@dataclass(frozen=True)
class Grounds:
    """A template, and a place for each slot that is made afresh from it; ``postgres`` empty: SQLite in the home."""

    folder: Path
    postgres: str

    def prepare(self) -> None:
        """Make the template, and what the slots need."""
        template = self._place(self._template, "template")
        if self.postgres:
            for schema in ("template", *(f"slot{slot}" for slot in range(SLOTS))):
                self._run(f"CREATE SCHEMA {self._schema(schema)}")
                upgrade(self._url(schema))
        options = InitOptions(
            TRUST_DOMAIN,
            lambda _: Passphrase(PASSPHRASE, "test"),
            database=self._url("template") if self.postgres else "",
        )
        initialise(template.home, options)

    def fresh(self, slot: int) -> Place:
        """Return a slot's place, as new."""
        target = self.folder / f"s{slot}"
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(self._template, target)
        if self.postgres:
            self._copy_rows(f"slot{slot}")
        return self._place(target, f"slot{slot}")

    def close(self) -> None:
        """Take the schemas away; the folder is its maker's."""
        if self.postgres:
            for schema in ("template", *(f"slot{slot}" for slot in range(SLOTS))):
                self._run(f"DROP SCHEMA IF EXISTS {self._schema(schema)} CASCADE")

    @property
    def _template(self) -> Path:
        return self.folder / "t"

    def _place(self, path: Path, schema: str) -> Place:
        url = self._url(schema) if self.postgres else ""
        return Place(Home.at(path), Config(http=Address("127.0.0.1", 0), grpc=Address("127.0.0.1", 0), store_url=url))

    def _schema(self, name: str) -> str:
        return f"meshca_{self.folder.name.replace('-', '_')}_{name}".lower()

    def _url(self, name: str) -> str:
        url = make_url(self.postgres).update_query_dict({"options": f"-csearch_path={self._schema(name)}"})
        return url.render_as_string(hide_password=False)

    def _copy_rows(self, name: str) -> None:
        """Empty a slot's tables and fill them; waits for whatever a killed process has left locked."""
        source, target, statements = self._schema("template"), self._schema(name), list[str]()
        for table in METADATA.tables:
            statements += [f"DELETE FROM {target}.{table}", f"INSERT INTO {target}.{table} TABLE {source}.{table}"]  # noqa: S608
        self._run(*statements)

    def _run(self, *statements: str) -> None:
        database = create_engine(make_url(self.postgres))
        try:
            with database.begin() as connection:
                for statement in statements:
                    connection.execute(text(statement))
        finally:
            database.dispose()
