"""The desk that calls of the SPIFFE Workload API come to; shared by server and agent.

Rules kept here (design §7, SPIFFE Workload API):
- The kernel says who calls. Who is entitled to nothing, or to what is suspended alone, is refused and audited.
- A delivery is the acknowledgement, of trust and of leaves; a process has what all of its streams have been given.
- Who follows the JWT bundle counts for an hour after it was last seen to, and for the time in which a bundle is to be
  fetched again once its stream has ended; a process that has ended counts no more.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Protocol

from meshca.attest.process import Process, require_same
from meshca.authority.jwt_keys import REFRESHED
from meshca.delivery.leaves import Holder, Leaves
from meshca.delivery.ports import Attestor, Clock, Followed, Journal, Leaf, NoTokens, TokenIssuing, not_waited_for
from meshca.delivery.workload_call import NODE_ID, Workload
from meshca.delivery.workload_state import WorkloadState
from meshca.errors import MeshcaError, UnauthenticatedError, UnavailableError
from meshca.spiffe.id import SpiffeId

__all__ = ("NODE_ID", "Told", "WorkloadServices", "Workloads")

_FOLLOWS, _FETCHED_AGAIN = timedelta(hours=1), REFRESHED


class Told(Protocol):
    """Who wants to know what has been delivered."""

    def __call__(self, holder: Holder, leaf: Leaf, generation: int, /) -> None:
        """Note that a holder has this leaf, and the trust of this generation (0: not on all of its streams yet)."""


@dataclass(frozen=True, slots=True)
class WorkloadServices:
    """What the desk works with."""

    attestor: Attestor
    leaves: Leaves
    journal: Journal
    told: Told
    tokens: TokenIssuing = field(default_factory=NoTokens)
    followed: Followed = not_waited_for

    @property
    def clock(self) -> Clock:
        """Return where the time comes from."""
        return self.leaves.clock


class Workloads:
    """All open calls, and what they are served from. Lives on one event loop."""

    def __init__(self, services: WorkloadServices, state: WorkloadState) -> None:
        self.services = services
        self.state = state
        self._open: dict[Process, set[Workload]] = {}
        self._draining = False

    async def open(self, peer: str) -> Workload:
        """Open a call.

        Raises:
            MeshcaError: It is not served.
        """
        if self._draining:
            raise _going()
        process = self.services.attestor.lookup(peer)
        if process is None:
            raise UnauthenticatedError("nobody vouches for this connection")
        workload = Workload(self, process)
        self._open.setdefault(process, set()).add(workload)  # first, so that it hears of what moves meanwhile
        try:
            await workload.require_identities()
        except BaseException:
            workload.close()
            raise
        return workload

    def replace(self, state: WorkloadState, *, callers: bool, wake: bool = True) -> None:
        """Put a state in force; ``callers``: who is entitled to what may differ; ``wake``: what is sent may."""
        self.state = state
        if callers or wake:
            for workload in self._all():
                workload.moved(callers=callers)

    def drain(self) -> None:
        """Take no more calls and end those that are open."""
        self._draining = True
        for workload in self._all():
            workload.end(_going())

    def holding(self, spiffe_id: SpiffeId) -> int:
        """Return how many streams have been given a leaf of this identity."""
        return sum(spiffe_id in workload.given for workload in self._all())

    def reached(self, generation: int) -> tuple[int, int]:
        """Return how many processes hold leaves by this API, and how many of them have this trust generation."""
        trusting = [found for process in self._open if (found := self._holding(process))]
        return len(trusting), sum(all(one.generation >= generation for one in streams) for streams in trusting)

    def tell(self, process: Process, leaves: Iterable[Leaf]) -> None:
        """Tell which leaves a process has been given, and which trust generation on all streams that hold leaves."""
        generation = min((workload.generation for workload in self._holding(process)), default=0)
        for leaf in leaves:
            self.services.told(Holder(process, NODE_ID, leaf.spiffe_id), leaf, generation)

    def tick(self) -> None:
        """Say again of those who follow the JWT bundle that they do, before it is forgotten."""
        soon = self.services.clock.now() + _FOLLOWS / 2
        for process in self._open:
            if any(workload.jwt_until < soon for workload in self._following(process)):
                self.tell_jwt(process)

    def tell_jwt(self, process: Process) -> None:
        """Tell which generation of the JWT bundle all streams of a process that follow it have been given."""
        following, until = self._following(process), self.services.clock.now() + _FOLLOWS
        if not following or not (generation := min(workload.jwt_generation for workload in following)):
            return
        for workload in following:
            workload.jwt_until = until
        self.services.followed(_name(process), following[0].default, generation, until)

    def _stopped_following(self, workload: Workload) -> None:
        """Let the time run out of a process that follows the JWT bundle no more; none is left to one that has ended."""
        until = now = self.services.clock.now()
        with contextlib.suppress(MeshcaError):
            require_same(workload.process)
            until = now + _FETCHED_AGAIN
        self.services.followed(_name(workload.process), workload.default, workload.jwt_generation, until)

    def leave(self, workload: Workload) -> None:
        """Forget a call."""
        calls = self._open.get(workload.process, set())
        calls.discard(workload)
        if not calls:
            self._open.pop(workload.process, None)
        if workload.follows_jwt and self._following(workload.process):
            self.tell_jwt(workload.process)
        elif workload.follows_jwt and workload.jwt_generation:
            self._stopped_following(workload)
        for other in self._holding(workload.process)[:1]:  # may have been ahead of the one that has left
            self.tell(other.process, other.given.values())

    def _holding(self, process: Process) -> list[Workload]:
        return [workload for workload in self._open.get(process, ()) if workload.wants_leaves]

    def _following(self, process: Process) -> list[Workload]:
        return [workload for workload in self._open.get(process, ()) if workload.follows_jwt]

    def _all(self) -> tuple[Workload, ...]:
        return tuple(workload for calls in self._open.values() for workload in calls)


def _name(process: Process) -> str:
    return f"jwt:{process.pid}:{process.start_time}"


def _going() -> UnavailableError:
    return UnavailableError("the server is going down", remedy="connect again in a moment")
