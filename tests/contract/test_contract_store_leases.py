"""One leader at a time, and a late one writes nothing: raced from two connections."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial

import pytest
from store_examples import REALM, T0, authority, entry

from meshca.authority.ports import OvertakenError
from meshca.store.changes import ChangeLog
from meshca.store.engine import Store, Transaction
from meshca.store.epochs import Epochs
from meshca.store.errors import StoreError
from meshca.store.fencing import Fence
from meshca.store.leases import Held, Leases
from meshca.store.ledger import SqlLedger
from meshca.store.retention import Retention
from meshca.store.times import micros
from meshca.store.trust import advance_generation

ROUNDS = 5
Open = Callable[[str], Store]
UNTIL = T0 + timedelta(seconds=10)
LATER = UNTIL + timedelta(seconds=3)


@pytest.fixture
def pair(open_another: Open) -> tuple[Store, Store]:
    return open_another("one"), open_another("two")


def race(*calls: Callable[[], object]) -> list[object]:
    start = threading.Barrier(len(calls))

    def run(call: Callable[[], object]) -> object:
        start.wait(10)
        try:
            return call()
        except OvertakenError as error:
            return error

    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result(30) for future in [pool.submit(run, call) for call in calls]]


def take(store: Store, seen: Held | None, name: str = "schedule") -> Fence:
    fence = Leases(store).take(name, seen, UNTIL)
    assert fence is not None
    return fence


def test_of_two_who_take_a_lease_at_once_one_has_it(pair: tuple[Store, Store]) -> None:
    one, two = (Leases(store) for store in pair)
    for number in range(ROUNDS):
        name = f"lease-{number}"
        fences = race(*(partial(leases.take, name, None, UNTIL) for leases in (one, two)))
        assert sorted(fences, key=str) == [Fence(name, 1), None]

        seen = one.read(name)
        fences = race(*(partial(leases.take, name, seen, LATER) for leases in (one, two)))
        assert sorted(fences, key=str) == [Fence(name, 2), None]


def test_a_takeover_and_a_renewal_exclude_each_other(pair: tuple[Store, Store]) -> None:
    one, two = (Leases(store) for store in pair)
    for number in range(ROUNDS):
        name = f"lease-{number}"
        fence = take(pair[0], None, name)
        seen = two.read(name)

        renewed, taken = race(partial(one.renew, fence, LATER), partial(two.take, name, seen, LATER))

        assert renewed is (taken is None)


def test_a_renewal_always_shows_even_where_a_clock_stands_still_or_goes_back(pair: tuple[Store, Store]) -> None:
    leases = Leases(pair[0])
    fence = take(pair[0], None)

    for until in (UNTIL, UNTIL - timedelta(hours=1)):
        before = leases.read("schedule")
        assert leases.renew(fence, until)
        after = leases.read("schedule")
        assert before is not None
        assert after is not None
        assert after.expires_at > before.expires_at


def test_a_released_lease_is_nobodys_and_a_release_that_is_late_changes_nothing(pair: tuple[Store, Store]) -> None:
    one, two = (Leases(store) for store in pair)
    fence = take(pair[0], None)
    one.release(fence)
    assert two.read("schedule") == Held("", 1, micros(UNTIL))

    second = take(pair[1], two.read("schedule"))
    one.release(fence)

    assert two.read("schedule") == Held("two", second.epoch, micros(UNTIL))
    assert not one.renew(fence, LATER)


@pytest.mark.parametrize(
    "work",
    [
        lambda store: SqlLedger(store).store_crls([], 2, [entry()]),
        lambda store: SqlLedger(store).hasten(authority("ca").id, T0, entry()),
        lambda store: SqlLedger(store).record_audit([entry()]),
        lambda store: store.submit(lambda transaction: transaction.changed("epochs")).result(10),
    ],
    ids=["crls", "hasten", "audit", "submitted"],
)
def test_a_late_leader_writes_nothing(pair: tuple[Store, Store], work: Callable[[Store], object]) -> None:
    one, two = pair
    SqlLedger(one).create_realm(REALM, [authority("ca")], [], [entry()])
    late = take(one, None)
    take(two, Leases(two).read("schedule"))
    before = ChangeLog(two).newest(), SqlLedger(two).generation()

    with one.fenced(late), pytest.raises(OvertakenError):
        work(one)

    assert (ChangeLog(two).newest(), SqlLedger(two).generation()) == before
    SqlLedger(one).record_audit([entry()])  # what is no scheduled work goes on


def test_reading_needs_no_lease_and_a_fence_ends_with_its_block(pair: tuple[Store, Store]) -> None:
    one, two = pair
    late = take(one, None)
    take(two, Leases(two).read("schedule"))

    with one.fenced(late):
        assert Retention(one).archive(T0, T0) == 0
    Epochs(one).bump(["a"])

    assert Epochs(two).load() == {"a": 1}


def test_a_fence_concerns_the_thread_that_works_behind_it_alone(pair: tuple[Store, Store]) -> None:
    one, two = pair
    late = take(one, None)
    take(two, Leases(two).read("schedule"))

    with one.fenced(late), ThreadPoolExecutor(1) as pool:
        pool.submit(Epochs(one).bump, ["a"]).result(10)

    assert Epochs(two).load() == {"a": 1}


def test_a_takeover_waits_for_a_transaction_of_the_leader_that_has_begun(pair: tuple[Store, Store]) -> None:
    one, two = pair
    fence, inside, go_on = take(one, None), threading.Event(), threading.Event()
    order: list[str] = []

    def slow(transaction: Transaction) -> None:
        inside.set()
        go_on.wait(10)
        transaction.after_commit(lambda: order.append("leader"))

    def lead() -> None:
        with one.fenced(fence):
            one.write(slow)

    def take_over() -> None:
        take(two, seen)
        order.append("successor")

    seen = Leases(two).read("schedule")
    with ThreadPoolExecutor(2) as pool:
        leading = pool.submit(lead)
        assert inside.wait(10)
        taking = pool.submit(take_over)
        time.sleep(0.2)  # long enough for a takeover that does not wait
        assert order == []
        go_on.set()
        leading.result(10)
        taking.result(10)

    assert sorted(order) == ["leader", "successor"]


def test_work_and_takeover_raced_leave_no_write_after_the_takeover(pair: tuple[Store, Store]) -> None:
    one, two = pair
    for number in range(ROUNDS):
        name = f"lease-{number}"
        fence = take(one, None, name)
        seen = Leases(two).read(name)

        def lead(fence: Fence = fence, scope: str = name) -> str:
            with one.fenced(fence):
                Epochs(one).bump([scope])
            return "written"

        def succeed(name: str = name, seen: Held | None = seen) -> int:
            take(two, seen, name)
            return Epochs(two).load().get(name, 0)

        led, at_takeover = race(lead, succeed)
        # What the successor sees as it takes over is all that the leader will ever have written.
        assert at_takeover == Epochs(two).load().get(name, 0) == (led == "written")


# SQLite's lock is the stopped process's until it goes on.
@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_who_stops_in_the_middle_of_a_transaction_loses_it_and_others_go_on(pair: tuple[Store, Store]) -> None:
    one, two = pair
    SqlLedger(one).create_realm(REALM, [authority("ca")], [], [entry()])
    inside, go_on = threading.Event(), threading.Event()

    def stop(transaction: Transaction) -> None:
        advance_generation(transaction.connection, 2)
        inside.set()
        go_on.wait(20)

    stopped = one.submit(stop)
    assert inside.wait(10)
    SqlLedger(two).store_crls([], 2, [entry()])  # waits, and is not refused
    go_on.set()

    assert isinstance(stopped.exception(10), StoreError)
    assert SqlLedger(one).generation() == 2  # and the store works again
    SqlLedger(one).store_crls([], 3, [entry()])
