"""Requests and responses as the state machine sees them: the same for SotW and delta, free of protobuf.

Named tuples: a push makes several for each of thousands of streams, and a frozen dataclass costs three times as much.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from meshca.xds.resource import Resource

WILDCARD = "*"
_NOTHING: Mapping[str, str] = MappingProxyType({})


class Request(NamedTuple):
    """One discovery request. ``error`` is the text of a NACK; None where the client rejects nothing."""

    type_url: str
    nonce: str = ""
    error: str | None = None
    names: frozenset[str] = frozenset()
    """SotW: all names wanted from now on. Delta: the names subscribed to by this request."""
    unsubscribed: frozenset[str] = frozenset()
    """Delta only."""
    held: Mapping[str, str] = _NOTHING
    """Delta only: the versions a reconnecting client says it has."""


class Response(NamedTuple):
    """One discovery response; ``version`` covers all the client has of this type once it accepts."""

    nonce: str
    version: str
    resources: tuple[Resource, ...] = ()
    removed: tuple[str, ...] = ()
    unchanged: frozenset[str] = frozenset()
    """Names that are in it only because it is a full set."""


class Accepted(NamedTuple):
    """The client has accepted these resources."""

    resources: Mapping[str, Resource]
    version: str
    removed: frozenset[str] = frozenset()
    """What it no longer has: left out of a full set, or taken away from a delta client."""


class Rejected(NamedTuple):
    """The client has rejected the response that carried these; which of them it doesn't say."""

    resources: Mapping[str, Resource]
    message: str
    removed: frozenset[str] = frozenset()


Verdict = Accepted | Rejected
