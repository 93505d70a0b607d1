"""Retention on both databases: what has expired long ago moves into the archive, and nothing else does."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from sqlalchemy import text
from store_examples import API, HOUR, ISSUER, LEAK, REALM, SECOND, T0, WEB, authority, entry, intent, no_audit, serial

from meshca.authority.ports import Abandoned, Result
from meshca.authority.records import CertificateFilter
from meshca.store.engine import Store, Transaction
from meshca.store.ledger import SqlLedger
from meshca.store.retention import Retention
from meshca.x509.crl import Crl, RevokedEntry

LONG_AFTER = T0 + 100 * HOUR


@pytest.fixture
def ledger(store: Store) -> SqlLedger:
    """1 to 3 issued, 4 pending, 5 abandoned, 6 revoked; 7 lives longer than all of them."""
    ledger = SqlLedger(store)
    ledger.create_realm(REALM, [authority(ISSUER, "issuing")], [crl(1)], [entry("init")])
    ledger.record_intents([intent(number, created_at=T0 + number * SECOND) for number in range(1, 7)])
    ledger.record_intents([intent(7, API, life=200 * HOUR)])
    ledger.record_results([Result(serial(number), b"der") for number in (1, 2, 3, 6, 7)], no_audit)
    ledger.record_results([Abandoned(serial(5), "")], no_audit)
    ledger.revoke([serial(6)], LEAK, no_audit)
    return ledger


def crl(number: int, this_update: timedelta = timedelta(0)) -> Crl:
    made = T0 + this_update
    return Crl(der=b"crl", number=number, this_update=made, next_update=T0 + 9 * HOUR, issuer_id=ISSUER)


def listed(ledger: SqlLedger, **wanted: object) -> list[int]:
    found = ledger.certificates(CertificateFilter(LONG_AFTER, **wanted))  # type: ignore[arg-type]
    return [int(record.serial, 16) for record in found]


def archive_all(store: Store, now: timedelta = 99 * HOUR) -> list[int]:
    retention = Retention(store, batch=2)
    counts = []
    while count := retention.archive(LONG_AFTER, T0 + now):
        counts.append(count)
    return counts


def test_what_expired_moves_in_batches_and_stays_findable(store: Store, ledger: SqlLedger) -> None:
    assert archive_all(store) == [2, 2, 1]
    assert listed(ledger) == [7, 6]
    assert listed(ledger, archived=True) == [1, 2, 3, 4, 5]
    assert listed(ledger, archived=True, status="pending") == [4]
    assert listed(ledger, archived=True, spiffe_id=WEB, since=T0 + 2 * SECOND, until=T0 + 4 * SECOND) == [2, 3]
    archived = ledger.certificate(serial(1))
    assert archived is not None
    assert (archived.certificate, archived.status(LONG_AFTER)) == (b"der", "expired")
    assert listed(ledger, archived=True, after=serial(3)) == [4, 5]
    # A page that began at a record which has moved since goes on from there.
    assert listed(ledger, after=serial(1)) == [6]


def test_a_batch_keeps_its_bound_where_the_database_believes_the_ledger_to_be_empty(store: Store) -> None:
    ledger = SqlLedger(store)
    ledger.create_realm(REALM, [authority(ISSUER, "issuing")], [crl(1)], [entry("init")])
    ledger.record_intents([intent(1)])
    store.write(lambda transaction: transaction.connection.execute(text("ANALYZE certificates")) and None)
    ledger.record_intents([intent(number) for number in range(2, 11)])
    assert archive_all(store) == [2, 2, 2, 2, 2]


def test_each_batch_is_one_audit_entry(store: Store, ledger: SqlLedger) -> None:
    archive_all(store)
    of_retention = text("SELECT reason FROM audit WHERE action = 'archive' ORDER BY seq")
    with store.read() as connection:
        rows = connection.execute(of_retention).scalars().all()
    before = LONG_AFTER.isoformat(timespec="seconds")
    assert [row.split(",")[0] for row in rows] == [f"{count} expired before {before}" for count in (2, 2, 1)]
    assert serial(1) in rows[0]


def test_nothing_moves_before_its_time(store: Store, ledger: SqlLedger) -> None:
    retention = Retention(store)
    assert retention.archive(T0 + HOUR, T0 + HOUR) == 0
    assert retention.archive(T0 + HOUR + 2 * SECOND, T0 + 2 * HOUR) == 1
    assert listed(ledger, archived=True) == [1]


def test_a_revoked_one_stays_until_a_crl_past_its_expiry_has_listed_it(store: Store, ledger: SqlLedger) -> None:
    archive_all(store)
    assert ledger.revoked(ISSUER, LONG_AFTER) == [RevokedEntry(6, LEAK.at, LEAK.reason)]
    ledger.store_crls([crl(2, 3 * HOUR)], 2, [])
    assert archive_all(store) == [1]
    assert listed(ledger, archived=True, status="revoked") == [6]
    assert ledger.revoked(ISSUER, LONG_AFTER) == []
    # A clock that ran ahead and was set back: what is unexpired again is listed again.
    assert ledger.revoked(ISSUER, T0 + SECOND) == [RevokedEntry(6, LEAK.at, LEAK.reason)]


@pytest.mark.parametrize(
    "end",
    ["UPDATE authorities SET state = 'removed'", "UPDATE authorities SET not_after = 1"],
    ids=["removed", "expired"],
)
def test_a_revoked_one_need_not_wait_for_a_ca_that_makes_no_crl(store: Store, ledger: SqlLedger, end: str) -> None:
    store.write(lambda transaction: transaction.connection.execute(text(end)))
    assert sum(archive_all(store)) == 6


def test_a_batch_that_fails_leaves_everything(store: Store, ledger: SqlLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("killed")

    monkeypatch.setattr(Transaction, "audit", fail)
    with pytest.raises(RuntimeError):
        Retention(store).archive(LONG_AFTER, LONG_AFTER)
    assert listed(ledger) == [7, 1, 2, 3, 4, 5, 6]
    assert listed(ledger, archived=True) == []


def test_two_processes_move_each_record_once(
    store: Store, ledger: SqlLedger, open_another: Callable[[str], Store]
) -> None:
    numbers = range(100, 400)
    ledger.record_intents([intent(number, created_at=T0 + number * SECOND) for number in numbers])
    ledger.record_results([Result(serial(number), b"der") for number in numbers], no_audit)
    retentions = [Retention(open_another(name), batch=20) for name in ("one", "two")]

    def work(retention: Retention) -> int:
        moved = 0
        while count := retention.archive(LONG_AFTER, T0 + 99 * HOUR):
            moved += count
        return moved

    with ThreadPoolExecutor(2) as pool:
        moved = list(pool.map(work, retentions))
    assert sum(moved) == len(numbers) + 5
    assert listed(ledger) == [7, 6]
    assert len(listed(ledger, archived=True)) == len(numbers) + 5
