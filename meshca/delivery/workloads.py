"""The desk that calls of the SPIFFE Workload API come to; shared by server and agent.

Rules kept here (design §7, SPIFFE Workload API):
- The kernel says who calls. Who is entitled to nothing, or to what is suspended alone, is refused and audited.
- What one isn't entitled to any more is absent from the next message; with the last identity the stream ends.
- While issuance is frozen a leaf that there is none of stays away. What cannot be made for any other reason ends the
  stream: absence would mean that it was withdrawn.
- A key is released only after the process has been looked at again.
- A delivery is the acknowledgement, of trust and of leaves; a process has what all of its streams have been given.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from meshca.attest.process import Process, require_same
from meshca.authority import audit
from meshca.authority.freezing import FrozenError
from meshca.delivery.callers import NotEntitledError
from meshca.delivery.leaves import Holder, Leaves
from meshca.delivery.ports import Attestor, Journal, Leaf
from meshca.delivery.workload_state import WorkloadState, X509Anchors
from meshca.errors import MeshcaError, UnauthenticatedError, UnavailableError
from meshca.spiffe.id import SpiffeId

# In the place of a node id: all X.509 streams of a process share one leaf for each identity.
NODE_ID = "workload-api"
_SUBJECT = "workload API"


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


@dataclass(frozen=True, slots=True)
class X509Material:
    """What one caller is to have: leaves by their identity's text, and whom to trust."""

    leaves: tuple[Leaf, ...]
    anchors: X509Anchors

    @property
    def marks(self) -> tuple[object, ...]:
        """Return what differs wherever two messages differ."""
        anchors = self.anchors
        return tuple(leaf.serial for leaf in self.leaves), anchors.bundle, anchors.crls, anchors.federated


class Workloads:
    """All open calls, and what they are served from. Lives on one event loop."""

    def __init__(self, services: WorkloadServices, state: WorkloadState) -> None:
        self.services = services
        self.state = state
        self._open: dict[Process, set[Workload]] = {}
        self._draining = False

    def open(self, peer: str) -> Workload:
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
        workload.require_identities()
        self._open.setdefault(process, set()).add(workload)
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

    def leave(self, workload: Workload) -> None:
        """Forget a call."""
        calls = self._open.get(workload.process, set())
        calls.discard(workload)
        if not calls:
            self._open.pop(workload.process, None)
        for other in self._holding(workload.process)[:1]:  # may have been ahead of the one that has left
            self.tell(other.process, other.given.values())

    def _holding(self, process: Process) -> list[Workload]:
        return [workload for workload in self._open.get(process, ()) if workload.wants_leaves]

    def _all(self) -> tuple[Workload, ...]:
        return tuple(workload for calls in self._open.values() for workload in calls)


@dataclass(slots=True, eq=False)
class Workload:
    """One call of one attested process."""

    _desk: Workloads
    process: Process
    generation: int = 0
    """The trust generation that was delivered last."""
    given: Mapping[SpiffeId, Leaf] = field(default_factory=dict)
    """The leaves that were delivered last."""
    wants_leaves: bool = False
    _entitled: frozenset[SpiffeId] | None = None
    _ended: MeshcaError | None = None
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _holders: set[Holder] = field(default_factory=set)

    @property
    def actor(self) -> str:
        """Return how audit and log call the caller."""
        return f"uid:{self.process.uid}"

    @property
    def state(self) -> WorkloadState:
        """Return what is in force."""
        return self._desk.state

    def require_identities(self) -> tuple[SpiffeId, ...]:
        """Return what the caller may have now, the default first.

        Raises:
            NotEntitledError: Nothing.
        """
        if self._ended:
            raise self._ended
        try:
            return self._identities()
        except MeshcaError as error:
            self._desk.services.journal.refused(self.actor, audit.ATTEST, _SUBJECT, str(error))
            raise

    async def next_change(self) -> None:
        """Wait until what the caller is to have may have changed; changes that come while nobody waits count.

        Raises:
            MeshcaError: The call is over.
        """
        await self._changed.wait()
        self._changed.clear()
        if self._ended:
            raise self._ended

    async def x509(self) -> X509Material:
        """Return the leaves that the caller is to have now, and whom to trust.

        Raises:
            MeshcaError: There is none: it may have none, or none can be made.
        """
        self.wants_leaves = True
        wanted = self.require_identities()
        self._hold(wanted)
        leaves = self._desk.services.leaves
        holders = [Holder(self.process, NODE_ID, spiffe_id) for spiffe_id in wanted]
        found = await asyncio.gather(*(leaves.get(holder) for holder in holders), return_exceptions=True)
        made, why_not = self._made(zip(wanted, found, strict=True))
        allowed = self.require_identities()  # again, for leaves take their time
        require_same(self.process)
        kept = tuple(leaf for leaf in made if leaf.spiffe_id in allowed)
        if not kept:
            raise UnavailableError(f"there is no certificate now: {why_not}", remedy="call again in a moment")
        return X509Material(kept, self.state.anchors)

    def delivered(self, material: X509Material) -> None:
        """Note that the caller has been given this."""
        self.generation = material.anchors.generation
        self.given = {leaf.spiffe_id: leaf for leaf in material.leaves}
        self._desk.tell(self.process, self.given.values())

    def moved(self, *, callers: bool) -> None:
        """Look again."""
        if callers:
            self._entitled = None
        self._changed.set()

    def end(self, error: MeshcaError) -> None:
        """End the call; nothing is given out any more."""
        self._ended = error
        self._changed.set()

    def close(self) -> None:
        """Release what the call held."""
        self._hold(())
        self._desk.leave(self)

    def _identities(self) -> tuple[SpiffeId, ...]:
        if self._entitled is None:
            self._entitled = self.state.identities(self.process)
        served = self._entitled - self.state.suspended
        if not served:
            reason = "the identity is suspended" if self._entitled else "no identity issued"
            raise NotEntitledError(reason, remedy="see meshca registrations and meshca resume")
        return tuple(sorted(served))

    def _made(self, found: Iterable[tuple[SpiffeId, Leaf | BaseException]]) -> tuple[list[Leaf], str]:
        """Return the leaves that there are, and why one is left out; raise what must not look like a withdrawal."""
        made: list[Leaf] = []
        why_not = "it was withdrawn a moment ago"
        for spiffe_id, outcome in found:
            if isinstance(outcome, Leaf):
                made.append(outcome)
            elif isinstance(outcome, FrozenError):
                why_not = str(outcome)
            elif spiffe_id not in self.state.suspended:
                raise outcome
        return made, why_not

    def _hold(self, wanted: tuple[SpiffeId, ...]) -> None:
        """Be told of new leaves of these identities, and of no others."""
        holders = {Holder(self.process, NODE_ID, spiffe_id) for spiffe_id in wanted}
        for holder in holders - self._holders:
            self._desk.services.leaves.attach(holder, self._leaf_changed)
        for holder in self._holders - holders:
            self._desk.services.leaves.detach(holder, self._leaf_changed)
        self._holders = holders

    def _leaf_changed(self) -> None:
        self._changed.set()


def _going() -> UnavailableError:
    return UnavailableError("the server is going down", remedy="connect again in a moment")
