"""Each state change raced from two connections: one wins, the other is told, nothing lies in between.

PostgreSQL's READ COMMITTED is not SQLite's single writer, so what holds on one by itself is tested on both.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from sqlalchemy import select
from store_examples import API, ISSUER, LEAK, REALM, T0, WEB, authority, entry, intent, no_audit, serial

from meshca.authority.ports import Abandoned, Move, Result, TrustChange
from meshca.authority.records import Freeze
from meshca.errors import ConflictError, MeshcaError, NotFoundError
from meshca.mesh.model import ObjectKey
from meshca.policy.entitlement import Registration, Selector
from meshca.store import freezing
from meshca.store.chain import ChainCheck, ChainRecord
from meshca.store.conditional import bump
from meshca.store.engine import Store, Transaction
from meshca.store.epochs import Epochs
from meshca.store.issuing import finish_intents, insert_intents
from meshca.store.ledger import SqlLedger
from meshca.store.meshes import MeshChange, Meshes, StoredObject
from meshca.store.registrations import Registrations
from meshca.store.revocation import suspend_identity
from meshca.store.schema import AUDIT, DRAIN_EPOCHS
from meshca.x509.crl import Crl

ROUNDS = 5
FREEZE = Freeze(T0, "uid:0", "a leak is suspected")
Open = Callable[[str], Store]


@pytest.fixture
def pair(open_another: Open) -> tuple[Store, Store]:
    return open_another("one"), open_another("two")


def race(*calls: Callable[[], Any]) -> list[Any]:
    """Run the calls at the same moment; return what each returned or which of our errors it raised."""
    start = threading.Barrier(len(calls))

    def run(call: Callable[[], Any]) -> Any:
        start.wait(10)
        try:
            return call()
        except MeshcaError as error:
            return error

    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result() for future in [pool.submit(run, call) for call in calls]]


def conflicts(answers: list[Any]) -> int:
    return sum(isinstance(answer, ConflictError) for answer in answers)


class Held:
    """An operation that has done its work and keeps its transaction open until it is let go."""

    def __init__(self, store: Store, operation: Callable[[Transaction], Any]) -> None:
        self._done, self._go = threading.Event(), threading.Event()

        def hold(transaction: Transaction) -> Any:
            result = operation(transaction)
            self._done.set()
            assert self._go.wait(10)
            return result

        self._future: Future[Any] = store.submit(hold)
        assert self._done.wait(10)

    def let_go_after(self, other: Future[Any]) -> Any:
        """Give the other call time to run into this one, then let go."""
        wait([other], timeout=0.2)
        self._go.set()
        return self._future.result(10)


def test_one_of_two_creates_the_realm(pair: tuple[Store, Store]) -> None:
    ledgers = [SqlLedger(store) for store in pair]
    calls = [
        partial(ledger.create_realm, REALM, [authority(root)], [], [entry("init")])
        for ledger, root in zip(ledgers, ("00" * 10, "11" * 10), strict=True)
    ]
    assert conflicts(race(*calls)) == 1
    assert len(ledgers[0].authorities()) == 1


def test_one_of_two_prepares_and_one_of_two_activates(pair: tuple[Store, Store]) -> None:
    ledgers = [SqlLedger(store) for store in pair]
    ledgers[0].create_realm(REALM, [authority("00" * 10, "issuing")], [], [])
    prepared = [replace(authority(name, "issuing"), state="prepared") for name in ("11" * 10, "22" * 10)]
    changes = [TrustChange(2, added=(record,)) for record in prepared]
    calls = [partial(ledger.change_trust, change, [entry()]) for ledger, change in zip(ledgers, changes, strict=True)]
    assert conflicts(race(*calls)) == 1
    (won,) = [record.id for record in ledgers[0].authorities() if record.state == "prepared"]
    moves = (Move("00" * 10, "active", "old", T0), Move(won, "prepared", "active", T0))
    assert conflicts(race(*[partial(ledger.change_trust, TrustChange(3, moves), [entry()]) for ledger in ledgers])) == 1
    assert {record.id: record.state for record in ledgers[0].authorities()} == {"00" * 10: "old", won: "active"}


def test_one_of_two_makes_the_next_trust_generation(pair: tuple[Store, Store]) -> None:
    ledgers = [SqlLedger(store) for store in pair]
    ledgers[0].create_realm(REALM, [], [], [])
    for number in range(2, 2 + ROUNDS):
        crl = Crl(der=b"crl", number=number, this_update=T0, next_update=T0, issuer_id=ISSUER)
        answers = race(*[partial(ledger.store_crls, [crl], crl.number, [entry()]) for ledger in ledgers])
        assert conflicts(answers) == 1
        assert ledgers[0].generation() == number


def test_one_of_two_applies(pair: tuple[Store, Store]) -> None:
    SqlLedger(pair[0]).create_realm(REALM, [], [], [])
    for revision in range(ROUNDS):
        changes = [
            MeshChange(
                expected=revision,
                changed=[StoredObject(ObjectKey("shop", "virtualNode", "", store.writer), "{}")],
                removed=[ObjectKey("shop", "virtualNode", "", other.writer)],
                at=T0,
                actor=store.writer,
                summary="",
            )
            for store, other in (pair, pair[::-1])
        ]
        answers = race(*[partial(Meshes(store).apply, change) for store, change in zip(pair, changes, strict=True)])
        assert conflicts(answers) == 1
        stored = Meshes(pair[0]).load()
        (newest,) = Meshes(pair[1]).revisions(1)
        assert (stored.revision, newest.number) == (revision + 1, revision + 1)
        assert [found.key.name for found in stored.objects] == [newest.actor]


def test_one_of_two_revokes(pair: tuple[Store, Store]) -> None:
    ledgers = [SqlLedger(store) for store in pair]
    for number in range(ROUNDS):
        ledgers[0].record_intents([intent(number)])
        answers = race(*[partial(ledger.revoke, [serial(number)], LEAK, no_audit) for ledger in ledgers])
        assert sorted(len(answer) for answer in answers) == [0, 1]
    assert Epochs(pair[0]).load() == {f"identity:{WEB}": ROUNDS}


def test_one_of_two_finishes_an_intent(pair: tuple[Store, Store]) -> None:
    ledgers = [SqlLedger(store) for store in pair]
    for number in range(ROUNDS):
        ledgers[0].record_intents([intent(number)])
        result = [Result(serial(number), b"der")]
        answers = race(*[partial(ledger.record_results, result, no_audit) for ledger in ledgers])
        assert sorted(answers) == [[False], [True]]


def test_a_certificate_is_released_or_revoked_first_and_never_forgotten(pair: tuple[Store, Store]) -> None:
    issuer, revoker = [SqlLedger(store) for store in pair]
    for number in range(ROUNDS):
        issuer.record_intents([intent(number)])
        released, revoked = race(
            partial(issuer.record_results, [Result(serial(number), b"der")], no_audit),
            partial(revoker.revoke, [serial(number)], LEAK, no_audit),
        )
        assert [record.state for record in revoked] == ["issued" if released == [True] else "pending"]


@pytest.mark.parametrize("pending_first", [True, False], ids=["while-the-intent", "while-the-result"])
def test_nothing_of_a_suspended_identity_stays_unrevoked(pair: tuple[Store, Store], pending_first: bool) -> None:
    issuer, ledger = pair[0], SqlLedger(pair[1])
    if not pending_first:
        ledger.record_intents([intent(1)])
    work = insert_intents if pending_first else finish_intents
    rows: list[Any] = [intent(1) if pending_first else Result(serial(1), b"der")]
    held = Held(issuer, lambda transaction: work(transaction.connection, rows))
    with ThreadPoolExecutor(1) as pool:
        suspending = pool.submit(ledger.suspend, WEB, LEAK, no_audit)
        assert held.let_go_after(suspending) == [True]
        assert [record.serial for record in suspending.result(10)] == [serial(1)]
    assert ledger.record_results([Result(serial(1), b"der")], no_audit) == [False]


def test_an_intent_waits_for_a_suspension_and_is_refused(pair: tuple[Store, Store]) -> None:
    ledger = SqlLedger(pair[1])

    def suspend(transaction: Transaction) -> None:
        suspend_identity(transaction.connection, WEB, LEAK)

    held = Held(pair[0], suspend)
    with ThreadPoolExecutor(1) as pool:
        recording = pool.submit(ledger.record_intents, [intent(1)])
        held.let_go_after(recording)
        assert recording.result(10) == [False]


@pytest.mark.parametrize("of", ["intent", "result"])
def test_nothing_is_issued_once_a_freeze_has_been_answered(pair: tuple[Store, Store], of: str) -> None:
    """Whatever is being written comes before the freeze or not at all; whatever begins after it is refused."""
    issuer, ledger = SqlLedger(pair[0]), SqlLedger(pair[1])
    ledger.create_realm(REALM, [], [], [])
    if of == "result":
        issuer.record_intents([intent(1)])
    work = insert_intents if of == "intent" else finish_intents
    rows: list[Any] = [intent(1) if of == "intent" else Result(serial(1), b"der")]
    held = Held(pair[0], lambda transaction: work(transaction.connection, rows))
    with ThreadPoolExecutor(1) as pool:
        freezing = pool.submit(ledger.freeze, FREEZE, entry("freeze"))
        assert held.let_go_after(freezing) == [True]
        assert freezing.result(10)
    assert issuer.record_intents([intent(2), intent(3, API)]) == [False, False]
    assert issuer.record_results([Result(serial(1), b"der")], no_audit) == [False]
    found = issuer.certificate(serial(1))
    assert found is not None
    assert found.state == ("pending" if of == "intent" else "issued")


@pytest.mark.parametrize("of", ["intent", "result"])
def test_what_waits_for_a_freeze_is_refused(pair: tuple[Store, Store], of: str) -> None:
    issuer, ledger = SqlLedger(pair[1]), SqlLedger(pair[0])
    ledger.create_realm(REALM, [], [], [])
    issuer.record_intents([intent(1)])
    held = Held(pair[0], lambda transaction: freezing.freeze(transaction.connection, FREEZE))
    with ThreadPoolExecutor(1) as pool:
        if of == "intent":
            late = pool.submit(issuer.record_intents, [intent(2)])
        else:
            late = pool.submit(issuer.record_results, [Result(serial(1), b"der")], no_audit)
        assert held.let_go_after(late) is True
        assert late.result(10) == [False]
    issuer.record_results([Abandoned(serial(1), "frozen")], no_audit)
    assert ledger.revoke([serial(1)], LEAK, no_audit) != []


def test_one_of_two_freezes_and_one_of_two_unfreezes(pair: tuple[Store, Store]) -> None:
    ledgers = [SqlLedger(store) for store in pair]
    ledgers[0].create_realm(REALM, [], [], [])
    for _ in range(ROUNDS):
        answers = race(*[partial(ledger.freeze, FREEZE, entry("freeze")) for ledger in ledgers])
        assert sorted(answers) == [False, True]
        assert ledgers[0].frozen() == ledgers[1].frozen() == FREEZE
        answers = race(*[partial(ledger.unfreeze, entry("unfreeze")) for ledger in ledgers])
        assert sorted(answers) == [False, True]
        assert ledgers[1].frozen() is None
    with pair[0].read() as connection:
        actions = connection.execute(select(AUDIT.c.action)).scalars().all()
    assert sorted(actions) == ["freeze"] * ROUNDS + ["unfreeze"] * ROUNDS


def test_freezes_and_issues_that_race_agree(pair: tuple[Store, Store]) -> None:
    issuer, ledger = [SqlLedger(store) for store in pair]
    ledger.create_realm(REALM, [], [], [])
    for number in range(ROUNDS):
        race(partial(issuer.record_intents, [intent(number)]), partial(ledger.freeze, FREEZE, entry("freeze")))
        assert issuer.record_intents([intent(ROUNDS + number)]) == [False]
        ledger.unfreeze(entry("unfreeze"))
    assert issuer.record_intents([intent(2 * ROUNDS)]) == [True]


def test_one_of_two_registers_and_one_of_two_unregisters(pair: tuple[Store, Store]) -> None:
    selectors = frozenset({Selector("unix:uid", "1000"), Selector("unix:gid", "1000")})
    entries = [Registration(id=store.writer, spiffe_id=WEB, selectors=selectors) for store in pair]
    answers = race(
        *[
            partial(Registrations(store).add, registration, T0, entry("register"))
            for store, registration in zip(pair, entries, strict=True)
        ]
    )
    assert conflicts(answers) == 1
    (kept,) = Registrations(pair[0]).list()
    answers = race(*[partial(Registrations(store).remove, kept.id, lambda _: entry("unregister")) for store in pair])
    assert sorted(type(answer).__name__ for answer in answers) == [NotFoundError.__name__, "Registration"]


def test_epochs_lose_no_bump(pair: tuple[Store, Store]) -> None:
    for _ in range(ROUNDS):
        race(*[partial(Epochs(store).bump, ["b", "a", "b"]) for store in pair])
    assert Epochs(pair[0]).load() == {"a": 2 * ROUNDS, "b": 2 * ROUNDS}


def test_two_processes_with_one_name_share_one_chain(open_another: Open) -> None:
    stores = [open_another("server"), open_another("server")]
    for _ in range(ROUNDS):
        race(*[partial(SqlLedger(store).record_audit, [entry(), entry()]) for store in stores])
    with stores[0].read() as connection:
        records = [ChainRecord(*row) for row in connection.execute(select(AUDIT).order_by(AUDIT.c.seq))]
    check = ChainCheck("server")
    for record in records:
        check.read(record)
    assert (check.finish(), check.head.seq) == ([], 4 * ROUNDS)


def test_a_deadlock_is_run_again(pair: tuple[Store, Store]) -> None:
    """PostgreSQL ends one of the two after a second; SQLite makes them take turns, and the wait runs out."""
    reached = [threading.Event(), threading.Event()]

    def crossing(me: int) -> Callable[[Transaction], None]:
        def cross(transaction: Transaction) -> None:
            bump(transaction.connection, DRAIN_EPOCHS, ["ab"[me]], "value")
            reached[me].set()
            reached[1 - me].wait(0.5)
            bump(transaction.connection, DRAIN_EPOCHS, ["ba"[me]], "value")
            transaction.audit(entry())

        return cross

    assert race(*[partial(pair[me].write, crossing(me)) for me in (0, 1)]) == [None, None]
    assert Epochs(pair[0]).load() == {"a": 2, "b": 2}
