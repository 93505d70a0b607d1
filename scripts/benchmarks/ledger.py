"""The row of a ledger of 1,000,000 certificates: each kind of list, a page of it, on SQLite and on PostgreSQL.

PostgreSQL is measured where MESHCA_TEST_POSTGRES names a database: in a schema of its own, which is dropped afterwards.
"""

from __future__ import annotations

import os
import secrets
import statistics
import tempfile
import time
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import create_engine, insert, make_url, text

from benchmarks.measure import Row
from meshca.authority.records import CertificateFilter
from meshca.spiffe.id import SpiffeId
from meshca.store.certificates import list_certificates
from meshca.store.engine import open_store, upgrade
from meshca.store.schema import CERTIFICATES
from meshca.store.times import micros

if TYPE_CHECKING:
    from collections.abc import Iterator

CERTIFICATES_IN_ALL = 1_000_000
_NODES, _ISSUERS = 1_000, 6
_AT_ONCE = 10_000
_PAGE = 100
_NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
_SPAN = timedelta(days=89)
_LIFE = timedelta(hours=1)
_BAR_MS = 100
# What is expired and what is valid depends on when one asks: of an old ledger nearly all has expired, of a young one
# nothing has, and where half has, one of the two is far from where the list begins.
_MOMENTS = {"old": _NOW, "half": _NOW - _SPAN / 2, "young": _NOW - _SPAN + _LIFE / 2}


def rows(runs: int) -> list[Row]:
    """Return the row, with the slowest answer of each database and all of them in --json."""
    with tempfile.TemporaryDirectory(prefix="mca-bench-") as folder:
        timings = {"SQLite": _measured(f"sqlite:///{folder}/meshca.db", runs)}
    if url := os.environ.get("MESHCA_TEST_POSTGRES"):
        with _schema(url) as own:
            timings["PostgreSQL"] = _measured(own, runs)
    slowest = {name: max(found.items(), key=lambda item: item[1]) for name, found in timings.items()}
    return [
        Row(
            what=f"a ledger of {CERTIFICATES_IN_ALL:,}: a page of {_PAGE}, by node, state, time and issuer",
            ours="; ".join(f"{name} at most {ms:.1f} ms ({what})" for name, (what, ms) in slowest.items()),
            peer="",
            ratio="",
            bar=f"< {_BAR_MS} ms each",
            met=all(ms < _BAR_MS for _, ms in slowest.values()),
            figures=timings,
        )
    ]


def fill(url: str, count: int) -> None:
    """Make a ledger of that many certificates: a life of an hour each, spread over 89 days, some in each state."""
    upgrade(url)
    engine = create_engine(make_url(url))
    try:
        for first in range(0, count, _AT_ONCE):
            with engine.begin() as connection:
                connection.execute(insert(CERTIFICATES), [_row(n, count) for n in range(first, first + _AT_ONCE)])
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("ANALYZE" if engine.dialect.name == "sqlite" else "VACUUM ANALYZE certificates"))
            if engine.dialect.name == "sqlite":
                # A server never runs ANALYZE: its statistics must not be what makes the answers fast.
                connection.execute(text("DELETE FROM sqlite_stat1"))
    finally:
        engine.dispose()


def questions() -> dict[str, CertificateFilter]:
    """Return each kind of list by its name; every one is also asked for a page from the middle."""
    node, issuer = SpiffeId.parse(_node(7)), _issuer(_ISSUERS // 2)
    day = timedelta(days=1)
    asked: dict[str, dict[str, Any]] = {
        "all": {},
        "node": {"spiffe_id": node},
        "issuer": {"issuer_id": issuer},
        "no such issuer": {"issuer_id": "00" * 10},
        "one day": {"since": _NOW - 40 * day, "until": _NOW - 39 * day},
        "last hour": {"since": _NOW - _LIFE},
        "until long ago": {"until": _NOW - 88 * day},
    }
    for state in ("valid", "revoked", "expired", "pending", "abandoned"):
        asked[state] = {"status": state}
        asked[f"{state} of node"] = {"status": state, "spiffe_id": node}
        asked[f"{state} of issuer"] = {"status": state, "issuer_id": issuer}
        asked[f"{state} since"] = {"status": state, "since": _NOW - 2 * day}
        asked[f"{state} until"] = {"status": state, "until": _NOW - 80 * day}
        asked[f"{state} of node since"] = {"status": state, "spiffe_id": node, "since": _NOW - 2 * day}
        asked[f"{state} of issuer since"] = {"status": state, "issuer_id": issuer, "since": _NOW - 2 * day}
    asked |= {f"archived {name}": {**wanted, "archived": True} for name, wanted in list(asked.items())[:3]}
    return {name: CertificateFilter(at=_NOW, limit=_PAGE, **wanted) for name, wanted in asked.items()}


def _measured(url: str, runs: int) -> dict[str, float]:
    fill(url, CERTIFICATES_IN_ALL)
    found = {}
    with open_store(url) as store:
        for name, asked in questions().items():
            for age, at in _MOMENTS.items():
                wanted = replace(asked, at=at)
                found[f"{age}: {name}"] = _milliseconds(store, wanted, runs)
                if not wanted.archived:
                    later = replace(wanted, after=_serial(CERTIFICATES_IN_ALL // 2))
                    found[f"{age}: {name}, later page"] = _milliseconds(store, later, runs)
    return found


def _milliseconds(store: Any, wanted: CertificateFilter, runs: int) -> float:
    spent = []
    for _ in range(max(runs, 3)):
        began = time.perf_counter()
        with store.read() as connection:
            list_certificates(connection, wanted)
        spent.append((time.perf_counter() - began) * 1000)
    return statistics.median(spent)


def _row(number: int, count: int) -> dict[str, Any]:
    created = _NOW - _SPAN + _SPAN * number / count
    state = {0: "pending", 1: "abandoned"}.get(number % 10_000, "issued")
    revoked = number % 200 == 7
    return {
        "serial": _serial(number),
        "spiffe_id": _node(number % _NODES),
        "issuer_id": _issuer(number * _ISSUERS // count),
        "state": state,
        "tbs": None,
        "certificate": b"\x30" * 520 if state == "issued" else None,
        "not_before": micros(created),
        "not_after": micros(created + _LIFE),
        "holder": f"stream:{number % _NODES}",
        "kind": "stream",
        "requested_by": "uid:1000",
        "created_at": micros(created),
        "revoked_at": micros(created + _LIFE / 2) if revoked else None,
        "revocation_reason": "keyCompromise" if revoked else None,
        "revocation_listed_until": micros(created + 2 * _LIFE) if revoked else None,
    }


def _serial(number: int) -> str:
    # Scattered, as random serials are.
    return f"{number * 0x9E3779B97F4A7C15 % (1 << 64):016x}{number:022x}"


def _node(number: int) -> str:
    return f"spiffe://bench.test/mesh/m/virtualNode/n{number}"


def _issuer(number: int) -> str:
    return f"{number:02x}" * 10


@contextmanager
def _schema(url: str) -> Iterator[str]:
    name = f"meshca_bench_{secrets.token_hex(6)}"
    engine = create_engine(make_url(url))
    try:
        with engine.begin() as connection:
            connection.execute(text(f"CREATE SCHEMA {name}"))
        yield (
            make_url(url).update_query_dict({"options": f"-csearch_path={name}"}).render_as_string(hide_password=False)
        )
    finally:
        with engine.begin() as connection:
            connection.execute(text(f"DROP SCHEMA {name} CASCADE"))
        engine.dispose()
