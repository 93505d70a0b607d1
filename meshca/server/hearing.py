"""Puts in force here what other replicas have changed, as soon as it has committed.

Rules:
- A thread of its own waits for the database (store/listening.py); nothing is asked for a stream or an agent. A burst is
  read as one, each kind of thing once.
- What is denied comes first: suspensions and revocations, then trust, then the rest; a mesh, the largest, comes last.
- A number counts as heard once all before it is in force, so what fails is tried again; a log that has forgotten what
  we have not heard yet makes us read everything.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import structlog

from meshca.authority.events import LeafRevoked
from meshca.errors import MeshcaError
from meshca.server.house import House
from meshca.server.state import State
from meshca.spiffe.id import SpiffeId
from meshca.store import changes
from meshca.store.changes import Change, ChangeLog, Revocations

_log = structlog.get_logger(__name__)

_IDLE = 10.0  # after which we look without having been woken
_AGAIN = 1.0


@dataclass(frozen=True, slots=True)
class Ears:
    """What a replica does about what it hears; called in the thread that listens."""

    house: House
    state: State
    rotate: Callable[[SpiffeId], None]
    reject: Callable[[str, str, str], None]  # node, type, digest of what it has refused

    def everything(self) -> None:
        """Read all that another replica may have changed."""
        self.state.read_suspensions()
        self.house.authority.follow()
        self.house.authority.jwt_keys.refresh()
        self.state.read_registrations()
        self.state.read_endpoints()
        self.state.read_federations()
        self.state.read_mesh()

    def hear(self, told: Sequence[Change]) -> None:
        """Put in force what was told."""
        topics = {change.topic for change in told}
        self._revocations([Revocations.of(change) for change in told if change.topic == changes.REVOKED])
        if topics & {changes.SUSPENSIONS, changes.FREEZE, changes.EPOCHS}:
            self.state.read_suspensions()
        if changes.TRUST in topics:
            self.house.authority.follow()
        if changes.JWT in topics:
            self.house.authority.jwt_keys.refresh()
        self._inputs(topics)
        for change in told:
            if change.topic == changes.ROTATE:
                self.rotate(SpiffeId.parse(change.subject))
            elif change.topic == changes.REJECTED:
                self.reject(*json.loads(change.subject))

    def _revocations(self, told: Sequence[Revocations]) -> None:
        for one in told:
            self.state.happened(LeafRevoked(one.serials, one.spiffe_id, one.suspended))

    def _inputs(self, topics: Collection[str]) -> None:
        if changes.REGISTRATIONS in topics:
            self.state.read_registrations()
        if changes.ENDPOINTS in topics:
            self.state.read_endpoints()
        if changes.FEDERATIONS in topics:
            self.state.read_federations()
        if changes.MESH in topics:
            self.state.read_mesh()


class Hearing:
    """The thread that listens."""

    def __init__(self, ears: Ears, heard: int) -> None:
        """``heard`` is the last change whose effect is in what the server started with."""
        self._ears = ears
        self._store = ears.house.store
        self._log = ChangeLog(self._store)
        self._heard = heard
        self._stopping = threading.Event()
        self._wake: Callable[[], None] = lambda: None
        self._thread = threading.Thread(target=self._work, name="meshca-hearing", daemon=True)

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()

    def stop(self) -> None:
        """Listen no more."""
        self._stopping.set()
        self._wake()
        self._thread.join()

    def _work(self) -> None:
        last = ""
        while not self._stopping.is_set():
            try:
                self._listen()
            except MeshcaError as error:
                if str(error) != last:
                    last = str(error)
                    _log.warning("other replicas are not heard", reason=last)
            except Exception:  # whatever it was, it must not make us deaf
                _log.exception("other replicas are not heard")
            self._stopping.wait(_AGAIN)

    def _listen(self) -> None:
        listener = self._store.listen()
        self._wake = listener.wake
        try:
            self._catch_up()  # what came while nobody listened
            while not self._stopping.is_set():
                listener.wait(_IDLE)
                self._catch_up()
        finally:
            self._wake = lambda: None
            listener.close()

    def _catch_up(self) -> None:
        news = self._log.since(self._heard)
        if not news.whole:
            self._ears.everything()
        if news.changes:
            self._ears.hear(news.changes)
        self._heard = news.newest
