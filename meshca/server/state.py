"""The one current snapshot, and the only places where it is replaced.

Rules kept here:
- It lives on the event loop and is replaced whole. What happens in other threads is read there, after its commit, and
  handed over in the order in which it was read.
- An apply holds a lock from reading the current state to putting the next one in force; the store's revision catches
  another process.
- What connected Envoys are to have is generated and checked for consistency before a change is stored.
- A suspension is in force with its event; a revoked certificate's connections are ended with the CRL that lists it,
  not before, for its holder would be let in again.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import structlog
from sqlalchemy import select

from meshca.authority.events import Event, JwtTrustChanged, LeafRevoked, Resumed, TrustAlarm, TrustChanged
from meshca.authority.jwt_trust import JwtTrust
from meshca.authority.trust import Trust
from meshca.delivery.desk import Desk
from meshca.delivery.effects import Connected, Effect, Prepared, effects, prepared
from meshca.delivery.snapshot import MeshState, Snapshot
from meshca.errors import MeshcaError
from meshca.server.federations import bundles_of
from meshca.server.house import House
from meshca.server.meshes import Proposal, change_of, load, with_endpoints, would_be
from meshca.server.metrics import Metrics
from meshca.spiffe.id import SpiffeId
from meshca.store.schema import NACKS

_REMEMBERED = 10_000
_ATTEMPTS = 5

_log = structlog.get_logger(__name__)


def first_snapshot(house: House) -> Snapshot:
    """Read the snapshot that the store holds."""
    trust_domain = house.authority.realm.trust_domain
    return Snapshot(
        trust_domain=trust_domain,
        mesh=load(house.meshes.load(), trust_domain),
        trust=house.authority.trust,
        registrations=tuple(house.registrations.list()),
        suspended=house.authority.suspended(),
        epochs=MappingProxyType(house.epochs.load()),
        endpoints=MappingProxyType({**house.endpoints.load()}),
        federated=bundles_of(house.federations.list()),
        jwt=house.authority.jwt_keys.trust,
        frozen=house.authority.freezing.frozen(),
    )


def remember_rejections(house: House, desk: Desk) -> None:
    """Tell the desk what Envoys have rejected under an earlier process: it is still in their memory."""
    newest = select(NACKS.c.node, NACKS.c.type_url, NACKS.c.content_hash).order_by(NACKS.c.at.desc())
    with house.store.read() as connection:
        rows = connection.execute(newest.limit(_REMEMBERED)).all()
    for row in reversed(rows):
        desk.rejections.add(row.node, row.type_url, [row.content_hash])


@dataclass(frozen=True, slots=True)
class _Stored:
    """A change that has been stored, and what was generated to judge it."""

    proposal: Proposal
    candidate: Snapshot
    epochs: Mapping[str, int]
    prepared: Prepared


class State:
    """Keeps the desk's snapshot true."""

    def __init__(self, house: House, desk: Desk, metrics: Metrics) -> None:
        self._house = house
        self._desk = desk
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        self._in_order = threading.Lock()
        self._applying = asyncio.Lock()
        self._trust_told: set[Callable[[], None]] = set()
        self._revoked_told: set[Callable[[frozenset[str]], None]] = set()
        house.authority.subscribe(self._happened)
        self._show()

    @property
    def snapshot(self) -> Snapshot:
        """Return the snapshot in force."""
        return self._desk.snapshot

    def watch(self, told: Callable[[], None]) -> Callable[[], None]:
        """Call ``told`` after each change of trust or suspensions; returns how to stop."""
        self._trust_told.add(told)
        return lambda: self._trust_told.discard(told)

    def watch_revoked(self, told: Callable[[frozenset[str]], None]) -> None:
        """Call ``told`` with the serials of what is revoked, from now on."""
        self._revoked_told.add(told)

    async def propose(self, judge: Callable[[MeshState], Proposal]) -> tuple[Proposal, tuple[Effect, ...]]:
        """Judge a change without making it; return as well what it would send.

        Raises:
            MeshcaError: It would be refused.
        """
        snapshot, connected = self.snapshot, self._desk.connected()

        def work() -> tuple[Proposal, tuple[Effect, ...]]:
            proposal = judge(snapshot.mesh)
            if proposal.is_empty:
                return proposal, ()
            candidate = would_be(snapshot, proposal)
            prepared(snapshot, candidate, connected)
            return proposal, effects(snapshot, candidate, connected)

        return await asyncio.to_thread(work)

    async def apply(self, judge: Callable[[MeshState], Proposal], action: str, actor: str) -> Proposal:
        """Judge a change, store it, and put it in force; one that changes nothing is not stored.

        Raises:
            MeshcaError: It was refused or could not be stored; nothing was changed.
        """
        async with self._applying:
            before, stored = await self._judged_and_stored(judge, action, actor)
            if stored.proposal.is_empty or stored.proposal.state.revision <= self.snapshot.mesh.revision:
                return stored.proposal  # nothing to do, or another replica has gone on from there already
            now = replace(self.snapshot, mesh=stored.proposal.state, epochs=self._merged(stored.epochs))
            # What else has changed while it was stored makes what was generated for it worthless.
            same = self.snapshot is before and now.epochs == stored.candidate.epochs
            self._put(now, stored.prepared if same else None)
        return stored.proposal

    async def _judged_and_stored(
        self, judge: Callable[[MeshState], Proposal], action: str, actor: str
    ) -> tuple[Snapshot, _Stored]:
        """Judge and store a change; where it fails and another replica has stored one meanwhile, on top of that."""
        left = _ATTEMPTS
        while True:
            before, connected, left = self.snapshot, self._desk.connected(), left - 1
            try:
                return before, await asyncio.to_thread(self._store, judge, action, actor, (before, connected))
            except MeshcaError:
                await asyncio.to_thread(self.read_mesh)
                if not left or self.snapshot.mesh.revision == before.mesh.revision:
                    raise

    async def endpoints_changed(self) -> None:
        """Read the endpoints again."""
        await asyncio.to_thread(self.read_endpoints)

    async def registered(self) -> None:
        """Read the registrations again."""
        await asyncio.to_thread(self.read_registrations)

    async def federated(self) -> None:
        """Read the bundles of federated trust domains again."""
        await asyncio.to_thread(self.read_federations)

    async def refresh(self) -> None:
        """Read again what another process, or a store that did not answer, may have kept from us."""
        await asyncio.to_thread(self.read_registrations)
        await asyncio.to_thread(self.read_suspensions)
        await asyncio.to_thread(self.read_endpoints)
        await asyncio.to_thread(self.read_federations)
        await asyncio.to_thread(self.read_mesh)

    def _store(
        self,
        judge: Callable[[MeshState], Proposal],
        action: str,
        actor: str,
        at: tuple[Snapshot, Sequence[Connected]],
    ) -> _Stored:
        snapshot, connected = at
        proposal = judge(snapshot.mesh)
        if proposal.is_empty:
            return _Stored(proposal, snapshot, {}, {})
        candidate = would_be(snapshot, proposal)
        generated = prepared(snapshot, candidate, connected)
        revision = self._house.meshes.apply(change_of(proposal, action, actor, self._house.clock.now()))
        state = replace(proposal.state, revision=revision)
        return _Stored(replace(proposal, state=state), candidate, self._house.epochs.load(), generated)

    # ---- what other replicas may have changed, in whatever thread

    def read_endpoints(self) -> None:
        """Put in force what endpoints there are."""
        with self._in_order:
            found = self._house.endpoints.load()
            self._post(lambda: self._put_if_new(with_endpoints(self.snapshot, found)))

    def read_federations(self) -> None:
        """Put in force what bundles there are, and the drain epochs that were raised with them."""
        with self._in_order:
            found, epochs = bundles_of(self._house.federations.list()), self._house.epochs.load()
            self._post(lambda: self._put_if_new(replace(self.snapshot, federated=found, epochs=self._merged(epochs))))

    def read_registrations(self) -> None:
        """Put in force what registrations there are."""
        with self._in_order:
            found = tuple(self._house.registrations.list())
            self._post(lambda: self._put_if_new(replace(self.snapshot, registrations=found)))

    def read_mesh(self) -> None:
        """Put in force what meshes there are, if they aren't ours."""
        if self._house.meshes.revision() == self.snapshot.mesh.revision:
            return
        found = load(self._house.meshes.load(), self.snapshot.trust_domain)
        epochs = self._house.epochs.load()
        self._post(lambda: self._mesh_changed(found, epochs))

    def read_suspensions(self) -> None:
        """Put in force who is suspended, whether issuance is frozen, and what is to be drained."""
        with self._in_order:
            epochs = self._house.epochs.load()
            suspended, frozen = self._house.authority.suspended(), self._house.authority.freezing.frozen()
            self._post(
                lambda: self._put_if_new(
                    replace(self.snapshot, suspended=suspended, epochs=self._merged(epochs), frozen=frozen)
                )
            )

    # ---- events of the authority, in whatever thread

    def _happened(self, event: Event) -> None:
        if isinstance(event, LeafRevoked):
            self._metrics.revoked.inc(len(event.serials))
        self.happened(event)

    def happened(self, event: Event) -> None:
        """Put in force what an authority tells, this replica's or another's."""
        with self._in_order:
            try:
                epochs, suspended = self._house.epochs.load(), self._house.authority.suspended()
            except MeshcaError as error:
                # A suspension counts at once even so; the epochs come with the next refresh.
                _log.warning("the store does not answer", reason=str(error))
                epochs, suspended = {}, _after(event, self.snapshot.suspended)
            self._post(lambda: self._on_loop(event, epochs, suspended))

    def _post(self, call: Callable[[], None]) -> None:
        self._loop.call_soon_threadsafe(call)

    def _on_loop(self, event: Event, epochs: Mapping[str, int], suspended: frozenset[SpiffeId]) -> None:
        match event:
            case LeafRevoked():
                self._leaf_revoked(event, epochs, suspended)
            case Resumed():
                self._put(replace(self.snapshot, suspended=suspended))
            case TrustChanged():
                self._trust_changed(event.trust, epochs)
            case JwtTrustChanged():
                self._jwt_trust_changed(event.trust)
            case TrustAlarm():
                self._metrics.alarms.inc()

    def _leaf_revoked(self, event: LeafRevoked, epochs: Mapping[str, int], suspended: frozenset[SpiffeId]) -> None:
        if event.suspended:
            self._put(replace(self.snapshot, suspended=suspended, epochs=self._merged(epochs)))
        self._desk.revoked(event.serials, suspended=event.suspended)
        for told in tuple(self._revoked_told):
            told(event.serials)

    def _trust_changed(self, trust: Trust, epochs: Mapping[str, int]) -> None:
        if trust.generation >= self.snapshot.trust.generation:
            self._put(replace(self.snapshot, trust=trust, epochs=self._merged(epochs)))

    def _mesh_changed(self, mesh: MeshState, epochs: Mapping[str, int]) -> None:
        if mesh.revision > self.snapshot.mesh.revision:
            self._put(replace(self.snapshot, mesh=mesh, epochs=self._merged(epochs)))

    def _jwt_trust_changed(self, trust: JwtTrust) -> None:
        if trust.generation >= self.snapshot.jwt.generation:
            self._put(replace(self.snapshot, jwt=trust))

    def _merged(self, epochs: Mapping[str, int]) -> Mapping[str, int]:
        """Return the newest of each epoch: they only grow, so an older reading cannot take one back."""
        known = self.snapshot.epochs
        if all(known.get(scope, 0) >= epoch for scope, epoch in epochs.items()):
            return known
        return MappingProxyType({**known, **{s: max(e, known.get(s, 0)) for s, e in epochs.items()}})

    def _put_if_new(self, snapshot: Snapshot) -> None:
        if snapshot != self.snapshot:
            self._put(snapshot)

    def _put(self, snapshot: Snapshot, generated: Prepared | None = None) -> None:
        self._desk.replace(snapshot, generated)
        self._show()
        self.tell()

    def tell(self) -> None:
        """Wake whoever watches trust."""
        for told in tuple(self._trust_told):
            told()

    def _show(self) -> None:
        self._metrics.generation.set(self.snapshot.trust.generation)
        self._metrics.revision.set(self.snapshot.mesh.revision)
        self._metrics.crl_number.set(self.snapshot.trust.crl_number)


def _after(event: Event, suspended: frozenset[SpiffeId]) -> frozenset[SpiffeId]:
    match event:
        case LeafRevoked(suspended=True):
            return suspended | {event.spiffe_id}
        case Resumed():
            return suspended - {event.spiffe_id}
    return suspended
