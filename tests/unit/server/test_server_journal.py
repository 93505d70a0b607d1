"""The journal: what the store does not take is not lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from meshca.server.house import SystemClock
from meshca.server.journal import StoreJournal
from meshca.server.metrics import Metrics
from meshca.spiffe.id import SpiffeId
from meshca.store.acknowledgements import Acknowledgements
from meshca.store.engine import Store, open_store, upgrade
from meshca.store.errors import StoreError

HOLDER, WEB = "stream:7:7:0", SpiffeId.parse("spiffe://m.test/web")


class Flaky:
    """A store that does not take anything while it is ``full``."""

    def __init__(self, store: Store) -> None:
        self.store, self.full = store, True

    def submit(self, operation: Callable[[Any], Any]) -> Future[Any]:
        if not self.full:
            return self.store.submit(operation)
        failed: Future[Any] = Future()
        failed.set_exception(StoreError("the disk is full"))
        return failed


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Flaky]:
    url = f"sqlite:///{tmp_path}/meshca.db"
    upgrade(url)
    with open_store(url) as opened:
        yield Flaky(opened)


async def test_acknowledgements_that_the_store_did_not_take_are_written_with_the_next_tick(store: Flaky) -> None:
    journal = StoreJournal(store, SystemClock(), Metrics())  # type: ignore[arg-type]
    journal.leaf_in_force(HOLDER, WEB, "one")
    await journal.stored()
    journal.trust_in_force(HOLDER, WEB, 7)
    await journal.stored()
    journal.trust_in_force(HOLDER, WEB, 3)
    store.full = False
    await journal.stored()
    found = Acknowledgements(store.store)
    assert found.generation_of(HOLDER, WEB) == 7
    assert "one" in issuers(store.store)


def issuers(store: Store) -> list[str]:
    with store.read() as connection:
        return list(connection.exec_driver_sql("SELECT issuer_id FROM acknowledgements").scalars())
