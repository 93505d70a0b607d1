"""Who may hold which identity: registrations, and the choice among what a caller is entitled to.

Rules kept here (design §2):
- E1 All selectors of one registration must hold; registrations of one caller add up.
- E2 A `node.id` selects among the identities that the attested caller is entitled to. It never grants one.
- E3 A caller entitled to several that selects none is refused with the list; never 'the first'.
- E4 A `node.id` of App Mesh's form that names another's identity, or nobody's, is refused, whatever else holds.
- E5 A registration with a parent is behind that agent, or behind every agent of that cluster or AWS role.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from meshca.policy.selector import GID, UID, Selector, SelectorError, parse_selector
from meshca.spiffe.id import SpiffeId, TrustDomain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from meshca.mesh.noderef import NodeRef

__all__ = [
    "Refused",
    "Registration",
    "Selected",
    "Selector",
    "SelectorError",
    "entitled",
    "is_behind",
    "is_group",
    "is_proven_by_platform",
    "parse_selector",
    "select",
    "undecided",
]

_IMMEDIATE = frozenset({UID, GID})
_GROUP = re.compile(r"k8s\.[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?|aws\.[0-9]{12}\.[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True, slots=True)
class Registration:
    """Who has all these selectors may hold this identity."""

    id: str
    spiffe_id: SpiffeId
    selectors: frozenset[Selector]
    parent: str = ""
    federates_with: frozenset[TrustDomain] = frozenset()
    """Whose bundles it may have beside ours; none by default."""


@dataclass(frozen=True, slots=True)
class Selected:
    """The identity that a caller gets."""

    spiffe_id: SpiffeId


@dataclass(frozen=True, slots=True)
class Refused:
    """Why a caller gets none, and which it could select."""

    reason: str
    entitled: tuple[SpiffeId, ...] = ()


def is_behind(registration: Registration, agent_id: str) -> bool:
    """Whether a registration is behind this agent: it names the agent, or the cluster or role that the agent is of."""
    parent = registration.parent
    return parent == agent_id or (is_group(parent) and agent_id.startswith(f"{parent}."))


def is_group(name: str) -> bool:
    """Whether this names all agents of a Kubernetes cluster (``k8s.CLUSTER``) or of an AWS role (``aws.ACCOUNT.ROLE``).

    Such agents prove a node or a task that nobody knows beforehand. Neither word holds a dot, so that no two groups
    share an agent.
    """
    return _GROUP.fullmatch(name) is not None


def is_proven_by_platform(agent_id: str) -> bool:
    """Whether an agent's id is one that only Kubernetes or AWS can vouch for."""
    return agent_id.startswith(("k8s.", "aws."))


def entitled(selectors: frozenset[Selector], registrations: Iterable[Registration]) -> tuple[Registration, ...]:
    """E1: return the registrations that a caller with these selectors satisfies."""
    # A registration without selectors would hold for everybody: it holds for nobody.
    return tuple(entry for entry in registrations if entry.selectors and entry.selectors <= selectors)


def undecided(held: frozenset[Selector], registrations: Iterable[Registration]) -> frozenset[Selector]:
    """Return which further selectors decide about a caller of whom only user and groups are known.

    Whoever no registration names by user and group causes no reading of files.
    """
    found: set[Selector] = set()
    for entry in registrations:
        rest = entry.selectors - held
        if not any(selector.type in _IMMEDIATE for selector in rest):
            found |= rest
    return frozenset(found)


def select(
    entitlements: Iterable[Registration], node: NodeRef | None, identity_of_node: Callable[[NodeRef], SpiffeId | None]
) -> Selected | Refused:
    """E2 to E4: return the identity that the caller's `node.id` selects among its entitlements."""
    may_hold = {entry.spiffe_id for entry in entitlements}
    if not may_hold:
        return Refused("no registration holds for this caller")
    if node is not None:
        wanted = identity_of_node(node)
        if wanted in may_hold:
            return Selected(wanted)
        why = f"{node} is in no applied mesh" if wanted is None else f"the caller may not be {node}"
        return Refused(why, tuple(sorted(may_hold)))
    if len(may_hold) > 1:
        several = tuple(sorted(may_hold))
        names = ", ".join(map(str, several))
        return Refused(f"the caller may hold several identities and selects none by node.id: {names}", several)
    return Selected(may_hold.pop())
