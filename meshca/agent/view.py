"""What one local stream may see, as it is now. Implements ``xds.source.View``.

Rules kept here:
- Certificates are filled in here, everything else is the server's bytes.
- A key is released only to a process that is still itself and still entitled, looked at again.
- A suspended caller's dedicated stream ends; on ADS its stream stays, without a certificate.
- What the server has nothing for is refused on a dedicated stream, and absent on ADS.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from meshca.agent.holdings import Guest
from meshca.agent.upstream import Upstream
from meshca.attest.process import require_same
from meshca.delivery.callers import NotEntitledError, Undecided
from meshca.delivery.leaves import Holder
from meshca.delivery.ports import Leaf
from meshca.envoy import names as secret_names
from meshca.envoy import secrets
from meshca.errors import MeshcaError, RefusedError, UnavailableError
from meshca.spiffe.id import IdentityError, SpiffeId
from meshca.xds.resource import SDS, Resource
from meshca.xds.source import Changes, Found, NodeInfo

if TYPE_CHECKING:
    from meshca.agent.desk import AgentDesk

_NOT_FEDERATED = "a registration of the caller's has to federate with the trust domain"
_NOTHING = "the server has nothing under this name for the caller"


class LocalView:
    """The view of one local stream."""

    def __init__(self, desk: AgentDesk, guest: Guest, node: NodeInfo, upstream: Upstream, *, dedicated: bool) -> None:
        self._desk = desk
        self._guest = guest
        self._node_id = node.id
        self._upstream = upstream
        self._dedicated = dedicated
        self._changes = Changes()
        self._ended: MeshcaError | None = None
        self._closed = False
        self._looking: asyncio.Task[None] | None = None
        self._wanted: dict[str, set[str] | None] = {}
        self._accepted: dict[tuple[str, str], str] = {}
        self._looks_again: set[str] = set()
        self._leaves: dict[str, Leaf] = {}
        self._holders: set[Holder] = set()
        self._refused: set[str] = set()
        upstream.join(self)

    # ---- xds.source.View

    @property
    def node_id(self) -> str:
        """Return the node id the stream was opened with."""
        return self._node_id

    @property
    def spiffe_id(self) -> str:
        """Return the identity selected for this stream, or nothing."""
        return str(self._guest.selected or "")

    async def fetch(self, type_url: str, names: frozenset[str] | None, held: Mapping[str, str]) -> Found:
        """Return the named resources, or all that this caller may see."""
        del held  # what an earlier agent has given out this one has no key of
        self._require_served()
        if type_url != SDS:
            self._require_selected()
            self._note_wanted(type_url, names)
            return Found(await self._upstream.fetch(type_url, names))
        own, others = self._split(names)
        refused = self._forbidden(others) if others is not None else {}
        asked = None if others is None else frozenset(others - refused.keys())
        found: dict[str, Resource] = {}
        if asked is None or asked:
            self._note_wanted(SDS, asked)
            got = await self._upstream.fetch(SDS, asked)
            found |= {name: resource for name, resource in got.items() if self._may_believe(name)}
        refused |= dict.fromkeys((asked or frozenset()) - found.keys(), _NOTHING)
        for name in sorted(own):
            await self._fill_in(name, found, refused)
        self._require_served()  # again, for leaves take their time
        self._note_refused(refused)
        return Found(found, refused)

    async def next_change(self) -> frozenset[str] | None:
        """Wait for the next change that may concern this stream."""
        return await self._changes.next()

    def acknowledged(self, type_url: str, resources: Mapping[str, Resource]) -> None:
        """Note what the client has accepted."""
        for name, resource in resources.items():
            leaf = self._leaves.get(name) if type_url == SDS else None
            if leaf is not None:
                if leaf.serial == resource.version:
                    self._desk.journal.has_leaf(self._holder(leaf.spiffe_id), leaf, 0)
                continue
            self._accepted[type_url, name] = resource.digest
            self._upstream.acknowledged(self, type_url, name, resource.digest)

    def dropped(self, type_url: str, names: frozenset[str]) -> None:
        """Note what the client has given up."""
        self._forget(type_url, names)

    def kept(self, type_url: str, names: frozenset[str], message: str) -> None:
        """Note what the client was to give up and has not: the server need not wait for it."""
        del message
        self._forget(type_url, names)

    def rejected(self, type_url: str, resources: Mapping[str, Resource], message: str) -> None:
        """Note a NACK, and pass it on where the server's bytes may be meant."""
        digests = {resource.digest for resource in resources.values()}
        self._desk.rejections.add(self._rejecter, type_url, digests)
        self._desk.journal.rejected(self._rejecter, type_url, digests, message)
        self._upstream.rejected(type_url, digests, message)

    def nacked_content(self, type_url: str) -> frozenset[str]:
        """Return what this node has rejected, on this stream or before."""
        return self._desk.rejections.of(self._rejecter, type_url)

    def reworded(self, resource: Resource, attempt: int) -> Resource:
        """Return a certificate of ours in other bytes; the server rewords what is its own."""
        if (leaf := self._leaves.get(resource.name)) is None or resource.type_url != SDS:
            return resource
        try:
            return self._resource(resource.name, leaf, f"# meshca sends this again ({attempt})\n".encode())
        except MeshcaError:
            return resource

    def close(self) -> None:
        """Release what the stream held."""
        self._closed = True
        for holder in self._holders:
            self._desk.leaves.detach(holder, self.leaf_changed)
        self._upstream.leave(self, asyncio.get_running_loop().time())
        self._desk.leave(self)

    # ---- told by the upstream (upstream.Local)

    def wants(self, type_url: str, name: str) -> bool:
        """Say whether the stream is to have this resource."""
        if type_url not in self._wanted:
            return False
        wanted = self._wanted[type_url]
        return wanted is None or name in wanted

    def has(self, type_url: str, name: str, digest: str) -> bool:
        """Say whether its Envoy has accepted this content ("": any) of the name last."""
        accepted = self._accepted.get((type_url, name))
        return accepted is not None and digest in {"", accepted}

    def refuses(self, type_url: str, digest: str) -> str | None:
        """Return why its Envoy has rejected this very content before, or None."""
        return "rejected before, in these very bytes" if digest in self.nacked_content(type_url) else None

    def upstream_changed(self, type_url: str) -> None:
        """Look again at resources of a type."""
        self._looks_again.add(type_url)
        self._changes.mark((type_url,))

    def end(self, error: MeshcaError) -> None:
        """End the stream; nothing is given out any more."""
        self._ended = error
        self._changes.fail(error)

    # ---- told by the desk

    def leaf_changed(self) -> None:
        """Look at secrets again."""
        self._changes.mark((SDS,))

    def moved(self, *, wake: bool) -> None:
        """Look again at who the caller is; ``wake``: at what it may have, too, if it is the same."""
        if self._desk.rights.is_slow(self._guest.process):
            # Nothing is given out meanwhile that it may not have: `_require_still` asks for itself.
            self._looking = asyncio.get_running_loop().create_task(self._look_again())
        elif not self._recognised_again():
            return
        if wake:
            self._changes.mark((SDS,))
        self._tell_unless_served()

    async def _look_again(self) -> None:
        with contextlib.suppress(MeshcaError):  # it is met once more, and told, by what follows
            await asyncio.to_thread(self._desk.rights.identities, self._guest.process)
        if not self._closed and self._recognised_again():
            self._tell_unless_served()

    def _recognised_again(self) -> bool:
        try:
            guest = self._desk.rights.recognise(self._guest.process, self._node_id)
        except MeshcaError as error:
            self._desk.journal.refused(self._guest.actor, "attest", self._node_id, str(error))
            self.end(error)
            return False
        if guest.selected != self._guest.selected:
            self.end(UnavailableError("what the caller may be has changed", remedy="connect again"))
            return False
        before, self._guest = self._guest, guest
        if guest.entitled != before.entitled:
            self._changes.mark((SDS,))
        return True

    def _tell_unless_served(self) -> None:
        try:
            self._require_served()
        except RefusedError as error:
            self._changes.fail(error)

    # ---- inside

    @property
    def _rejecter(self) -> str:
        return f"{self._guest.process.uid} {self._node_id}"

    def _holder(self, spiffe_id: SpiffeId) -> Holder:
        return Holder(self._guest.process, self._upstream.node_id, spiffe_id)

    def _require_served(self) -> None:
        if self._ended:
            raise self._ended
        if self._dedicated and self._guest.selected in self._desk.rights.suspended:
            raise _suspended(self.spiffe_id)

    def _require_selected(self) -> SpiffeId:
        if self._guest.selected is None:
            choice = ", ".join(sorted(map(str, self._guest.entitled)))
            raise Undecided(
                f"the caller may be one of several and selects none: {choice}",
                remedy="set node.id to mesh/<mesh>/virtualNode/<name>",
            )
        return self._guest.selected

    def _note_wanted(self, type_url: str, names: frozenset[str] | None) -> None:
        """Remember what is wanted; after a change all of it is asked for, and what isn't is no longer wanted."""
        before = self._wanted.get(type_url, set())
        if names is None or before is None:
            self._wanted[type_url] = None
            return
        again = type_url in self._looks_again and not before.isdisjoint(names)
        self._wanted[type_url] = set(names) if again else before | names
        if again:
            self._looks_again.discard(type_url)
            if gone := frozenset(before - names):
                self._forget(type_url, gone)

    def _forget(self, type_url: str, names: frozenset[str]) -> None:
        for name in names:
            self._accepted.pop((type_url, name), None)
        self._upstream.given_up(self, type_url, names)

    def _split(self, names: frozenset[str] | None) -> tuple[set[str], set[str] | None]:
        """Return which names are certificates, and which are for the server; None: all that it has."""
        if names is None:
            served = self._guest.entitled - self._desk.rights.suspended
            own = set(map(str, served))
            if self._guest.selected in served:
                own.add(secret_names.DEFAULT)
            return own, None
        own = {name for name in names if _is_certificate(name)}
        return own, set(names - own)

    def _forbidden(self, names: set[str]) -> dict[str, str]:
        """Return which of the server's names need a selection where none is made."""
        refused = {name: _NOT_FEDERATED for name in names if not self._may_believe(name)}
        if self._guest.selected is not None:
            return refused
        general = {name for name in names if _is_general(name)}
        return {**dict.fromkeys(names - general, "the caller may be one of several and selects none"), **refused}

    def _may_believe(self, name: str) -> bool:
        """Say whether a process may have a context that may hold other trust domains: several share one upstream."""
        if not _is_general(name) or name == secret_names.ROOTCA:
            return True
        allowed, rights = self._guest.federates_with, self._desk.rights
        upstream = rights.federated_upstream(self._guest.selected)
        if name == secret_names.ALL:
            return allowed == upstream
        domain = name.removeprefix("spiffe://")
        if domain in {str(rights.trust_domain), *map(str, allowed)}:
            return True
        # Nobody may have it any more: the server answers with nobody, which is better than what its Envoy keeps.
        return (SDS, name) in self._accepted and domain not in map(str, upstream)

    async def _fill_in(self, name: str, found: dict[str, Resource], refused: dict[str, str]) -> None:
        try:
            found[name] = await self._certificate(name)
        except secrets.UnsafeSecretError as error:
            self._desk.journal.unsafe(name, str(error))
        except (RefusedError, IdentityError) as error:
            if not (self._desk.frozen and isinstance(error, RefusedError) and not isinstance(error, NotEntitledError)):
                refused[name] = str(error)

    async def _certificate(self, name: str) -> Resource:
        spiffe_id = self._identity(name)
        holder = self._holder(spiffe_id)
        if holder not in self._holders:
            self._holders.add(holder)
            self._desk.leaves.attach(holder, self.leaf_changed)
        leaf = await self._desk.leaves.get(holder)
        await self._require_still(name)
        self._leaves[name] = leaf
        return self._resource(name, leaf, b"")

    def _identity(self, name: str) -> SpiffeId:
        named = secret_names.parse_secret_name(name)
        spiffe_id = named.spiffe_id if isinstance(named, secret_names.Svid) else self._require_selected()
        if spiffe_id not in self._guest.entitled:
            raise NotEntitledError("the caller is not entitled to this identity", field="name", value=name)
        if spiffe_id in self._desk.rights.suspended:
            raise _suspended(str(spiffe_id))
        return spiffe_id

    async def _require_still(self, name: str) -> None:
        """Raise unless the caller is who it was, and what it asked for is still its own."""
        process, rights = self._guest.process, self._desk.rights
        try:
            if rights.is_slow(process):
                await asyncio.to_thread(rights.identities, process)
            entitled = self._desk.rights.identities(process)
            require_same(process)
        except MeshcaError as error:
            self._desk.journal.refused(self._guest.actor, "attest", self._node_id, str(error))
            raise
        selected = self._guest.selected if self._guest.selected in entitled else None
        self._guest = replace(self._guest, entitled=entitled, selected=selected)
        self._identity(name)

    def _resource(self, name: str, leaf: Leaf, note: bytes) -> Resource:
        body = secrets.tls_certificate(name, leaf.chain_pem + note, leaf.key_pem, now=self._desk.clock.now())
        return Resource(SDS, name, leaf.serial, body)

    def _note_refused(self, refused: Mapping[str, str]) -> None:
        for name in refused.keys() - self._refused:
            self._desk.journal.refused(self._guest.actor, "deliver", name, refused[name])
        self._refused = set(refused)


def _is_certificate(name: str) -> bool:
    if name == secret_names.DEFAULT:
        return True
    # A SPIFFE ID with a path; one that breaks a rule is refused here, by its words.
    scheme, _, rest = name.partition("://")
    return scheme.lower() == "spiffe" and "/" in rest


def _is_general(name: str) -> bool:
    return name in {secret_names.ROOTCA, secret_names.ALL} or name.startswith("spiffe://")


def _suspended(spiffe_id: str) -> NotEntitledError:
    return NotEntitledError("the identity is suspended", value=spiffe_id, remedy="see meshca resume")
