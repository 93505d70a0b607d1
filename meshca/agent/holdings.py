"""Who may have what on this host: the server's word, and what the kernel says of a caller.

Rules kept here (design §2): selectors entitle; ``node.id`` only selects; who may be one of several and selects none
gets none by default. It is the same policy as the server's, over the registrations whose parent this agent is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

import structlog

from meshca.attest.process import Process
from meshca.attest.selectors import is_slow, selectors
from meshca.client.agent import Holdings
from meshca.delivery.callers import NotEntitledError, Read, federated_of
from meshca.delivery.workload_state import federating
from meshca.mesh.model import ObjectKey
from meshca.mesh.noderef import NodeRef, parse_node_id
from meshca.policy.entitlement import Registration, Selected, SelectorError, entitled, parse_selector, select
from meshca.policy.selector import GID, UID, Selector
from meshca.spiffe.id import SpiffeId, TrustDomain

_log = structlog.get_logger(__name__)

_IMMEDIATE = frozenset({UID, GID})


@dataclass(frozen=True, slots=True)
class Guest:
    """An attested process of this host, what it may be, and what its stream is about."""

    process: Process
    entitled: frozenset[SpiffeId]
    selected: SpiffeId | None
    federates_with: frozenset[TrustDomain] = frozenset()

    @property
    def actor(self) -> str:
        """Return how logs call it."""
        return f"uid:{self.process.uid}"


@dataclass(frozen=True, slots=True)
class Rights:
    """All rights on this host at one moment."""

    trust_domain: TrustDomain
    registrations: tuple[Registration, ...]
    suspended: frozenset[SpiffeId]
    nodes: dict[SpiffeId, str] = field(repr=False)
    _keys: dict[ObjectKey, SpiffeId] = field(repr=False)
    # Where nobody is asked for more than user and groups, there is no need to look at each registration.
    _by_selector: dict[Selector, list[Registration]] | None = field(default=None, repr=False)
    _read: Read = field(default=selectors, repr=False)

    def identities(self, process: Process) -> frozenset[SpiffeId]:
        """Return what a process may be.

        Raises:
            NotEntitledError: Nothing.
            AttestationError: It is no longer the process that connected.
        """
        return frozenset(entry.spiffe_id for entry in self._entries(process))

    def recognise(self, process: Process, node_id: str) -> Guest:
        """Say who a process is, given the ``node.id`` of its stream.

        Raises:
            NotEntitledError: It is nobody we know, or it claims to be somebody else.
            AttestationError: It is no longer the process that connected.
        """
        entries, named = self._entries(process), parse_node_id(node_id)
        choice = select(entries, named, self._of_node)
        if not isinstance(choice, Selected) and named is not None:
            raise NotEntitledError(choice.reason, field="node.id", value=node_id)
        selected = choice.spiffe_id if isinstance(choice, Selected) else None
        allowed = frozenset(entry.spiffe_id for entry in entries)
        return Guest(process, allowed, selected, federated_of(entries, selected))

    def federating(self, process: Process) -> frozenset[tuple[SpiffeId, TrustDomain]]:
        """Return whose bundles a process may have, and as which of its identities."""
        if not any(entry.federates_with for entry in self.registrations):
            return frozenset()
        return federating(self._entries(process))

    def federated_upstream(self, selected: SpiffeId | None) -> frozenset[TrustDomain]:
        """Return whose bundles the server sends under ``ALL``: those that any registration of an identity allows."""
        return federated_of(self.registrations, selected)

    def is_slow(self, process: Process) -> bool:
        """Return whether it takes more than a moment to say what a process may be: ask in a thread first."""
        return self._by_selector is None and is_slow(process, self.registrations)

    def recognises(self, node_id: str) -> SpiffeId | None:
        """Return which identity of this host a ``node.id`` names, or None."""
        node = parse_node_id(node_id)
        return None if node is None else self._of_node(node)

    def _entries(self, process: Process) -> tuple[Registration, ...]:
        if self._by_selector is None:
            found = entitled(self._read(process, self.registrations), self.registrations)
        else:
            held = self._read(process, ())
            found = entitled(held, {e.id: e for one in held for e in self._by_selector.get(one, ())}.values())
        if not found:
            raise NotEntitledError(
                f"no registration behind this agent entitles uid {process.uid}, gid {process.gid}",
                remedy=f"meshca register NODE --selector unix:uid:{process.uid} --parent AGENT",
            )
        return found

    def _of_node(self, node: NodeRef) -> SpiffeId | None:
        return self._keys.get(node.key)


def rights_of(holdings: Holdings, read: Read = selectors) -> Rights:
    """Return what a server's word means; ``read`` says what holds for a process.

    A registration with a selector that this version can't read holds for nobody.

    Raises:
        MeshcaError: It is not to be understood.
    """
    registrations, nodes, keys = [], {}, {}
    for holding in holdings.holdings:
        spiffe_id = SpiffeId.parse(holding.spiffe_id)
        try:
            selectors_of = frozenset(map(parse_selector, holding.selectors))
        except SelectorError as error:
            _log.warning("registration left out", id=holding.id, reason=str(error))
            continue
        federates_with = frozenset(map(TrustDomain, holding.federates_with))
        registrations.append(Registration(holding.id, spiffe_id, selectors_of, federates_with=federates_with))
        nodes[spiffe_id] = holding.node_id
        if node := parse_node_id(holding.node_id):
            keys[node.key] = spiffe_id
    return Rights(
        trust_domain=TrustDomain(holdings.trust_domain),
        registrations=tuple(registrations),
        suspended=frozenset(map(SpiffeId.parse, holdings.suspended)),
        nodes=nodes,
        _keys=keys,
        _by_selector=_by_selector(registrations),
        _read=read,
    )


def _by_selector(registrations: Iterable[Registration]) -> dict[Selector, list[Registration]] | None:
    found: dict[Selector, list[Registration]] = defaultdict(list)
    for entry in registrations:
        for selector in entry.selectors:
            if selector.type not in _IMMEDIATE:
                return None
            found[selector].append(entry)
    return dict(found)


NOBODY = Holdings("none", (), frozenset(), frozenset(), 0, b"", b"")
"""Before a server has said anything."""
