"""Who may hold which identity: registrations, and the choice among what a caller is entitled to.

Rules kept here (design §2):
- E1 All selectors of one registration must hold; registrations of one caller add up.
- E2 A `node.id` selects among the identities that the attested caller is entitled to. It never grants one.
- E3 A caller entitled to several that selects none is refused with the list; never 'the first'.
- E4 A `node.id` of App Mesh's form that names another's identity, or nobody's, is refused, whatever else holds.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from meshca.errors import InvalidInputError
from meshca.spiffe.id import SpiffeId

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from meshca.mesh.noderef import NodeRef

_SELECTOR = re.compile(r"(?P<type>unix:[ug]id):(?P<value>0|[1-9][0-9]{0,9})")
_LARGEST_ID = 2**32 - 2  # (uid_t)-1 means 'no change' to chown(2) and is nobody's


class SelectorError(InvalidInputError):
    """A selector that is not understood."""


@dataclass(frozen=True, slots=True, order=True)
class Selector:
    """A property of a process that the kernel vouches for."""

    type: str
    value: str

    def __str__(self) -> str:
        return f"{self.type}:{self.value}"


@dataclass(frozen=True, slots=True)
class Registration:
    """Who has all these selectors may hold this identity."""

    id: str
    spiffe_id: SpiffeId
    selectors: frozenset[Selector]
    parent: str = ""


@dataclass(frozen=True, slots=True)
class Selected:
    """The identity that a caller gets."""

    spiffe_id: SpiffeId


@dataclass(frozen=True, slots=True)
class Refused:
    """Why a caller gets none, and which it could select."""

    reason: str
    entitled: tuple[SpiffeId, ...] = ()


def parse_selector(text: str) -> Selector:
    """Return the selector that a text spells in its one canonical way.

    Raises:
        SelectorError: it is none of `unix:uid:NUMBER` and `unix:gid:NUMBER`.
    """
    match = _SELECTOR.fullmatch(text)
    if match is None or int(match["value"]) > _LARGEST_ID:
        raise SelectorError(
            f"a selector is unix:uid:N or unix:gid:N, N from 0 to {_LARGEST_ID} without leading zeros",
            field="selector",
            value=text,
            remedy="give the number that `id` shows",
        )
    return Selector(match["type"], match["value"])


def entitled(selectors: frozenset[Selector], registrations: Iterable[Registration]) -> tuple[Registration, ...]:
    """E1: return the registrations that a caller with these selectors satisfies."""
    # A registration without selectors would hold for everybody: it holds for nobody.
    return tuple(entry for entry in registrations if entry.selectors and entry.selectors <= selectors)


def select(
    entitlements: Iterable[Registration], node: NodeRef | None, identity_of_node: Callable[[NodeRef], SpiffeId | None]
) -> Selected | Refused:
    """E2 to E4: return the identity that the caller's `node.id` selects among its entitlements."""
    may_hold = tuple(sorted({entry.spiffe_id for entry in entitlements}))
    if not may_hold:
        return Refused("no registration holds for this caller")
    if node is not None:
        wanted = identity_of_node(node)
        if wanted is None:
            return Refused(f"{node} is in no applied mesh", may_hold)
        return Selected(wanted) if wanted in may_hold else Refused(f"the caller may not be {node}", may_hold)
    if len(may_hold) > 1:
        several = ", ".join(str(spiffe_id) for spiffe_id in may_hold)
        return Refused(f"the caller may hold several identities and selects none by node.id: {several}", may_hold)
    return Selected(may_hold[0])
