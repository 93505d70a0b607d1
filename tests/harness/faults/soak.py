"""Many callers at once, killed again and again on one home: what nobody thought of as a script."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Callable

from harness.faults.acts import Caller
from harness.faults.cases import Outcome, act, in_child, restart
from harness.faults.kill import MOMENTS, Point
from harness.faults.places import Place
from harness.faults.told import Event, Told

from meshca.authority.records import ISSUING, ROOT
from meshca.errors import MeshcaError

_ROUNDS = 12
_CALLERS = 4
_ACTS = 12
_NAMES = ("web", "api", "db")
# What stays true over a death; what is switched to and fro is looked up in each round anew.
_LASTING = ("issued", "signed", "revoked", "trust", "successor", "tainted", "checkpoint")


def run_soak(place: Place, seed: int) -> Outcome:
    """Kill at chosen-by-lot writes, and start again, some rounds long."""
    lot = random.Random(seed)
    lasting: list[Event] = []
    findings: list[str] = []
    writes, starts, orphans = 0, 0, 0
    for turn in range(_ROUNDS):
        point, script = Point(lot.randrange(1, 50), lot.choice(MOMENTS)), _script(lot.randrange(1 << 30))
        events, _ = in_child(lambda tell, point=point, script=script: act(place, script, point, tell))  # type: ignore[misc]
        told = Told.of([*lasting, *events])
        told.is_all = turn == 0
        again = restart(place, told, lambda: Point(lot.randrange(1, 20), lot.choice(MOMENTS)))
        findings += [f"turn {turn}, {point}: {text}" for text in [*told.findings, *again.findings]]
        writes, starts, orphans = writes + len(told.writes), starts + again.starts, again.orphans
        lasting += [event for event in events if event["told"] in _LASTING]
    return Outcome(["some"] * writes, starts, orphans, findings)


def _script(seed: int) -> Callable[[Caller], None]:
    def work(caller: Caller) -> None:
        lots = [random.Random(seed + number) for number in range(_CALLERS)]
        threads = [threading.Thread(target=_issue_and_revoke, args=(caller, lot)) for lot in lots[1:]]
        threads.append(threading.Thread(target=_govern, args=(caller, lots[0])))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    return work


def _issue_and_revoke(caller: Caller, lot: random.Random) -> None:
    held: list[str] = []
    for _ in range(_ACTS):
        with contextlib.suppress(MeshcaError):
            if held and lot.random() < 1 / 3:
                caller.revoke(held.pop(lot.randrange(len(held))))
            else:
                held += caller.issue(*lot.choices(_NAMES, k=lot.randrange(1, 5)))


def _govern(caller: Caller, lot: random.Random) -> None:
    """Do what would contradict itself if two did it at once."""
    acts: tuple[Callable[[], None], ...] = (
        lambda: caller.suspend(lot.choice(_NAMES)),
        lambda: caller.resume(lot.choice(_NAMES)),
        caller.freeze,
        caller.unfreeze,
        caller.publish,
        caller.checkpoint,
        lambda: caller.rotate(ISSUING),
        lambda: caller.rotate(ROOT),
        lambda: caller.taint(ISSUING),
    )
    for _ in range(_ACTS):
        with contextlib.suppress(MeshcaError):
            lot.choice(acts)()
