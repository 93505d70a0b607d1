"""What callers were told before a process died: the part of the truth that must survive.

Rule: an event is written to the pipe once its caller has the result in hand, and read after the process is gone.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from meshca.authority.trust import Trust

Event = dict[str, Any]
Tell = Callable[[Event], None]


def teller(descriptor: int) -> Tell:
    """Return what writes events to a pipe, each as one line."""
    one_at_a_time = threading.Lock()

    def tell(event: Event) -> None:
        line = json.dumps(event).encode() + b"\n"
        with one_at_a_time:
            while line:
                line = line[os.write(descriptor, line) :]

    return tell


def read_events(descriptor: int) -> list[Event]:
    """Read until the other end is gone; a line that its writer did not finish was told to nobody."""
    with open(descriptor, "rb") as pipe:
        return [json.loads(line) for line in pipe.read().splitlines(keepends=True) if line.endswith(b"\n")]


def trust_event(trust: Trust) -> Event:
    """Return the trust that somebody was given."""
    crls = {ca_id: [crl.number, crl.der.hex()] for ca_id, crl in trust.crls.items()}
    return {"told": "trust", "generation": trust.generation, "crls": crls}


@dataclass
class Told:
    """All that was told, folded. ``doing`` is what was under way when the process died: it may be done or not."""

    issued: dict[str, str] = field(default_factory=dict)  # serial → certificate, hex
    signed: set[str] = field(default_factory=set)
    revoked: set[str] = field(default_factory=set)
    suspended: dict[str, bool] = field(default_factory=dict)
    frozen: bool = False
    trusts: list[Event] = field(default_factory=list)
    successors: set[str] = field(default_factory=set)
    tainted: set[str] = field(default_factory=set)
    archived: int = 0
    checkpoint: int = 0
    registered: dict[str, str] = field(default_factory=dict)  # id → SPIFFE ID
    revision: int = 0
    clock: timedelta = timedelta(0)
    doing: list[Event] = field(default_factory=list)
    writes: list[str] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)
    orphans: int = 0
    done: bool = False
    is_all: bool = True  # nobody else was told anything
    goes_on: bool = True  # whoever starts again tries everything once more

    @classmethod
    def of(cls, events: Iterable[Event]) -> Told:
        """Fold events in their order."""
        found = cls()
        for event in events:
            found.add(event)
        return found

    def add(self, event: Event) -> None:
        """Add one event."""
        _FOLD[event["told"]](self, event)

    def is_doing(self, *what: str) -> bool:
        """Whether one of these was under way."""
        return any(event["what"] in what for event in self.doing)


def _begin(told: Told, event: Event) -> None:
    told.doing.append(event)


def _end(told: Told, event: Event) -> None:
    told.doing = [one for one in told.doing if (one["what"], one["by"]) != (event["what"], event["by"])]


def _set(name: str, key: str) -> Callable[[Told, Event], None]:
    return lambda told, event: setattr(told, name, event[key])


_FOLD: dict[str, Callable[[Told, Event], None]] = {
    "begin": _begin,
    "end": _end,
    "issued": lambda told, event: told.issued.update({event["serial"]: event["certificate"]}),
    "signed": lambda told, event: told.signed.add(event["serial"]),
    "revoked": lambda told, event: told.revoked.update(event["serials"]),
    "suspended": lambda told, event: told.suspended.update({event["id"]: event["is"]}),
    "frozen": _set("frozen", "is"),
    "trust": lambda told, event: told.trusts.append(event),
    "successor": lambda told, event: told.successors.add(event["id"]),
    "tainted": lambda told, event: told.tainted.update(event["ids"]),
    "archived": lambda told, event: setattr(told, "archived", told.archived + event["count"]),
    "checkpoint": _set("checkpoint", "seq"),
    "registered": lambda told, event: told.registered.update({event["id"]: event["spiffe_id"]}),
    "revision": _set("revision", "number"),
    "clock": lambda told, event: setattr(told, "clock", timedelta(seconds=event["seconds"])),
    "write": lambda told, event: told.writes.append(event["what"]),
    "finding": lambda told, event: told.findings.append(event["text"]),
    "orphans": _set("orphans", "count"),
    "done": lambda told, _: setattr(told, "done", True),
}
