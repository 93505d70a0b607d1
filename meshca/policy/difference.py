"""What one change of the meshes changes in who may call whom.

Rules kept here:
- Narrowed is what was admitted and is no longer: open connections of these must end (design §7).
- Both sides are compared by identity, so a node that takes another identity is a change.
- Swapping old and new swaps widened and narrowed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from meshca.policy.admission import BackendPermission, Permission, Policy

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

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
    before, after = old.clients_by_listener, new.clients_by_listener
    accepted, accepts = old.servers_by_backend, new.servers_by_backend
    return PolicyDifference(
        widened=tuple(_permissions(after, before)),
        narrowed=tuple(_permissions(before, after)),
        widened_backends=tuple(_backend_permissions(accepts, accepted)),
        narrowed_backends=tuple(_backend_permissions(accepted, accepts)),
        gained=tuple(sorted(new.calls - old.calls)),
        lost=tuple(sorted(old.calls - new.calls)),
    )


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
