"""Who is calling, and which identity the stream is about.

Rules kept here (design §2 and §6):
- What the kernel says entitles; ``node.id`` only selects among the identities entitled to.
- To name an identity one isn't entitled to is refused; to name none, with several to choose from, selects nothing:
  never 'the first'.
- An identity that no applied mesh has entitles to nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from meshca.attest.process import Process
from meshca.attest.selectors import selectors
from meshca.delivery.peers import AgentPeer, Peer, actor_of
from meshca.delivery.snapshot import Snapshot
from meshca.errors import RefusedError
from meshca.mesh.model import ObjectKey
from meshca.mesh.noderef import parse_node_id
from meshca.policy.entitlement import Registration, Selected, Selector, entitled, select
from meshca.policy.selector import GID, UID
from meshca.spiffe.id import SpiffeId, TrustDomain

Read = Callable[[Process, Iterable[Registration]], frozenset[Selector]]
"""What reads the selectors that hold for a process, as far as registrations ask for them."""


class NotEntitledError(RefusedError):
    """The caller may not have what it claims."""


class Undecided(RefusedError):  # noqa: N818 - a state of a caller first, an error only where a choice is needed
    """The caller may be one of several and has not said which."""


@dataclass(frozen=True, slots=True)
class Caller:
    """An attested process or agent, the identities it may have, and the one that its stream is about."""

    process: Peer
    entitled: frozenset[SpiffeId]
    selected: SpiffeId | None
    node: ObjectKey | None
    federates_with: frozenset[TrustDomain] = frozenset()
    """Whose bundles it may ask for, beside ours."""
    read_more: bool = False
    """Whether it is entitled by more than user and groups, which can change while it runs."""

    @property
    def actor(self) -> str:
        """Return how audit and log call it."""
        return actor_of(self.process)

    @property
    def concerned(self) -> frozenset[SpiffeId]:
        """Return the identities on which depends what its stream is sent."""
        if self.makes_keys and self.selected is not None:
            return frozenset({self.selected})
        return self.entitled

    @property
    def makes_keys(self) -> bool:
        """Whether it has its keys made elsewhere, and is given none."""
        return isinstance(self.process, AgentPeer)

    def require_selected(self) -> tuple[SpiffeId, ObjectKey]:
        """Return the selected identity and its node.

        Raises:
            Undecided: None is selected.
        """
        if self.selected is None or self.node is None:
            choice = ", ".join(sorted(map(str, self.entitled)))
            raise Undecided(
                f"the caller may be one of several and selects none: {choice}",
                remedy="set node.id to mesh/<mesh>/virtualNode/<name>",
            )
        return self.selected, self.node


def as_node(spiffe_id: SpiffeId, node: ObjectKey) -> Caller:
    """Return a caller that is this node, for showing what it would be sent; no process stands behind it."""
    return Caller(Process(0, 0, 0, frozenset(), 0), frozenset({spiffe_id}), spiffe_id, node)


def recognise(process: Process, node_id: str, snapshot: Snapshot, read: Read = selectors) -> Caller:
    """Say who an attested process is, given the ``node.id`` of its stream.

    Raises:
        NotEntitledError: It is nobody we know, or it claims to be somebody else.
        AttestationError: It is no longer the process that connected.
    """
    entries = entries_of(process, snapshot, read)
    selected = _selected(node_id, entries, snapshot)
    allowed = frozenset(entry.spiffe_id for entry in entries)
    more = any(selector.type not in {UID, GID} for entry in entries for selector in entry.selectors)
    node = snapshot.mesh.identities.holder(selected) if selected else None
    return Caller(process, allowed, selected, node, federated_of(entries, selected), more)


def federated_of(entries: Iterable[Registration], selected: SpiffeId | None) -> frozenset[TrustDomain]:
    """Return whose bundles registrations allow, for one identity or, where none is selected, for all of them."""
    named = (entry.federates_with for entry in entries if selected in (None, entry.spiffe_id))
    return frozenset(domain for domains in named for domain in domains)


@dataclass(frozen=True, slots=True)
class Behind:
    """The registrations of an agent, of identities that an applied mesh has, and these identities."""

    entries: tuple[Registration, ...]
    identities: frozenset[SpiffeId]
    federated: Mapping[SpiffeId, frozenset[TrustDomain]]
    """Whose bundles the registrations of an identity allow, where they allow any."""


def behind(agent: AgentPeer, snapshot: Snapshot) -> Behind:
    """Return who may be behind an agent."""
    found = snapshot.registrations_of(agent.agent_id)
    entries = tuple(entry for entry in found if snapshot.mesh.identities.holder(entry.spiffe_id))
    federating = {entry.spiffe_id for entry in entries if entry.federates_with}
    federated = {spiffe_id: federated_of(entries, spiffe_id) for spiffe_id in federating}
    return Behind(entries, frozenset(entry.spiffe_id for entry in entries), federated)


def recognise_agent(agent: AgentPeer, node_id: str, snapshot: Snapshot, found: Behind) -> Caller:
    """Say for whom an agent speaks on a stream, given its ``node.id`` and who may be behind it.

    Raises:
        NotEntitledError: Nobody is behind it, or not the one it claims to speak for.
    """
    if not found.entries:
        raise NotEntitledError(
            f"no registration has the agent {agent.agent_id} as its parent",
            remedy=f"meshca register NODE --selector S --parent {agent.agent_id}",
        )
    named = parse_node_id(node_id)
    wanted = snapshot.mesh.identities.of_node(named) if named else None
    # The many streams of an agent each name their own: only the others are looked at one by one.
    selected = wanted if wanted in found.identities else _selected(node_id, found.entries, snapshot)
    holder = snapshot.mesh.identities.holder(selected) if selected else None
    allowed = found.federated.get(selected, frozenset()) if selected else federated_of(found.entries, None)
    return Caller(agent, found.identities, selected, holder, allowed)


def entries_of(process: Process, snapshot: Snapshot, read: Read = selectors) -> tuple[Registration, ...]:
    """Return the registrations that a process of this host satisfies, of identities that an applied mesh has.

    Those of an agent's are for processes of its host, and none of ours.

    Raises:
        NotEntitledError: There is none.
        AttestationError: It is no longer the process that connected.
    """
    registrations = snapshot.registrations_of("")
    found = entitled(read(process, registrations), registrations)
    entries = tuple(entry for entry in found if snapshot.mesh.identities.holder(entry.spiffe_id))
    if not entries:
        raise NotEntitledError(
            f"no registration entitles uid {process.uid}, gid {process.gid}",
            remedy=f"meshca register NODE --selector unix:uid:{process.uid}",
        )
    return entries


def _selected(node_id: str, entries: tuple[Registration, ...], snapshot: Snapshot) -> SpiffeId | None:
    named = parse_node_id(node_id)
    choice = select(entries, named, snapshot.mesh.identities.of_node)
    if isinstance(choice, Selected):
        return choice.spiffe_id
    if named is not None:
        raise NotEntitledError(choice.reason, field="node.id", value=node_id)
    return None
