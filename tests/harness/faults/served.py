"""One case of a whole server: killed while its clients work, and started again under them."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import BinaryIO

from harness.faults.cases import Outcome, forked, in_child, start_again
from harness.faults.clients import Clients
from harness.faults.kill import NOWHERE, Point, Trigger
from harness.faults.places import PASSPHRASE, Place
from harness.faults.told import Event, Tell, Told

from meshca.server.run import serve


@dataclass
class Child:
    """A process of this case, and what it tells."""

    pid: int
    pipe: BinaryIO
    events: list[Event] = field(default_factory=list)

    @classmethod
    def start(cls, work: Callable[[Tell], None]) -> Child:
        """Fork."""
        pid, reading = forked(work)
        return cls(pid, open(reading, "rb"))  # noqa: SIM115: closed at its end

    def until(self, told: str) -> bool:
        """Read until this is told; False where the process is gone before."""
        while line := self.pipe.readline():
            self.events.append(json.loads(line))
            if self.events[-1]["told"] == told:
                return True
        return False

    def end(self, how: signal.Signals) -> int:
        """Send a signal, read what is left, and return how it ended."""
        os.kill(self.pid, how)
        self.until("")
        self.pipe.close()
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def server(place: Place, point: Point) -> Child:
    """Start a server, and return once it answers, or has died."""

    def work(tell: Tell) -> None:
        Trigger(place.home.path, point, lambda what: tell({"told": "write", "what": what})).install()
        serve(place.home, place.config, PASSPHRASE, lambda _: tell({"told": "ready"}))

    child = Child.start(work)
    child.until("ready")
    return child


def tell_imports(place: Place, tell: Tell) -> None:
    """Run a server until it is ready, and tell what has been imported by then."""

    def ready(_: object) -> None:
        tell({"told": "imports", "modules": sorted(sys.modules)})
        os.kill(os.getpid(), signal.SIGTERM)

    serve(place.home, place.config, PASSPHRASE, ready)


def run_served_case(place: Place, point: Point) -> Outcome:
    """Let clients work until the server is killed; start it again, and ask them and the ledger."""
    first = server(place, point)
    back, give_back = os.pipe()

    def work(tell: Tell) -> None:
        os.close(give_back)
        Clients(place, tell, lambda: bool(os.read(back, 1)), Told()).run()
        tell({"told": "done"})

    clients = Child.start(work)
    os.close(back)
    clients.until("gone")
    first.end(signal.SIGKILL)
    second = server(place, NOWHERE)
    os.write(give_back, b"!")
    os.close(give_back)
    clients.until("done")
    ends = {"clients": clients.end(signal.SIGCONT), "server": second.end(signal.SIGTERM)}
    findings = [f"{what} ended with {how}" for what, how in ends.items() if how]
    told = Told.of(event for event in clients.events if event["told"] != "gone")
    told.is_all = False  # a leaf may have been on its way to the SDS client
    events, code = in_child(lambda tell: start_again(place, told, NOWHERE, tell))
    last = Told.of(events)
    findings += told.findings + last.findings + ([] if last.done else [f"the last start ended with {code}"])
    writes = [event["what"] for event in first.events if event["told"] == "write"]
    return Outcome(writes, 1, last.orphans, findings)
