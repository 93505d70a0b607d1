"""Who leads, and for how long, by clocks that nobody compares."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import pytest

from meshca.server.leading import LEASE, Leadership
from meshca.store.engine import Store, open_store, upgrade
from meshca.store.epochs import Epochs
from meshca.store.leases import Leases


class Time:
    """A monotonic clock that stands still until it is moved; the other one stands for ever."""

    def __init__(self, at: float) -> None:
        self.at = at

    def __call__(self) -> float:
        return self.at

    def now(self) -> datetime:
        return datetime(2026, 11, 25, tzinfo=UTC)


class Candidate:
    def __init__(self, store: Store, at: float) -> None:
        self.store, self.time, self.keys = store, Time(at), True
        self.leading = Leadership(store, self.time, lambda: self.keys, self.time)

    def leads_after(self, seconds: float) -> bool:
        self.time.at += seconds
        self.leading.tick()
        return self.leading.leads


Make = Callable[[str, float], Candidate]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    url = f"sqlite:///{tmp_path}/meshca.db"
    upgrade(url)
    with ExitStack() as opened:
        yield lambda name, at: Candidate(opened.enter_context(open_store(url, writer=name)), at)


def test_the_first_leads_at_once_and_the_second_only_once_nothing_is_heard_of_it(make: Make) -> None:
    one, two = make("one", 0), make("two", 5_000_000)
    assert one.leads_after(0)
    assert not two.leads_after(0)
    for _ in range(5):
        assert one.leads_after(3)
        assert not two.leads_after(6)  # its clock runs twice as fast, and each time it sees another row

    assert not two.leads_after(6.9)
    assert two.leads_after(0.2)
    assert not one.leads_after(3)


def test_whoever_could_not_renew_stops_before_another_may_begin(make: Make) -> None:
    one = make("one", 0)
    assert one.leads_after(0)

    one.time.at += 5.4
    assert one.leading.leads
    one.time.at += 0.2
    assert not one.leading.leads
    one.leading.run(lambda: pytest.fail("it leads no more"))

    assert one.leads_after(0)  # nobody has come in between


def test_a_new_process_of_the_same_home_and_whoever_follows_an_orderly_stop_need_not_wait(make: Make) -> None:
    assert make("one", 0).leads_after(0)
    again = make("one", 0)
    assert again.leads_after(0)
    assert Leases(again.store).read(LEASE).epoch == 2  # type: ignore[union-attr]

    again.leading.release()

    assert make("two", 0).leads_after(0)
    assert not again.leads_after(0)


def test_who_lacks_a_key_waits_longer_and_gives_the_lease_back(make: Make) -> None:
    poor, rich = make("poor", 0), make("rich", 0)
    poor.keys = False
    assert not poor.leads_after(0)
    assert not poor.leads_after(19)
    assert poor.leads_after(2)
    for _ in range(19):
        assert poor.leads_after(3)
        assert not rich.leads_after(0)

    assert not poor.leads_after(4)
    assert rich.leads_after(0)


def test_what_runs_while_another_takes_over_writes_nothing(make: Make) -> None:
    one, two = make("one", 0), make("two", 0)
    assert one.leads_after(0)
    assert not two.leads_after(0)

    def work() -> None:
        assert two.leads_after(11)
        Epochs(one.store).bump(["late"])

    one.leading.run(work)

    assert Epochs(two.store).load() == {}
    assert not one.leading.leads


def test_what_a_leader_does_is_done(make: Make) -> None:
    one = make("one", 0)
    assert one.leads_after(0)

    one.leading.run(lambda: Epochs(one.store).bump(["in time"]))

    assert Epochs(one.store).load() == {"in time": 1}
