from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from meshca.authority.coalescing import Coalescer


class Gate:
    """A sleep that ends when the test says so."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.open = threading.Event()

    def __call__(self, _: float) -> None:
        self.entered.set()
        assert self.open.wait(10)


def test_all_who_join_within_the_window_share_one_result() -> None:
    runs: list[int] = []
    gate = Gate()

    def work() -> int:
        runs.append(1)
        return len(runs)

    coalescer = Coalescer(work, sleep=gate)
    with ThreadPoolExecutor(4) as pool:
        joined = [pool.submit(coalescer.join)]
        assert gate.entered.wait(10)
        turn = coalescer._turn
        assert turn is not None
        joined += [pool.submit(coalescer.join) for _ in range(3)]
        while len(turn._condition._waiters) < 3:  # type: ignore[attr-defined]
            time.sleep(0)
        gate.open.set()
        assert [future.result(10) for future in joined] == [1, 1, 1, 1]


def test_one_who_comes_while_the_work_runs_gets_a_run_of_its_own() -> None:
    started, finish = threading.Event(), threading.Event()
    runs: list[int] = []

    def work() -> int:
        runs.append(1)
        if len(runs) == 1:
            started.set()
            assert finish.wait(10)
        return len(runs)

    coalescer = Coalescer(work, sleep=lambda _: None)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(coalescer.join)
        assert started.wait(10)
        assert coalescer.join() == 2
        finish.set()
        first.result(10)


def test_everybody_gets_the_error_and_the_next_turn_works() -> None:
    answers: list[Exception | str] = [RuntimeError("full disk"), "done"]

    def work() -> str:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    coalescer = Coalescer(work, sleep=lambda _: None)
    with pytest.raises(RuntimeError, match="full disk"):
        coalescer.join()
    assert coalescer.join() == "done"


def test_a_sleep_that_is_interrupted_leaves_no_turn_behind() -> None:
    naps = iter([KeyboardInterrupt(), None])

    def sleep(_: float) -> None:
        if (nap := next(naps)) is not None:
            raise nap

    coalescer = Coalescer(lambda: 1, sleep=sleep)
    with pytest.raises(KeyboardInterrupt):
        coalescer.join()
    assert coalescer.join() == 1
