"""One case: a child that acts until it is killed, and children that start again until one of them gets through."""

from __future__ import annotations

import gc
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from itertools import chain, repeat

from harness.faults import ledger_truth, served_truth
from harness.faults.acts import Caller, Script, tell_signatures
from harness.faults.kill import NOWHERE, Point, Trigger
from harness.faults.places import MovableClock, Place
from harness.faults.told import Event, Tell, Told, read_events, teller

_MOST_STARTS = 60


@dataclass(frozen=True)
class Outcome:
    """How a case went. ``writes`` are those of its script; ``starts`` is how often it was started again."""

    writes: list[str]
    starts: int
    orphans: int
    findings: list[str]


@dataclass(frozen=True)
class Restart:
    """How it went to start again: how often, what was left lying, what was wrong."""

    starts: int
    orphans: int
    findings: list[str]


def run_case(place: Place, script: Script, point: Point) -> Outcome:
    """Run the script until it is killed, and start again; the first start may be killed as well."""
    events, code = in_child(lambda tell: act(place, script, point, tell))
    told = Told.of(events)
    # Before a write everything lies as it did after the one before it: there it was tried to kill the start as well,
    # and whether all goes on.
    told.goes_on = point.moment == "after" or not point.number
    wanted = -signal.SIGKILL if point.number else 0
    findings = [*told.findings, *([] if code == wanted else [f"the script ended with {code}"])]
    points = chain([_second(point)] if point.number and told.goes_on else [], repeat(NOWHERE))
    again = restart(place, told, lambda: next(points))
    return Outcome(told.writes, again.starts, again.orphans, findings + again.findings)


def restart(place: Place, told: Told, next_point: Callable[[], Point]) -> Restart:
    """Start again until a start comes through to where everything is looked at."""
    findings: list[str] = []
    for starts in range(1, _MOST_STARTS):
        point = next_point()
        events, code = in_child(lambda tell, point=point: start_again(place, told, point, tell))  # type: ignore[misc]
        found = Told.of(events)
        findings += found.findings
        if found.done:
            return Restart(starts, found.orphans, findings)
        if code != -signal.SIGKILL:
            return Restart(starts, 0, [*findings, f"start {starts} ended with {code}"])
    return Restart(_MOST_STARTS, 0, [*findings, "no start came through"])


def _second(first: Point) -> Point:
    """Return where a start is killed after that: at its first write in half of the cases, at later ones in the rest."""
    number = 1 if first.number % 2 else 2 + first.number // 2 % 8
    return Point(number, first.moment)


def rehearse(place: Place, script: Script) -> list[Event]:
    """Run a script and start again in this process, so that what it forks has done all of it before."""
    events: list[Event] = []
    house = place.open()
    script(Caller(house, events.append))
    house.close()
    start_again(place, Told.of(events), NOWHERE, events.append)
    MovableClock.ahead = timedelta(0)
    return [event for event in events if event["told"] == "finding"]


def act(place: Place, script: Script, point: Point, tell: Tell) -> None:
    """Run a script as a process does that may be killed on its way."""
    tell_signatures(tell)
    Trigger(place.home.path, point, lambda what: tell({"told": "write", "what": what})).install()
    house = place.open()
    house.authority.start()
    script(Caller(house, tell))
    house.close()


def start_again(place: Place, told: Told, point: Point, tell: Tell) -> None:
    """Start on what a dead process left, and look at everything."""
    MovableClock.ahead = told.clock

    def find(check: str, found: Iterable[str]) -> None:
        for text in found:
            tell({"told": "finding", "text": f"{check}: {text}"})

    trigger = Trigger(place.home.path, point, lambda _: None)
    if point.number:
        trigger.install()
    house = place.open()
    find("at rest", ledger_truth.disagreements(house))
    find("told before", ledger_truth.broken_promises(house, told))
    unfinished = house.authority.start()
    trigger.disarm()
    find("started", served_truth.faults_of_trust(house))
    find("leaves", served_truth.faults_of_leaves(house, told))
    find("keys", served_truth.faults_of_keys(house))
    tell({"told": "orphans", "count": served_truth.orphans(house)})
    find("pending", served_truth.faults_of_pending(house, unfinished, told))
    if told.goes_on:
        find("from here on", served_truth.faults_from_here_on(house, told))
        find("at the end", ledger_truth.disagreements(house))
    tell({"told": "done"})
    if not point.number:
        house.close()


def in_child(work: Callable[[Tell], None]) -> tuple[list[Event], int]:
    """Run in a fork, and return what it told and how it ended; a negative code is a signal."""
    pid, reading = forked(work)
    events = read_events(reading)
    return events, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def forked(work: Callable[[Tell], None]) -> tuple[int, int]:
    """Run in a fork; returns its pid and the pipe that it tells to."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        _run_and_exit(work, teller(writing))
    os.close(writing)
    return pid, reading


def _run_and_exit(work: Callable[[Tell], None], tell: Tell) -> None:
    """Run, and end this process without a trace of its parent's."""
    code = 1
    gc.disable()
    try:
        work(tell)
        code = 0
    except BaseException as error:
        tell({"told": "finding", "text": "".join(traceback.format_exception(error))})
    finally:
        sys.stderr.flush()
        os._exit(code)
