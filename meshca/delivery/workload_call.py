"""One call of the Workload API by one attested process: what it is to have, and what it was given.

Rules kept here:
- What one isn't entitled to any more is absent from the next message; with the last identity the stream ends.
- While issuance is frozen a leaf that there is none of stays away. What cannot be made for any other reason ends the
  stream: absence would mean that it was withdrawn.
- A key or token is released only after caller and process have been looked at again.
- A token of a suspended identity is not valid, whatever it says.
- Who the process is may take reading files, so it is found out beside the event loop, and again if that was overtaken.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from meshca.attest.process import Process, require_same
from meshca.authority import audit
from meshca.authority.freezing import FrozenError
from meshca.delivery.callers import NotEntitledError
from meshca.delivery.leaves import Holder
from meshca.delivery.ports import Leaf
from meshca.delivery.workload_state import JwtAnchors, WorkloadState, X509Anchors
from meshca.errors import MeshcaError, UnavailableError
from meshca.spiffe import jwtsvid
from meshca.spiffe.id import SpiffeId, TrustDomain
from meshca.spiffe.jws import TokenError
from meshca.spiffe.jwtsvid import Verified

if TYPE_CHECKING:
    from meshca.delivery.workloads import Workloads

# In the place of a node id: all X.509 streams of a process share one leaf for each identity.
NODE_ID = "workload-api"
_SUBJECT = "workload API"
_LONG_AGO = datetime.min.replace(tzinfo=UTC)
_NOBODY = SpiffeId(TrustDomain("nobody"))


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
    jwt_generation: int = 0
    """The generation of the JWT bundle that was delivered last."""
    jwt_until: datetime = _LONG_AGO
    follows_jwt: bool = False
    default: SpiffeId = _NOBODY
    """The identity that it had last."""
    _entitled: frozenset[SpiffeId] | None = None
    _federating: frozenset[tuple[SpiffeId, TrustDomain]] = frozenset()
    _moves: int = 0
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

    @property
    def federated(self) -> frozenset[TrustDomain]:
        """Return whose bundles it may have beside ours, once its identities have been asked for."""
        suspended = self.state.suspended
        return frozenset(domain for spiffe_id, domain in self._federating if spiffe_id not in suspended)

    async def require_identities(self) -> tuple[SpiffeId, ...]:
        """Return what the caller may have now, the default first.

        Raises:
            NotEntitledError: Nothing.
        """
        if self._ended:
            raise self._ended
        try:
            return await self._identities()
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
        wanted = await self.require_identities()
        self._hold(wanted)
        leaves = self._desk.services.leaves
        holders = [Holder(self.process, NODE_ID, spiffe_id) for spiffe_id in wanted]
        found = await asyncio.gather(*(leaves.get(holder) for holder in holders), return_exceptions=True)
        made, why_not = self._made(zip(wanted, found, strict=True))
        allowed = await self.require_identities()  # again, for leaves take their time
        require_same(self.process)
        kept = tuple(leaf for leaf in made if leaf.spiffe_id in allowed)
        if not kept:
            raise UnavailableError(f"there is no certificate now: {why_not}", remedy="call again in a moment")
        return X509Material(kept, self.anchors)

    def delivered(self, material: X509Material) -> None:
        """Note that the caller has been given this."""
        self.generation = material.anchors.generation
        self.given = {leaf.spiffe_id: leaf for leaf in material.leaves}
        self._desk.tell(self.process, self.given.values())

    async def bundles(self) -> JwtAnchors:
        """Return whom to believe when a token comes, from here on.

        Raises:
            MeshcaError: The caller may have nothing, or there is no key.
        """
        self.follows_jwt = True
        (self.default, *_) = await self.require_identities()
        await self._desk.services.tokens.ready()
        return self.jwt

    def delivered_bundles(self, anchors: JwtAnchors) -> None:
        """Note that the caller has been given these."""
        self.jwt_generation = anchors.generation
        self._desk.tell_jwt(self.process)

    async def tokens(self, wanted: str, audience: tuple[str, ...]) -> list[tuple[SpiffeId, str]]:
        """Return a token of the identity wanted, or of each that the caller may have.

        Raises:
            MeshcaError: The caller may not have it, or there is none.
        """
        identities = await self._chosen(wanted)
        issue = self._desk.services.tokens.token
        made = await asyncio.gather(*(issue(one, audience, self.actor) for one in identities))
        allowed = await self.require_identities()  # again, for signatures take their time
        require_same(self.process)
        if not (kept := [(one, text) for one, text in zip(identities, made, strict=True) if one in allowed]):
            raise self._refused("the identity was withdrawn a moment ago", wanted)
        return kept

    async def verify(self, text: str, audience: str) -> Verified:
        """Say whose token this is, for an audience.

        Raises:
            MeshcaError: It is not to be believed, or the caller may not ask.
        """
        await self.require_identities()
        found = jwtsvid.verify(text, audience, self.jwt.keys, self._desk.services.clock.now())
        if found.spiffe_id in self.state.suspended:
            raise TokenError("its subject is suspended", field="token", value=str(found.spiffe_id))
        return found

    @property
    def anchors(self) -> X509Anchors:
        """Return whom it is to trust: ours, and of the federated trust domains those that it may have."""
        return self.state.anchors.only(self.federated)

    @property
    def jwt(self) -> JwtAnchors:
        """Return whose tokens it is to believe."""
        return self.state.jwt.only({self.state.trust_domain, *self.federated})

    async def _chosen(self, wanted: str) -> tuple[SpiffeId, ...]:
        identities = await self.require_identities()
        if not wanted:
            return identities
        chosen = SpiffeId.parse(wanted)
        if chosen not in identities:
            raise self._refused("the caller is not entitled to this identity", wanted)
        return (chosen,)

    def _refused(self, reason: str, subject: str) -> NotEntitledError:
        self._desk.services.journal.refused(self.actor, audit.DELIVER, subject, reason)
        return NotEntitledError(reason, field="spiffe_id", value=subject, remedy="see meshca registrations")

    def moved(self, *, callers: bool) -> None:
        """Look again."""
        if callers:
            self._entitled, self._moves = None, self._moves + 1
        self._changed.set()

    def end(self, error: MeshcaError) -> None:
        """End the call; nothing is given out any more."""
        self._ended = error
        self._changed.set()

    def close(self) -> None:
        """Release what the call held."""
        self._hold(())
        self._desk.leave(self)

    async def _identities(self) -> tuple[SpiffeId, ...]:
        while (entitled := self._entitled) is None:
            moves = self._moves
            found, federating = await asyncio.to_thread(self._look, self.state)
            if moves == self._moves:
                self._entitled, self._federating = found, federating
        served = entitled - self.state.suspended
        if not served:
            reason = "the identity is suspended" if entitled else "no identity issued"
            raise NotEntitledError(reason, remedy="see meshca registrations and meshca resume")
        return tuple(sorted(served))

    def _look(self, state: WorkloadState) -> tuple[frozenset[SpiffeId], frozenset[tuple[SpiffeId, TrustDomain]]]:
        return state.identities(self.process), state.federating(self.process)

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
