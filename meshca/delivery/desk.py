"""The desk that streams come to: opens their views and tells them what has changed. Implements ``xds.source.Source``.

Rules: all of it happens on one event loop; a snapshot is replaced whole, and only the views that it may concern are
told; a caller nobody vouches for is refused, logged, counted and audited.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from meshca.attest.process import AttestationError, Process, require_same
from meshca.attest.selectors import is_slow, selectors
from meshca.delivery.callers import Behind, Caller, Read, behind, recognise, recognise_agent
from meshca.delivery.contexts import Contexts
from meshca.delivery.difference import difference
from meshca.delivery.effects import Connected, Prepared
from meshca.delivery.generated import Generated
from meshca.delivery.leaves import Holder, Leaves
from meshca.delivery.peers import AgentPeer, Peer, actor_of, holder_name
from meshca.delivery.ports import (
    Attestor,
    Clock,
    Followed,
    Issuing,
    Journal,
    Leaf,
    NoTokens,
    TokenIssuing,
    not_waited_for,
)
from meshca.delivery.progress import ACKNOWLEDGED, REJECTED, WAITING
from meshca.delivery.rejections import Rejections
from meshca.delivery.snapshot import Snapshot
from meshca.delivery.workload_state import state_of
from meshca.delivery.workloads import Workloads, WorkloadServices
from meshca.errors import MeshcaError, RefusedError, UnauthenticatedError, UnavailableError
from meshca.spiffe.id import SpiffeId
from meshca.xds.source import NodeInfo

if TYPE_CHECKING:
    from meshca.delivery.view import LiveView

_COUNTING = 0.01
_REPLACED_AT_ONCE = 200


@dataclass(frozen=True, slots=True)
class Census:
    """The Envoys that hold trust of ours."""

    notified: int
    acknowledged: int  # of these: all their contexts carry the generation asked about
    not_drainable: int  # of these: their listeners and clusters are not ours


@dataclass(frozen=True, slots=True)
class EnvoyProgress:
    """How far one Envoy has come with a mesh revision."""

    node_id: str
    spiffe_id: str
    state: str  # waiting | acknowledged | rejected
    message: str = ""  # its own, of a NACK


@dataclass(frozen=True, slots=True)
class Services:
    """What a desk works with."""

    issuing: Issuing
    attestor: Attestor
    journal: Journal
    clock: Clock
    chance: Callable[[], float]
    read: Read = selectors
    tokens: TokenIssuing = field(default_factory=NoTokens)
    followed: Followed = not_waited_for


class Desk:
    """All views, and what they share."""

    def __init__(self, services: Services, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.journal = services.journal
        self.clock = services.clock
        self.leaves = Leaves(services.issuing, services.clock, services.chance)
        self.contexts = Contexts(services.clock, snapshot.trust_domain)
        self.generated = Generated()
        self.rejections = Rejections()
        self._attestor = services.attestor
        self._read = services.read
        self._envoys: dict[tuple[Peer, str], set[LiveView]] = {}
        self.behind: dict[str, set[SpiffeId]] = {}
        """The identities of leaves that agents have asked for, by holder: their keys were never here."""
        self._looked_up: tuple[Snapshot, dict[AgentPeer, Behind]] = (snapshot, {})
        self._draining = False
        self._acknowledged = asyncio.Event()
        self._progressed = asyncio.Event()
        self._replacing: dict[Holder, str] = {}  # whose leaf was revoked, and its serial
        workloads = WorkloadServices(
            services.attestor, self.leaves, services.journal, self._delivered, services.tokens, services.followed
        )
        self.workloads = Workloads(workloads, state_of(snapshot, self._read))

    async def open(self, peer: str, node: NodeInfo, *, dedicated: bool) -> LiveView:
        """Open the view of one stream.

        Raises:
            MeshcaError: It is not served.
        """
        from meshca.delivery.view import LiveView

        if self._draining:
            raise UnavailableError("the server is going down", remedy="connect again in a moment")
        process = self._attestor.lookup(peer)
        if process is None:
            raise UnauthenticatedError("nobody vouches for this connection")
        try:
            if self.is_slow(process):
                await self.look_at(process)
            caller = self.recognise(process, node.id)
        except MeshcaError as error:
            self.journal.refused(f"uid:{process.uid}", "attest", node.id, str(error))
            raise
        view = LiveView(self, caller, node, dedicated=dedicated)
        self._envoys.setdefault(view.envoy, set()).add(view)
        return view

    def open_for(self, agent: AgentPeer, node: NodeInfo, on_close: Callable[[], None]) -> LiveView:
        """Open the view of one of an agent's streams; ``on_close`` is called at its end.

        Raises:
            MeshcaError: It is not served.
        """
        from meshca.delivery.view import LiveView

        if self._draining:
            raise UnavailableError("the server is going down", remedy="connect again in a moment")
        try:
            caller = self.recognise(agent, node.id)
        except MeshcaError as error:
            self.journal.refused(actor_of(agent), "attest", node.id, str(error))
            raise
        view = LiveView(self, caller, node, dedicated=False, on_close=on_close)
        self._envoys.setdefault(view.envoy, set()).add(view)
        return view

    def is_slow(self, peer: Peer) -> bool:
        """Return whether it takes more than a moment to say who somebody is."""
        return isinstance(peer, Process) and is_slow(peer, self.snapshot.registrations_of(""))

    async def look_at(self, process: Peer) -> None:
        """Read what registrations ask of a process, off the event loop; what was read is remembered.

        Raises:
            AttestationError: It is no longer the process that connected.
        """
        if isinstance(process, AgentPeer):
            return
        await asyncio.to_thread(self._read, process, self.snapshot.registrations_of(""))

    def recognise(self, peer: Peer, node_id: str) -> Caller:
        """Say who a process is, or for whom an agent speaks, see ``callers``."""
        if isinstance(peer, AgentPeer):
            return recognise_agent(peer, node_id, self.snapshot, self._behind_agent(peer))
        return recognise(peer, node_id, self.snapshot, self._read)

    def _behind_agent(self, agent: AgentPeer) -> Behind:
        """Return who may be behind an agent, looked up once for all of its streams."""
        if self._looked_up[0] is not self.snapshot:
            self._looked_up = (self.snapshot, {})
        found = self._looked_up[1]
        return found[agent] if agent in found else found.setdefault(agent, behind(agent, self.snapshot))

    async def require_still(self, caller: Caller, node_id: str, spiffe_id: SpiffeId) -> None:
        """Raise unless a caller is still the process that it was, and entitled to this identity; audit if it is not.

        Raises:
            AttestationError: It is not.
        """
        if isinstance(caller.process, AgentPeer):
            return
        try:
            if caller.read_more:
                await self._require_entitled(caller.process, node_id, spiffe_id)
            require_same(caller.process)
        except AttestationError as error:
            self.journal.refused(caller.actor, "attest", node_id, str(error))
            raise

    async def _require_entitled(self, process: Process, node_id: str, spiffe_id: SpiffeId) -> None:
        if self.is_slow(process):
            await self.look_at(process)
        try:
            entitled = self.recognise(process, node_id).entitled
        except RefusedError:
            entitled = frozenset()
        if spiffe_id not in entitled:
            raise AttestationError(f"process {process.pid} no longer has what entitled it to {spiffe_id}")

    def leave(self, view: LiveView) -> None:
        """Forget a view."""
        views = self._envoys.get(view.envoy, set())
        views.discard(view)
        if not views:
            self._envoys.pop(view.envoy, None)
        self.progressed(view)

    def replace(self, snapshot: Snapshot, prepared: Prepared | None = None) -> None:
        """Put a snapshot in force; ``prepared`` is what was generated of it already."""
        old = self.snapshot
        change = difference(old, snapshot)
        self.snapshot = snapshot
        self.replace_tainted()
        self.generated.forget(change.nodes)
        self.generated.adopt(prepared or {})
        wake = change.trust or change.jwt or change.thawed or bool(change.suspended or change.resumed)
        self.workloads.replace(state_of(snapshot, self._read), callers=change.callers, wake=wake)
        for view in self._views():
            view.moved(change, old)

    def revoked(self, serials: Collection[str], *, suspended: bool) -> None:
        """Replace the leaves with these serials, or with ``suspended`` only forget them."""
        self._replacing |= self.leaves.revoked(serials, suspended=suspended)

    async def replaced(self, seconds: float) -> bool:
        """Wait until those whose leaf was revoked have acknowledged another, or so long; say whether all have.

        A CRL that is published after it takes nothing from a holder that answers.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._replacing:
                    self._acknowledged.clear()
                    await self._acknowledged.wait()
        found, self._replacing = not self._replacing, {}
        return found

    def rotate(self, spiffe_id: SpiffeId) -> int:
        """Give every stream of an identity a new leaf; return how many streams that are."""
        self.leaves.rotate(spiffe_id)
        return sum(view.holds(spiffe_id) for view in self._views()) + self.workloads.holding(spiffe_id)

    def replace_tainted(self) -> None:
        """Replace leaves of CAs that are believed stolen, so many at a time; called again until there are none."""
        trust = self.snapshot.trust
        if trust.tainted and trust.signing is not None and trust.signing.id not in trust.tainted:
            self.leaves.replace(trust.tainted, _REPLACED_AT_ONCE)

    def drain(self) -> None:
        """Take no more streams and end those that are open."""
        self._draining = True
        self.workloads.drain()
        for view in self._views():
            view.end(UnavailableError("the server is going down", remedy="connect again in a moment"))

    def in_force(self, told: LiveView) -> None:
        """Note which trust generation an Envoy has acknowledged, on all of its streams that carry trust."""
        caller = told.caller
        # Whoever selects one identity may have asked for another by its name, and holds a leaf of that as well.
        held = {spiffe_id for view in self._envoys[told.envoy] for spiffe_id in view.identities}
        held |= self.behind.get(holder_name(caller.process, told.node_id), set())
        for spiffe_id in held | ({caller.selected} if caller.selected else caller.entitled):
            holder = Holder(caller.process, told.node_id, spiffe_id)
            self.journal.trust_in_force(holder.name, spiffe_id, self._generation_of(told))
        self._acknowledged.set()

    def leaf_in_force(self, told: LiveView, leaf: Leaf) -> None:
        """Note that an Envoy has acknowledged a leaf; one of an identity that is new to it meets trust in force."""
        self._delivered(Holder(told.caller.process, told.node_id, leaf.spiffe_id), leaf, self._generation_of(told))

    def _delivered(self, holder: Holder, leaf: Leaf, generation: int) -> None:
        """Note that a holder has a leaf in force, and all of a trust generation (0: not yet)."""
        if self._replacing.get(holder, leaf.serial) != leaf.serial:
            del self._replacing[holder]
        self._acknowledged.set()
        self.journal.leaf_in_force(holder.name, leaf.spiffe_id, leaf.issuer_id)
        if generation:
            self.journal.trust_in_force(holder.name, leaf.spiffe_id, generation)

    def _generation_of(self, told: LiveView) -> int:
        """Return the trust generation that an Envoy has acknowledged on all of its streams that carry trust."""
        return min((view.in_force for view in self._envoys.get(told.envoy, ()) if view.trusting), default=0)

    def progressed(self, view: LiveView) -> None:
        """Note that a stream has come further with a mesh revision, or will not."""
        if view.progress.revision:
            self._progressed.set()
            self._progressed = asyncio.Event()

    def progress(self, revision: int) -> tuple[dict[tuple[Peer, str], EnvoyProgress], asyncio.Event]:
        """Return how far each Envoy has come with a revision that concerns it, and what tells of the next step."""
        found: dict[tuple[Peer, str], EnvoyProgress] = {}
        for envoy, views in self._envoys.items():
            states = {state: view for view in views if (state := view.progress.state_at(revision))}
            for state in (REJECTED, WAITING, ACKNOWLEDGED):
                if state in states:
                    view = states[state]
                    found[envoy] = EnvoyProgress(view.node_id, view.spiffe_id, state, view.progress.nack)
                    break
        return found, self._progressed

    def connected(self) -> list[Connected]:
        """Return what tells what the Envoys that are connected would be sent."""
        found = []
        for (_, node_id), views in self._envoys.items():
            node = next((view.caller.node for view in views if view.caller.node), None)
            if node is None:
                continue
            placement = next((view.placement for view in views if view.placement), None)
            names = frozenset(name for view in views for name in view.contexts)
            found.append(Connected(node_id, node, placement, names))
        return found

    def census(self, generation: int) -> Census:
        """Count the Envoys that hold trust."""
        notified = reached = strange = 0
        for views in self._envoys.values():
            trusting = [view for view in views if view.trusting]
            if trusting:
                notified += 1
                reached += all(view.in_force >= generation for view in trusting)
                strange += not any(view.owned for view in views)
        workloads, there = self.workloads.reached(generation)  # whose listeners and clusters are never ours
        return Census(notified + workloads, reached + there, strange + workloads)

    async def reached(self, generation: int, seconds: float) -> Census:
        """Wait until every Envoy has acknowledged a generation, or so long; then count."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while True:
            self._acknowledged.clear()
            found = self.census(generation)
            left = deadline - loop.time()
            if found.acknowledged >= found.notified or left <= 0:
                return found
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._acknowledged.wait(), left)
            # Acknowledgements come in bursts; to count after each would cost the square of their number.
            await asyncio.sleep(min(_COUNTING, left))

    def _views(self) -> tuple[LiveView, ...]:
        return tuple(view for views in self._envoys.values() for view in views)
