"""What one stream may see, as it is now. Implements ``xds.source.View``.

Rules kept here:
- A key is released only after the process has been looked at again (``Desk.require_still``).
- Who is entitled to nothing any more gets nothing any more, whatever is under way for it.
- A suspended caller's dedicated SDS stream ends; on ADS its stream stays, no leaf is sent, its contexts are nobody.
- While issuance is frozen a leaf that there is none of stays away until it thaws; the stream and its contexts go on.
- What would stop or open an Envoy is not sent: the resource stays away and an alarm goes out (design §5).
- Where a backend is taken away, its cluster goes first, then the context of its servers; a second is long enough.
- A mesh revision is followed by what it changed for this stream (progress.py).
- A trust generation counts as in force once every context of the stream has been acknowledged under it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from meshca.attest.process import Process
from meshca.authority.freezing import FrozenError
from meshca.delivery.callers import Caller, NotEntitledError
from meshca.delivery.contexts import Wanted
from meshca.delivery.difference import Difference
from meshca.delivery.leaves import Holder
from meshca.delivery.naming import WantedLeaf, all_names, is_foreign, resolve, same_meanings
from meshca.delivery.peers import Peer, actor_of
from meshca.delivery.ports import Leaf
from meshca.delivery.progress import Progress
from meshca.delivery.snapshot import Snapshot
from meshca.envoy import secrets
from meshca.envoy.names import DEFAULT, SecretNameError, Servers, parse_secret_name
from meshca.envoy.placement import METADATA_KEY, Placement, placement_of
from meshca.errors import MeshcaError, RefusedError
from meshca.spiffe.id import IdentityError, SpiffeId
from meshca.xds.resource import ADS_TYPES, CDS, LDS, SDS, Resource
from meshca.xds.source import Changes, Found, NodeInfo

if TYPE_CHECKING:
    from meshca.delivery.desk import Desk

_OWNED = frozenset({LDS, CDS})
_GENERATED = ADS_TYPES - {SDS}
_LONGEST_HOLD = 1.0


@dataclass(slots=True)
class _Sent:
    """The context last given out under a name, and the trust generations it carries and has acknowledged."""

    wanted: Wanted | None
    version: str
    generation: int
    acknowledged: int = 0


@dataclass(slots=True)
class _Memory:
    """What a view remembers of its stream."""

    leaves: dict[str, Leaf] = field(default_factory=dict)
    contexts: dict[str, _Sent] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)
    types: set[str] = field(default_factory=set)
    holders: set[Holder] = field(default_factory=set)


class LiveView:
    """The view of one stream."""

    __slots__ = (
        "_caller",
        "_changes",
        "_dedicated",
        "_desk",
        "_ended",
        "_holding",
        "_looking",
        "_memory",
        "_node_id",
        "_old",
        "_on_close",
        "_placement",
        "_told",
        "in_force",
        "progress",
    )

    def __init__(
        self,
        desk: Desk,
        caller: Caller,
        node: NodeInfo,
        *,
        dedicated: bool,
        on_close: Callable[[], None] = lambda: None,
    ) -> None:
        self._on_close = on_close
        self._desk = desk
        self._caller = caller
        # An Envoy tells a lot about itself in its metadata; there are many streams, so the rest is not kept.
        self._node_id = node.id
        self._told = node.metadata.get(METADATA_KEY)
        self._placement: Placement | None = None
        self._dedicated = dedicated
        self._changes = Changes()
        self._ended: MeshcaError | None = None
        self._memory = _Memory()
        self.progress = Progress()
        self._holding = False
        self._looking: asyncio.Task[None] | None = None
        self._old: Snapshot | None = None  # before the revision whose secrets have not been compared yet
        self.in_force = 0  # the trust generation that all contexts have acknowledged

    @property
    def node_id(self) -> str:
        """Return the node id the stream was opened with."""
        return self._node_id

    @property
    def spiffe_id(self) -> str:
        """Return the identity selected for this stream, or nothing."""
        return str(self._caller.selected or "")

    @property
    def caller(self) -> Caller:
        """Return who is calling."""
        return self._caller

    @property
    def envoy(self) -> tuple[Peer, str]:
        """Return what tells its Envoy from others: the process or agent, and the node id it gives itself."""
        return self._caller.process, self._node_id

    @property
    def placement(self) -> Placement | None:
        """Return where its Envoy listens, once it has asked for what depends on it."""
        return self._placement

    @property
    def contexts(self) -> frozenset[str]:
        """Return the names of the contexts it has been given."""
        return frozenset(self._memory.contexts)

    @property
    def owned(self) -> bool:
        """Whether its listeners and clusters are ours, so that open connections can be ended."""
        return not _OWNED.isdisjoint(self._memory.types)

    @property
    def trusting(self) -> bool:
        """Whether it has been given trust."""
        return bool(self._memory.contexts)

    @property
    def identities(self) -> frozenset[SpiffeId]:
        """Return the identities that it has been given leaves of."""
        return frozenset(leaf.spiffe_id for leaf in self._memory.leaves.values())

    def holds(self, spiffe_id: SpiffeId) -> bool:
        """Whether it has been given a leaf of this identity."""
        return spiffe_id in self.identities

    async def fetch(self, type_url: str, names: frozenset[str] | None, held: Mapping[str, str]) -> Found:
        """Return the named resources, or all that this caller may see."""
        self._memory.types.add(type_url)
        self._require_served()
        if type_url == SDS:
            self._compare_secrets()
            found = await self._secrets(names, held)
            self._require_served()  # again, for leaves take their time
            return found
        _, node = self._caller.require_selected()
        placement = self._placement or placement_of({METADATA_KEY: self._told})
        self._placement = placement
        by_type = self._desk.generated.get(node, placement, self._desk.snapshot)
        given = self._memory.contexts.keys() | self._memory.leaves.keys()
        if self._caller.makes_keys:  # what names a certificate is not waited for: the agent has it
            given |= {DEFAULT, *map(str, self._caller.entitled)}
        if self.progress.made(by_type, self._memory.types, given):
            self._desk.progressed(self)
        made = by_type.get(type_url, {})
        return Found(made if names is None else {name: made[name] for name in names if name in made})

    async def next_change(self) -> frozenset[str] | None:
        """Wait for the next change that may concern this stream."""
        return await self._changes.next()

    def acknowledged(self, type_url: str, resources: Mapping[str, Resource]) -> None:
        """Note what the client has accepted."""
        versions = {name: known.version for name in resources if (known := self._memory.contexts.get(name))}
        if self.progress.acknowledged(type_url, resources, versions):
            self._desk.progressed(self)
        if type_url != SDS:
            return
        for name, resource in resources.items():
            if (sent := self._memory.contexts.get(name)) and sent.version == resource.version:
                sent.acknowledged = sent.generation
            if (leaf := self._memory.leaves.get(name)) and leaf.serial == resource.version:
                self._desk.leaf_in_force(self, leaf)
        # Only those given out last: what the client no longer asks for stays behind at an older generation.
        newest = max((sent.generation for sent in self._memory.contexts.values()), default=0)
        latest = [sent for sent in self._memory.contexts.values() if sent.generation == newest]
        if newest > self.in_force and all(sent.acknowledged == newest for sent in latest):
            self.in_force = newest
            self._desk.in_force(self)

    def rejected(self, type_url: str, resources: Mapping[str, Resource], message: str) -> None:
        """Note a NACK."""
        digests = {resource.digest for resource in resources.values()}
        self._desk.rejections.add(self._rejecter, type_url, digests)
        self._desk.journal.rejected(self._rejecter, type_url, digests, message)
        if self.progress.rejected(type_url, resources, (), message):
            self._desk.progressed(self)

    def dropped(self, type_url: str, names: frozenset[str]) -> None:
        """Note what the client has given up."""
        if type_url == CDS:
            self.leaf_changed()  # the contexts that it was waiting for may go
        if self.progress.dropped(type_url, names):
            self._desk.progressed(self)

    def kept(self, type_url: str, names: frozenset[str], message: str) -> None:
        """Note what the client was to give up and has not."""
        if self.progress.rejected(type_url, (), names, message):
            self._desk.progressed(self)

    def nacked_content(self, type_url: str) -> frozenset[str]:
        """Return what this node has rejected, on this stream or before."""
        return self._desk.rejections.of(self._rejecter, type_url)

    def reworded(self, resource: Resource, attempt: int) -> Resource:
        """Return a secret with the same meaning in other bytes."""
        if resource.type_url != SDS:
            return resource
        note = f"# meshca sends this again ({attempt})\n".encode()
        try:
            wanted = self._resolved(resource.name, "")
            if isinstance(wanted, WantedLeaf):
                return self._leaf_resource(wanted.name, self._memory.leaves[wanted.name], note)
            now = self._desk.snapshot
            return self._desk.contexts.reworded(wanted, now.trust, (note, resource.version), now.federated)
        except (MeshcaError, KeyError):
            return resource
        return resource

    def close(self) -> None:
        """Release what the stream held."""
        for holder in self._memory.holders:
            self._desk.leaves.detach(holder, self.leaf_changed)
        self._desk.leave(self)
        self._on_close()

    # ---- told by the desk

    def leaf_changed(self) -> None:
        """Look at secrets again."""
        self._changes.mark((SDS,))

    def moved(self, change: Difference, old: Snapshot) -> None:
        """Look again at what a new snapshot may have changed for this stream."""
        if change.callers and self._desk.is_slow(self._caller.process):
            self._looking = asyncio.get_running_loop().create_task(self._look_again())
        elif change.callers and not self._recognised_again():
            return
        concerned = self._caller.node in change.nodes
        # A changed route is followed without a look at the secrets: with ten backends these are most of the work.
        secrets_stay = concerned and same_meanings(self._caller, self._old or old, self._desk.snapshot)
        if concerned and change.revision:
            self._follow(change.revision, old, secrets_stay=secrets_stay)
        touched = not self._caller.concerned.isdisjoint(change.suspended | change.resumed)
        if touched or (concerned and not secrets_stay):
            self._changes.mark(None)
        elif concerned:
            self._changes.mark(_GENERATED)
        if change.trust or change.thawed:
            self._changes.mark((SDS,))
        try:
            self._require_served()
        except RefusedError as error:
            self._changes.fail(error)

    def end(self, error: MeshcaError) -> None:
        """End the stream; nothing is given out any more."""
        self._ended = error
        self._changes.fail(error)

    # ---- inside

    def _follow(self, revision: int, old: Snapshot, *, secrets_stay: bool) -> None:
        self.progress.begin(revision, self._memory.types)
        if secrets_stay:
            self._old = None
            self.progress.secrets(())
            return
        self._old = self._old or old
        if self.owned and not self._holding:
            self._holding = True
            asyncio.get_running_loop().call_later(_LONGEST_HOLD, self._let_go)

    @property
    def _rejecter(self) -> str:
        peer = self._caller.process
        return f"{peer.uid if isinstance(peer, Process) else actor_of(peer)} {self.node_id}"

    async def _look_again(self) -> None:
        with contextlib.suppress(MeshcaError):  # it is met once more, and told, by what follows
            await self._desk.look_at(self._caller.process)
        self._recognised_again()

    def _recognised_again(self) -> bool:
        try:
            caller = self._desk.recognise(self._caller.process, self.node_id)
        except MeshcaError as error:
            self._desk.journal.refused(self._caller.actor, "attest", self.node_id, str(error))
            self.end(error)
            return False
        before, self._caller = self._caller, caller
        if (caller.selected, caller.node, caller.concerned) != (before.selected, before.node, before.concerned):
            self._changes.mark(None)
        elif caller.federates_with != before.federates_with:
            self._changes.mark((SDS,))
        return True

    def _require_served(self) -> None:
        if self._ended:
            raise self._ended
        if self._dedicated and self._caller.selected in self._desk.snapshot.suspended:
            raise NotEntitledError("the identity is suspended", value=self.spiffe_id, remedy="see meshca resume")

    def _compare_secrets(self) -> None:
        """Tell which of the secrets given out a mesh revision has changed; trust and leaves are other matters."""
        old, self._old = self._old, None
        if old is None:
            return
        now = self._desk.snapshot
        changed = {name for name in self._memory.contexts if not self._stands_for_the_same(name, old, now)}
        if self.progress.secrets(changed):
            self._desk.progressed(self)

    def _stands_for_the_same(self, name: str, old: Snapshot, now: Snapshot) -> bool:
        try:
            return resolve(name, self._caller, old) == resolve(name, self._caller, now)
        except MeshcaError:
            return True  # refused now, or then: nothing of it is sent

    async def _secrets(self, names: frozenset[str] | None, held: Mapping[str, str]) -> Found:
        asked = all_names(self._caller, self._desk.snapshot) if names is None else names
        found: dict[str, Resource] = {}
        refused: dict[str, str] = {}
        waiting: dict[str, str] = {}
        for name in sorted(asked):
            try:
                found[name] = await self._secret(name, held.get(name, ""))
            except secrets.UnsafeSecretError as error:
                self._desk.journal.unsafe(name, str(error))
            except FrozenError as error:
                waiting[name] = str(error)
            except (RefusedError, SecretNameError, IdentityError) as error:
                refused[name] = str(error)
        self._note_refused({**refused, **waiting})
        return Found(found, refused)

    async def _secret(self, name: str, held: str) -> Resource:
        snapshot = self._desk.snapshot
        wanted = self._resolved(name, held)
        if isinstance(wanted, WantedLeaf):
            return await self._svid(wanted.name, wanted.spiffe_id, held)
        context = self._held_back(wanted)
        made = self._desk.contexts.get(context, snapshot.trust, snapshot.federated)
        sent = self._memory.contexts.setdefault(name, _Sent(context, made.version, 0))
        sent.wanted, sent.version, sent.generation = context, made.version, snapshot.trust.generation
        return made

    def _resolved(self, name: str, held: str) -> Wanted | WantedLeaf:
        """Say what to send; a foreign context that was given out and may be had no longer becomes nobody's.

        An Envoy keeps the last value of a secret that is refused, and would go on believing.
        """
        try:
            return resolve(name, self._caller, self._desk.snapshot)
        except NotEntitledError:
            given = bool(held) or name in self._memory.contexts
            if given and is_foreign(name, self._desk.snapshot):
                return Wanted(name, frozenset())
            raise

    def _held_back(self, wanted: Wanted) -> Wanted:
        """Return what a context is to be: as it was while the cluster that uses it is being taken away."""
        sent = self._memory.contexts.get(wanted.name)
        if sent is None or sent.wanted is None or not self._holding or not self.progress.takes_away:
            return wanted
        match parse_secret_name(wanted.name):
            case Servers(service) if service not in self._services():
                admitted = (sent.wanted.admitted or frozenset()) - self._desk.snapshot.suspended
                return replace(sent.wanted, admitted=admitted)
        return wanted

    def _services(self) -> tuple[str, ...]:
        node, snapshot = self._caller.node, self._desk.snapshot
        if node is None or self._caller.selected in snapshot.suspended:
            return ()
        return snapshot.mesh.policy.services_of(node)

    def _let_go(self) -> None:
        self._holding = False
        self.leaf_changed()

    async def _svid(self, name: str, spiffe_id: SpiffeId, held: str) -> Resource:
        holder = Holder(self._caller.process, self._node_id, spiffe_id)
        if holder not in self._memory.holders:
            self._memory.holders.add(holder)
            self._desk.leaves.attach(holder, self.leaf_changed)
        leaf = await self._desk.leaves.get(holder, held)
        # Looked at again after the wait: suspended meanwhile means no leaf.
        await self._desk.require_still(self._caller, self._node_id, spiffe_id)
        resolve(name, self._caller, self._desk.snapshot)
        self._memory.leaves[name] = leaf
        return self._leaf_resource(name, leaf, b"")

    def _leaf_resource(self, name: str, leaf: Leaf, note: bytes) -> Resource:
        if not leaf.key_pem:
            # The client named this serial as the version it holds, so this is compared and never sent.
            return Resource(SDS, name, leaf.serial, b"")
        body = secrets.tls_certificate(name, leaf.chain_pem + note, leaf.key_pem, now=self._desk.clock.now())
        return Resource(SDS, name, leaf.serial, body)

    def _note_refused(self, refused: Mapping[str, str]) -> None:
        for name in refused.keys() - self._memory.refused:
            self._desk.journal.refused(self._caller.actor, "deliver", name, refused[name])
        self._memory.refused = set(refused)
