"""What one replica changes, others hear of: in the order of commits, without a gap, and soon."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from sqlalchemy import delete, func, select
from store_examples import API, LEAK, REALM, T0, WEB, authority, entry, intent, no_audit, serial

from meshca.authority.ports import Result, TrustChange
from meshca.authority.records import Freeze
from meshca.errors import ConflictError
from meshca.mesh.model import ObjectKey
from meshca.policy.entitlement import Registration, Selector
from meshca.spiffe.id import TrustDomain
from meshca.store import changes
from meshca.store.acknowledgements import Acknowledgements, Rejection
from meshca.store.changes import Change, ChangeLog, Revocations
from meshca.store.endpoints import Endpoints
from meshca.store.engine import Store, Transaction
from meshca.store.epochs import Epochs
from meshca.store.federation import HTTPS_WEB, Endpoint, Federation, Federations
from meshca.store.ledger import SqlLedger
from meshca.store.listening import Listener
from meshca.store.meshes import MeshChange, Meshes
from meshca.store.registrations import Registrations
from meshca.store.schema import CHANGES

Open = Callable[[str], Store]
NODE = ObjectKey("shop", "virtualNode", "", "web")
PEER = Federation(Endpoint(TrustDomain("o.test"), "https://o.test/", HTTPS_WEB), b"{}", 1, T0, None, "")
ENTRY = Registration(id="r1", spiffe_id=WEB, selectors=frozenset({Selector("unix:uid", "1")}), parent="")


@pytest.fixture
def one(open_another: Open) -> Store:
    return open_another("one")


@pytest.fixture
def other(open_another: Open) -> Store:
    return open_another("other")


def topics(store: Store, since: int = 0) -> list[str]:
    return [change.topic for change in ChangeLog(store).since(since).changes]


def populate(ledger: SqlLedger) -> None:
    ledger.create_realm(REALM, [authority("ca")], [], [entry()])
    assert ledger.record_intents([intent(1), intent(2)]) == [True, True]
    assert ledger.record_results([Result(serial(1), b"c"), Result(serial(2), b"c")], no_audit) == [True, True]


def test_every_change_that_replicas_act_on_is_told(one: Store, other: Store) -> None:
    ledger = SqlLedger(one)
    populate(ledger)
    assert topics(other) == []  # what is issued concerns nobody else

    steps: list[tuple[Callable[[], object], list[str]]] = [
        (lambda: Registrations(one).add(ENTRY, T0, entry()), [changes.REGISTRATIONS]),
        (lambda: Registrations(one).remove("r1", lambda _: entry()), [changes.REGISTRATIONS]),
        (lambda: Endpoints(one).add(NODE, [("10.0.0.1", None)], T0, entry()), [changes.ENDPOINTS]),
        (lambda: Endpoints(one).remove(NODE, [("10.0.0.1", None)], entry()), [changes.ENDPOINTS]),
        (lambda: Epochs(one).bump(["a"]), [changes.EPOCHS]),
        (lambda: Meshes(one).apply(MeshChange(0, (), (), T0, "uid:0", "nothing")), [changes.MESH]),
        (lambda: ledger.change_trust(TrustChange(2), [entry()]), [changes.TRUST]),
        (lambda: ledger.store_crls([], 3, [entry()]), [changes.TRUST]),
        (lambda: ledger.change_jwt_keys(TrustChange(1), [entry()]), [changes.JWT]),
        (lambda: ledger.taint([authority("ca").id], T0, [entry()]), [changes.TRUST, changes.JWT]),
        (lambda: ledger.revoke([serial(1)], LEAK, no_audit), [changes.REVOKED]),
        (lambda: ledger.suspend(WEB, LEAK, no_audit), [changes.REVOKED]),
        (lambda: ledger.resume(WEB, entry()), [changes.SUSPENSIONS]),
        (lambda: ledger.freeze(Freeze(T0, "uid:0", ""), entry()), [changes.FREEZE]),
        (lambda: ledger.unfreeze(entry()), [changes.FREEZE]),
        (lambda: ledger.ask_rotation(WEB, entry()), [changes.ROTATE]),
        (lambda: Acknowledgements(one).reject(Rejection("n", "h", "t", "m", T0)).result(10), [changes.REJECTED]),
        (lambda: Federations(one).put(PEER, T0, entry()), [changes.FEDERATIONS]),
        (lambda: Federations(one).failed(PEER.endpoint, "silent", T0, None), []),
        (lambda: Federations(one).fetched(PEER, None), []),
        (lambda: Federations(one).fetched(PEER, entry()), [changes.FEDERATIONS]),
        (lambda: Federations(one).remove(PEER.endpoint.trust_domain, [], entry()), [changes.FEDERATIONS]),
    ]
    for make, told in steps:
        before = ChangeLog(other).newest()
        make()
        assert topics(other, before) == told
        assert topics(one, before) == []  # who has done it knows it


def test_revocations_name_what_is_dead_and_whether_its_identity_is_suspended(one: Store, other: Store) -> None:
    ledger = SqlLedger(one)
    populate(ledger)

    ledger.revoke([serial(1)], LEAK, no_audit)
    ledger.suspend(WEB, LEAK, no_audit)
    ledger.suspend(API, LEAK, no_audit)  # which holds nothing

    assert [Revocations.of(change) for change in ChangeLog(other).since(0).changes] == [
        Revocations(WEB, frozenset({serial(1)}), suspended=False),
        Revocations(WEB, frozenset({serial(2)}), suspended=True),
        Revocations(API, frozenset(), suspended=True),
    ]


def test_many_serials_of_one_revocation_come_in_bounded_rows() -> None:
    told = Revocations(WEB, frozenset(map(serial, range(1_201))), suspended=False)

    rows = list(told.changes())

    assert len(rows) == 3
    assert frozenset().union(*(Revocations.of(row).serials for row in rows)) == told.serials


def test_what_fails_is_not_told(one: Store, other: Store) -> None:
    with pytest.raises(ConflictError):
        Meshes(one).apply(MeshChange(7, (), (), T0, "uid:0", "too late"))

    assert ChangeLog(other).newest() == 0


def test_numbers_have_no_gap_whoever_writes_and_whoever_reads_meanwhile(open_another: Open) -> None:
    writers = [open_another(f"w{number}") for number in range(3)]
    reader, found, over = open_another("reader"), list[int](), threading.Event()

    def write(store: Store) -> None:
        for number in range(15):
            Epochs(store).bump([f"{store.writer}-{number}"])

    def read() -> None:
        log, seen = ChangeLog(reader), 0
        while not over.is_set() or seen < 45:
            news = log.since(seen)
            assert news.whole
            assert news.newest == seen + len(news.changes)
            seen = news.newest
            found.append(seen)

    with ThreadPoolExecutor(4) as pool:
        reading = pool.submit(read)
        for writing in [pool.submit(write, store) for store in writers]:
            writing.result(30)
        over.set()
        reading.result(30)

    assert found[-1] == 45


def test_a_reader_that_is_too_far_behind_is_told_to_read_everything(one: Store, other: Store) -> None:
    for number in range(4):
        Epochs(one).bump([str(number)])

    def forget(transaction: Transaction) -> None:
        transaction.connection.execute(delete(CHANGES).where(CHANGES.c.number <= 2))

    one.write(forget)

    assert not ChangeLog(other).since(1).whole
    assert ChangeLog(other).since(2).whole


def test_the_log_is_bounded(one: Store, other: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "_KEPT", 3)
    for number in range(8):
        Epochs(one).bump([str(number)])

    with other.read() as connection:
        assert connection.execute(select(func.count()).select_from(CHANGES)).scalar_one() == 3
    assert ChangeLog(other).since(7).changes == (Change(changes.EPOCHS),)


def heard(listener: Listener, act: Callable[[], object]) -> float:
    """Return how long after the end of an act somebody who waits is woken."""
    waiting, woken = threading.Event(), list[float]()

    def wait() -> None:
        waiting.set()
        listener.wait(10)
        woken.append(time.monotonic())

    thread = threading.Thread(target=wait)
    thread.start()
    waiting.wait(5)
    act()
    done = time.monotonic()
    thread.join(15)
    return woken[0] - done


def test_who_listens_is_woken_by_a_change_of_another(one: Store, other: Store) -> None:
    listener = other.listen()
    try:
        assert heard(listener, lambda: Epochs(one).bump(["a"])) < 1  # 0.05 on SQLite, at once on PostgreSQL
        assert heard(listener, lambda: Epochs(one).bump(["b"])) < 1
        assert heard(listener, listener.wake) < 1
    finally:
        listener.close()


def test_nothing_wakes_for_what_nobody_has_done(other: Store) -> None:
    listener = other.listen()
    try:
        began = time.monotonic()
        listener.wait(0.3)
        assert time.monotonic() - began >= timedelta(seconds=0.25).total_seconds()
    finally:
        listener.close()
