"""The desk of an agent: opens local streams, and tells them what the server has changed.

Implements ``xds.source.Source``.

Rules kept here:
- What the server has said last is in force, whether it is there or not.
- Streams of one ``node.id`` and placement share one upstream; one that nobody has used for an hour is closed.
- A revoked leaf is forgotten at once, and whoever is entitled gets a new one for a new key.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from meshca.agent.holdings import NOBODY, Rights, rights_of
from meshca.agent.journal import AgentJournal
from meshca.agent.upstream import Upstream
from meshca.agent.view import LocalView
from meshca.attest.selectors import selectors
from meshca.client.agent import Holdings
from meshca.client.delta import DeltaStream
from meshca.delivery.callers import Read
from meshca.delivery.leaves import Leaves
from meshca.delivery.ports import Attestor, Clock, Issuing, TokenIssuing
from meshca.delivery.rejections import Rejections
from meshca.delivery.workload_state import JwtAnchors, WorkloadState, X509Anchors, ders
from meshca.delivery.workloads import Workloads, WorkloadServices
from meshca.envoy.placement import METADATA_KEY
from meshca.errors import MeshcaError, UnauthenticatedError, UnavailableError
from meshca.spiffe.id import SpiffeId, TrustDomain
from meshca.xds.source import NodeInfo

_IDLE = 3600.0
_REPLACED_AT_ONCE = 200

OpenStream = Callable[[str, Mapping[str, object]], DeltaStream]


@dataclass(frozen=True, slots=True)
class Services:
    """What a desk works with."""

    issuing: Issuing
    attestor: Attestor
    journal: AgentJournal
    clock: Clock
    chance: Callable[[], float]
    open_stream: OpenStream
    tokens: TokenIssuing
    read: Read = selectors


class AgentDesk:
    """All local streams, and what they share. Lives on one event loop."""

    def __init__(self, services: Services) -> None:
        self.journal = services.journal
        self.clock = services.clock
        self.leaves = Leaves(services.issuing, services.clock, services.chance)
        self.rejections = Rejections()
        self._read = services.read
        self.rights: Rights = rights_of(NOBODY, self._read)
        self.holdings = NOBODY
        self._attestor = services.attestor
        self._open_stream = services.open_stream
        self._upstreams: dict[tuple[str, str], Upstream] = {}
        self._views: set[LocalView] = set()
        self._draining = False
        self._closing: list[Callable[[], Awaitable[object]]] = []
        workloads = WorkloadServices(
            services.attestor,
            self.leaves,
            services.journal,
            services.journal.has_leaf,
            tokens=services.tokens,
            followed=services.journal.follows,
        )
        self.workloads = Workloads(workloads, self._workload_state())

    @property
    def frozen(self) -> bool:
        """Whether the server issues nothing to anybody now."""
        return self.holdings.frozen

    def __len__(self) -> int:
        return len(self._views)

    async def open(self, peer: str, node: NodeInfo, *, dedicated: bool) -> LocalView:
        """Open the view of one local stream.

        Raises:
            MeshcaError: It is not served.
        """
        if self._draining:
            raise UnavailableError("the agent is going down", remedy="connect again in a moment")
        if not self.holdings.generation:
            raise UnavailableError("the agent has not reached its server yet", remedy="connect again in a moment")
        process = self._attestor.lookup(peer)
        if process is None:
            raise UnauthenticatedError("nobody vouches for this connection")
        try:
            if self.rights.is_slow(process):
                await asyncio.to_thread(self.rights.identities, process)
            guest = self.rights.recognise(process, node.id)
        except MeshcaError as error:
            self.journal.refused(f"uid:{process.uid}", "attest", node.id, str(error))
            raise
        upstream = self._upstream(guest.selected or min(guest.entitled), node)
        view = LocalView(self, guest, node, upstream, dedicated=dedicated)
        self._views.add(view)
        return view

    def leave(self, view: LocalView) -> None:
        """Forget a view."""
        self._views.discard(view)

    def apply(self, holdings: Holdings) -> None:
        """Put in force what the server says.

        Raises:
            MeshcaError: It is not to be understood; what was before stays.
        """
        rights, before = rights_of(holdings, self._read), self.holdings
        self.rights, self.holdings = rights, holdings
        fresh = holdings.revoked - before.revoked
        # Forgotten, not replaced: who is entitled asks again at once, who is suspended gets none.
        self.leaves.revoked(fresh, suspended=True)
        for spiffe_id, number in holdings.rotations.items():
            if number > before.rotations.get(spiffe_id, 0) and before.generation:
                self.leaves.rotate(SpiffeId.parse(spiffe_id))
        self.replace_tainted()
        callers = (holdings.holdings, holdings.trust_domain) != (before.holdings, before.trust_domain)
        wake = bool(fresh) or (holdings.suspended, holdings.frozen) != (before.suspended, before.frozen)
        trust = _anchors(holdings) != _anchors(before)
        self.workloads.replace(self._workload_state(), callers=callers, wake=wake or trust)
        for view in tuple(self._views) if callers or wake else ():
            view.moved(wake=wake)

    def replace_tainted(self) -> None:
        """Replace leaves of CAs that are believed stolen, so many at a time; called again until there are none."""
        if self.holdings.tainted:
            self.leaves.replace(self.holdings.tainted, _REPLACED_AT_ONCE)

    async def tick(self) -> None:
        """Do what is due by time."""
        self.leaves.tick()
        self.replace_tainted()
        now = asyncio.get_running_loop().time()
        for key, upstream in tuple(self._upstreams.items()):
            if upstream.idle_since is not None and now - upstream.idle_since > _IDLE:
                del self._upstreams[key]
                await upstream.close()

    def drain(self) -> None:
        """Take no more streams and end those that are open."""
        self._draining = True
        self.workloads.drain()
        for view in tuple(self._views):
            view.end(UnavailableError("the agent is going down", remedy="connect again in a moment"))

    def lasts_until(self) -> datetime | None:
        """Return when the first of the certificates given out ends; None: there are none."""
        return min(self.leaves.ends(), default=None)

    def on_close(self, work: Callable[[], Awaitable[object]]) -> None:
        """Do this at the end, before anything else is closed."""
        self._closing.append(work)

    async def close(self) -> None:
        """End everything."""
        for work in self._closing:
            await work()
        await asyncio.gather(*(upstream.close() for upstream in self._upstreams.values()))
        await self.leaves.close()

    def _upstream(self, spiffe_id: SpiffeId, node: NodeInfo) -> Upstream:
        node_id = node.id or self.rights.nodes[spiffe_id]
        told = {METADATA_KEY: node.metadata[METADATA_KEY]} if METADATA_KEY in node.metadata else {}
        if self.rights.recognises(node_id) != spiffe_id:
            node_id = self.rights.nodes[spiffe_id]  # a name of the Envoy's own: the server needs ours
        key = (node_id, json.dumps(told, sort_keys=True))
        if key not in self._upstreams:
            self._upstreams[key] = Upstream(node_id, partial(self._open_stream, node_id, told))
        return self._upstreams[key]

    def _workload_state(self) -> WorkloadState:
        holdings = self.holdings
        theirs = {TrustDomain(name): found for name, found in holdings.federated.items()}
        federated = {trust_domain: found.roots for trust_domain, found in theirs.items()}
        anchors = X509Anchors(holdings.generation, b"".join(ders(holdings.bundle)), ders(holdings.crl), federated)
        rights, jwt = self.rights, {trust_domain: found.jwt_keys for trust_domain, found in theirs.items()}
        if holdings.jwt_bundle:
            jwt[rights.trust_domain] = holdings.jwt_bundle
        return WorkloadState(
            rights.trust_domain,
            rights.identities,
            rights.suspended,
            anchors,
            JwtAnchors(holdings.jwt_generation, jwt),
            rights.federating,
        )


def _anchors(holdings: Holdings) -> tuple[object, ...]:
    own = holdings.generation, holdings.bundle, holdings.crl, holdings.jwt_generation, holdings.jwt_bundle
    return *own, holdings.federated
