"""What one change of the meshes changes in who may call whom.

Rules kept here:
- Narrowed is what was admitted and is no longer: open connections of these must end (design §7).
- Both sides are compared by identity, so a node that takes another identity is a change.
- Swapping old and new swaps widened and narrowed.
- Compared are only callers that do not say the very same in both, and the clients of those; a policy made from another
  shares the rest (admission.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from meshca.policy.admission import BackendPermission, Permission, Policy

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from meshca.mesh.model import ObjectKey
    from meshca.spiffe.id import SpiffeId

KeyT = TypeVar("KeyT", bound="tuple[SpiffeId, Any]")

_NOBODY: frozenset[SpiffeId] = frozenset()


@dataclass(frozen=True, slots=True)
class PolicyDifference:
    """What becomes possible and what ceases to be."""

    widened: tuple[Permission, ...] = ()
    """Clients that listeners newly admit."""
    narrowed: tuple[Permission, ...] = ()
    """Clients that listeners no longer admit."""
    widened_backends: tuple[BackendPermission, ...] = ()
    """Servers that clients newly accept."""
    narrowed_backends: tuple[BackendPermission, ...] = ()
    """Servers that clients no longer accept."""
    gained: tuple[Permission, ...] = ()
    """Calls newly allowed, both sides and the way between them taken together."""
    lost: tuple[Permission, ...] = ()
    """Calls no longer allowed."""

    @property
    def is_empty(self) -> bool:
        """Tell whether nothing changes."""
        return self == PolicyDifference()


def diff(old: Policy, new: Policy) -> PolicyDifference:
    """Return what changes from one policy to the next."""
    differing = _differing(old, new)
    before, after = _listeners(old, differing), _listeners(new, differing)
    accepted, accepts = _backends(old, differing), _backends(new, differing)
    clients = _clients(old, new, differing)
    could = {call for client in clients for call in old.calls_of(client)}
    can = {call for client in clients for call in new.calls_of(client)}
    return PolicyDifference(
        widened=tuple(_permissions(after, before)),
        narrowed=tuple(_permissions(before, after)),
        widened_backends=tuple(_backend_permissions(accepts, accepted)),
        narrowed_backends=tuple(_backend_permissions(accepted, accepts)),
        gained=tuple(sorted(can - could)),
        lost=tuple(sorted(could - can)),
    )


def _differing(old: Policy, new: Policy) -> set[ObjectKey]:
    """Return the nodes and gateways that say something else, or hold another identity."""
    found = old.sides.keys() ^ new.sides.keys()
    if old.identities is not new.identities:
        return found | old.sides.keys() | new.sides.keys()
    return found | {key for key, sides in new.sides.items() if old.sides.get(key) is not sides}


def _clients(old: Policy, new: Policy, differing: set[ObjectKey]) -> set[ObjectKey]:
    """Return the differing callers, and who reaches one of them."""
    found = set(differing)
    for policy in (old, new):
        for key in differing:
            for port in policy.sides[key].listeners if key in policy.sides else ():
                found |= policy.graph.callers.get((key, port), frozenset())
    return found


def _listeners(policy: Policy, nodes: set[ObjectKey]) -> Listeners:
    """Return whom the listeners of these nodes admit, by identity and port."""
    return {
        (policy.identities.of(key), port): admission.ids
        for key in nodes
        if key in policy.sides
        for port, admission in policy.sides[key].listeners.items()
    }


def _backends(policy: Policy, clients: set[ObjectKey]) -> Backends:
    """Return whom these clients accept, by identity and service."""
    return {
        (policy.identities.of(key), service): admission.ids
        for key in clients
        if key in policy.sides
        for service, admission in policy.sides[key].backends.items()
    }


def _permissions(of: Listeners, without: Listeners) -> Iterator[Permission]:
    for (server, port), client in _more(of, without):
        yield Permission(client, server, port)


def _backend_permissions(of: Backends, without: Backends) -> Iterator[BackendPermission]:
    for (client, service), server in _more(of, without):
        yield BackendPermission(client, service, server)


def _more(
    of: Mapping[KeyT, frozenset[SpiffeId]], without: Mapping[KeyT, frozenset[SpiffeId]]
) -> Iterator[tuple[KeyT, SpiffeId]]:
    """Yield what the first holds and the second does not, in order."""
    for key in sorted(of):
        for peer in sorted(of[key] - without.get(key, _NOBODY)):
            yield key, peer


if TYPE_CHECKING:
    Listeners = Mapping[tuple[SpiffeId, int], frozenset[SpiffeId]]
    Backends = Mapping[tuple[SpiffeId, str], frozenset[SpiffeId]]
