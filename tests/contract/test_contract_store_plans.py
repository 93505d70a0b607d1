"""Every kind of list of a large ledger is answered from an index, on both databases: the plans say so, not the clock.

Times of 1,000,000 certificates are in scripts/bench (row `ledger`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, event, insert, text
from store_examples import HOUR, SECOND, T0

from meshca.authority.records import CertificateFilter
from meshca.spiffe.id import SpiffeId
from meshca.store.certificates import list_certificates
from meshca.store.engine import Store, Transaction
from meshca.store.retention import _due
from meshca.store.revocation import listed_entries
from meshca.store.schema import CERTIFICATES
from meshca.store.times import micros

pytestmark = pytest.mark.slow

COUNT = 50_000
NODE = SpiffeId.parse("spiffe://m.test/mesh/m/virtualNode/n7")
ISSUER = "03" * 10
NOW = T0 + 1_000 * HOUR
STATES = (None, "valid", "revoked", "expired", "pending", "abandoned")
NARROWED: dict[str, dict[str, Any]] = {
    "all": {},
    "node": {"spiffe_id": NODE},
    "issuer": {"issuer_id": ISSUER},
    "since": {"since": NOW - 30 * HOUR},
    "until": {"until": T0 + 30 * HOUR},
    "node-since": {"spiffe_id": NODE, "since": NOW - 30 * HOUR},
    "later-page": {"after": f"{COUNT // 2:038x}"},
    "issuer-later-page": {"issuer_id": ISSUER, "after": f"{COUNT // 2:038x}"},
}


def row(number: int) -> dict[str, Any]:
    created = T0 + (NOW - T0) * number / COUNT
    revoked = number % 200 == 7
    return {
        "serial": f"{number:038x}",
        "spiffe_id": f"spiffe://m.test/mesh/m/virtualNode/n{number % 100}",
        "issuer_id": f"{number * 5 // COUNT:02x}" * 10,
        "state": {0: "pending", 1: "abandoned"}.get(number % 5_000, "issued"),
        "certificate": b"der" * 100,
        "not_before": micros(created),
        "not_after": micros(created + HOUR),
        "holder": "stream:1",
        "kind": "stream",
        "requested_by": "uid:0",
        "created_at": micros(created),
        "revoked_at": micros(created + SECOND) if revoked else None,
        "revocation_reason": "keyCompromise" if revoked else None,
        "revocation_listed_until": micros(created + 2 * HOUR) if revoked else None,
    }


def fill(transaction: Transaction) -> None:
    for first in range(0, COUNT, 10_000):
        rows = [row(number) for number in range(first, first + 10_000)]
        transaction.connection.execute(insert(CERTIFICATES), rows)
    if transaction.connection.dialect.name == "postgresql":
        transaction.connection.execute(text("ANALYZE certificates"))


@contextmanager
def explained(connection: Connection) -> Iterator[list[str]]:
    """Collect the plan of every statement that is run within, but of those that only count up to a bound."""
    statements: list[tuple[str, Any]] = []

    def seen(_: object, __: object, statement: str, parameters: Any, *___: object) -> None:
        # Where most of the table is what is looked for, PostgreSQL rightly reads it: it is not large yet.
        if "min(" not in statement and not statement.startswith("SELECT 1"):
            statements.append((statement, parameters))

    plans: list[str] = []
    event.listen(connection, "before_cursor_execute", seen)
    try:
        yield plans
    finally:
        event.remove(connection, "before_cursor_execute", seen)
        how = "EXPLAIN QUERY PLAN" if connection.dialect.name == "sqlite" else "EXPLAIN"
        for statement, parameters in statements:
            found = connection.exec_driver_sql(f"{how} {statement}", parameters)
            plans.extend(str(line[-1]) for line in found)


def whole_table(plans: list[str]) -> list[str]:
    """Return the lines that say that a table is read from its first row to its last."""
    return [
        line
        for line in plans
        if "Seq Scan on certificates" in line
        or "Seq Scan on archived" in line
        or (line.startswith("SCAN") and "INDEX" not in line and "certificates" in line)
    ]


def test_no_list_walks_through_the_table(store: Store) -> None:
    store.write(fill)
    seen = 0
    with store.read() as connection:
        for name, narrowed in NARROWED.items():
            for status in STATES:
                for at in (NOW, T0 + HOUR / 2):
                    wanted = CertificateFilter(at=at, status=status, limit=100, **narrowed)  # type: ignore[arg-type]
                    with explained(connection) as plans:
                        found = list_certificates(connection, wanted)
                    assert all(map(wanted.admits, found))
                    assert whole_table(plans) == [], (name, status, plans)
                    seen += len(plans)
        for what in (lambda: listed_entries(connection, ISSUER, NOW), lambda: _first_due(connection)):
            with explained(connection) as plans:
                what()
            assert whole_table(plans) == [], plans
    assert seen > len(NARROWED) * len(STATES)


def _first_due(connection: Connection) -> None:
    before = NOW - timedelta(days=30)
    oldest = CERTIFICATES.select().where(_due(before, NOW)).order_by(CERTIFICATES.c.not_after).limit(500)
    connection.execute(oldest).all()
