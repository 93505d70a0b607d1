"""Every kill point on one database: `python -m harness.faults.run authority|server|soak FOLDER [POSTGRES]`, as JSON.

A process of its own, because each case forks from one that has imported everything and has no thread.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import structlog
from harness.faults.acts import SCRIPTS
from harness.faults.cases import Outcome, forked, in_child, rehearse, run_case
from harness.faults.kill import MOMENTS, NOWHERE, Point
from harness.faults.places import SLOTS, Grounds, Place, warm_up
from harness.faults.soak import run_soak
from harness.faults.told import Tell, read_events

_SERVED, _SOAK = "server", "soak"
_SOAKS = 4


@dataclass(frozen=True)
class Case:
    """A script, or a whole server, and where it is killed."""

    what: str
    point: Point

    @property
    def is_dry(self) -> bool:
        """Whether nothing is killed."""
        return self.point == NOWHERE

    def run(self, place: Place) -> Outcome:
        """Run it."""
        if self.what == _SERVED:
            from harness.faults.served import run_served_case

            return run_served_case(place, self.point)
        if self.what == _SOAK:
            return run_soak(place, self.point.number)
        return run_case(place, SCRIPTS[self.what], self.point)


def every_point(grounds: Grounds, what: Sequence[str]) -> dict[str, Any]:
    """Count the writes of each script, then kill at each of them."""
    dry = [Case(script, NOWHERE) for script in what]
    whole = in_parallel(grounds, dry)
    cases = [
        Case(case.what, Point(number, moment))
        for case, outcome in zip(dry, whole, strict=True)
        for number, write in enumerate(outcome["writes"], start=1)
        if write == "commit" or not grounds.postgres  # files are the same beside either database
        # A whole server, and PostgreSQL, take much longer: they die at each write once, before or after it by turns.
        for moment in (MOMENTS[number % 2 :][:1] if case.what == _SERVED or grounds.postgres else MOMENTS)
    ]
    return _summary(dry + cases, whole + in_parallel(grounds, cases))


def soaks(grounds: Grounds, seed: int) -> dict[str, Any]:
    """Soak some homes; the seed of each is in its findings."""
    cases = [Case(_SOAK, Point(seed + number)) for number in range(_SOAKS // 2 if grounds.postgres else _SOAKS)]
    return _summary(cases, in_parallel(grounds, cases))


def _summary(cases: Sequence[Case], outcomes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    findings = [
        f"{case.what}, {case.point}: {finding}"
        for case, outcome in zip(cases, outcomes, strict=True)
        for finding in outcome["findings"]
    ]
    return {
        "writes": {case.what: outcome["writes"] for case, outcome in zip(cases, outcomes, strict=True) if case.is_dry},
        "points": sum(not case.is_dry for case in cases),
        "starts": sum(outcome["starts"] for outcome in outcomes),
        "orphans": sum(outcome["orphans"] for outcome in outcomes),
        "most_orphans": max(outcome["orphans"] / outcome["starts"] for outcome in outcomes),
        "findings": findings,
    }


def in_parallel(grounds: Grounds, cases: Sequence[Case]) -> list[dict[str, Any]]:
    """Run cases in as many processes as there are slots, and return their outcomes in order."""
    workers = [forked(_worker(grounds, slot, cases[slot::SLOTS])) for slot in range(SLOTS)]
    found: list[dict[str, Any]] = [{} for _ in cases]
    for slot, (pid, reading) in enumerate(workers):
        outcomes = read_events(reading)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if code or len(outcomes) != len(cases[slot::SLOTS]):
            raise RuntimeError(f"a worker ended with {code}: {outcomes[-1:]}")
        found[slot::SLOTS] = outcomes
    return found


def _worker(grounds: Grounds, slot: int, cases: Sequence[Case]) -> Callable[[Tell], None]:
    def work(tell: Tell) -> None:
        for case in cases:
            tell(asdict(case.run(grounds.fresh(slot))))

    return work


def _import_what_servers_need(place: Place) -> None:
    """Import here what a server imports until it is ready: every later one finds it."""
    from harness.faults import served

    for event in in_child(lambda tell: served.tell_imports(place, tell))[0]:
        if event["told"] != "imports":
            raise RuntimeError(event["text"])
        for name in event["modules"]:
            with contextlib.suppress(ImportError):
                importlib.import_module(name)


def main(kind: str, folder: str, postgres: str = "") -> None:
    """Run, and print what came of it."""
    result = os.dup(1)
    os.dup2(2, 1)  # what libraries print is not the result
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    started = time.monotonic()
    warm_up()
    grounds = Grounds(Path(folder), postgres)
    try:
        found = _run(kind, grounds)
    finally:
        grounds.close()
    found["seconds"] = time.monotonic() - started
    with open(result, "w", encoding="utf-8") as out:
        json.dump(found, out)


def _run(kind: str, grounds: Grounds) -> dict[str, Any]:
    grounds.prepare()
    for script in SCRIPTS.values():
        if findings := rehearse(grounds.fresh(0), script):
            raise RuntimeError(f"{script.__name__} fails where nothing is killed: {findings}")
    if kind == _SERVED:
        _import_what_servers_need(grounds.fresh(0))
    if threading.active_count() > 1:
        raise RuntimeError(f"there are threads, a fork would be unsafe: {threading.enumerate()}")
    gc.freeze()
    if kind == _SOAK:
        return soaks(grounds, int.from_bytes(os.urandom(4), "big"))
    return every_point(grounds, [_SERVED] if kind == _SERVED else list(SCRIPTS))


if __name__ == "__main__":
    main(*sys.argv[1:])
