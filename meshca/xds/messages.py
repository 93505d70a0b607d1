"""Requests and responses as the state machine sees them: the same for SotW and delta, free of protobuf."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from meshca.xds.resource import Resource

WILDCARD = "*"


@dataclass(frozen=True, slots=True)
class Request:
    """One discovery request. ``error`` is the text of a NACK; None where the client rejects nothing."""

    type_url: str
    nonce: str = ""
    error: str | None = None
    names: frozenset[str] = frozenset()
    """SotW: all names wanted from now on. Delta: the names subscribed to by this request."""
    unsubscribed: frozenset[str] = frozenset()
    """Delta only."""
    held: Mapping[str, str] = field(default_factory=dict)
    """Delta only: the versions a reconnecting client says it has."""


@dataclass(frozen=True, slots=True)
class Response:
    """One discovery response; ``version`` covers all the client has of this type once it accepts."""

    nonce: str
    version: str
    resources: tuple[Resource, ...] = ()
    removed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Accepted:
    """The client has accepted these resources."""

    resources: Mapping[str, Resource]
    version: str


@dataclass(frozen=True, slots=True)
class Rejected:
    """The client has rejected the response that carried these; which of them it doesn't say."""

    resources: Mapping[str, Resource]
    message: str


Verdict = Accepted | Rejected
