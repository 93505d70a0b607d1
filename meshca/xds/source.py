"""The ports of xds: where a stream gets its resources from. Implemented by ``meshca.delivery``.

Life of a View: ``Source.open`` at the first request of a stream, then any number of ``fetch``, ``next_change``,
``acknowledged`` and ``rejected``, then ``close`` exactly once. All of it happens on one event loop; ``next_change``
may be waiting while another method runs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from meshca.xds.resource import Resource


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """What the first request of a stream says about its Envoy. It selects; it never grants."""

    id: str
    cluster: str = ""
    user_agent: str = ""
    metadata: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Found:
    """The answer to one question: what there is now, and what this caller may not have (name → reason)."""

    resources: Mapping[str, Resource]
    refused: Mapping[str, str] = field(default_factory=dict)


class View(Protocol):
    """What one stream may see, as it is now."""

    @property
    def node_id(self) -> str:
        """Return the node id the stream was opened with."""

    @property
    def spiffe_id(self) -> str:
        """Return the identity selected for this stream."""

    async def fetch(self, type_url: str, names: frozenset[str] | None, held: Mapping[str, str]) -> Found:
        """Return the named resources, or with ``None`` all that this caller may see.

        ``held`` are the versions a reconnecting delta client says it has (only with the first request of a type,
        else empty): a valid leaf among them costs no new one. A name in neither part of the answer doesn't exist.
        Names in the answer are the names asked for.

        Raises:
            MeshcaError: the stream ends with the matching status (RefusedError → PermissionDenied, …).
        """

    async def next_change(self) -> frozenset[str] | None:
        """Wait, then return the type URLs that may have changed since the last call (``None``: any).

        Changes that come while nobody waits are kept and united, none is lost.

        Raises:
            MeshcaError: the stream ends with the matching status (a suspended caller of a dedicated SDS stream).
        """

    def acknowledged(self, type_url: str, resources: Mapping[str, Resource]) -> None:
        """Take note that the client has accepted these.

        Called only where the acknowledgement proves something: never for a secret whose bytes this node has NACKed.
        Called as well for what a reconnecting delta client names with our present version.
        """

    def dropped(self, type_url: str, names: frozenset[str]) -> None:
        """Take note that the client has accepted not to have these any more."""

    def kept(self, type_url: str, names: frozenset[str], message: str) -> None:
        """Take note that the client has rejected the response that took these away."""

    def rejected(self, type_url: str, resources: Mapping[str, Resource], message: str) -> None:
        """Take note of a NACK; ``message`` is the client's. It covers a response and names no resource."""

    def nacked_content(self, type_url: str) -> frozenset[str]:
        """Return the digests (``Resource.digest``) this node has NACKed, on this stream or before it."""

    def reworded(self, resource: Resource, attempt: int) -> Resource:
        """Return the same meaning in other bytes (text after a PEM block), different for every ``attempt`` ≥ 1.

        Return ``resource`` itself where that can't be done.
        """

    def close(self) -> None:
        """Release what the stream held. Never raises."""


class Source(Protocol):
    """Opens a View for each stream."""

    async def open(self, peer: str, node: NodeInfo, *, dedicated: bool) -> View:
        """Open the view of one stream; ``peer`` is ``context.peer()``.

        ``dedicated`` tells an SDS stream (SDS's own service) from ADS, where a suspended caller's stream stays open.

        Raises:
            MeshcaError: the stream ends with the matching status (RefusedError → PermissionDenied, …).
        """


class Changes:
    """A mailbox for ``View.next_change``: marks are united until somebody collects them."""

    __slots__ = ("_all", "_error", "_types", "_waiter")

    def __init__(self) -> None:
        self._types: set[str] = set()
        self._all = False
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None

    def mark(self, type_urls: Iterable[str] | None) -> None:
        """Note that these types (``None``: any) may have changed."""
        if type_urls is None:
            self._all = True
        else:
            self._types.update(type_urls)
        self._wake()

    def fail(self, error: Exception) -> None:
        """Make the waiting and every later ``next`` raise ``error``."""
        self._error = error
        self._wake()

    async def next(self) -> frozenset[str] | None:
        """Wait for a mark; return and forget what has been marked since the last call."""
        while not (self._types or self._all or self._error):
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        if self._error:
            raise self._error
        marked = None if self._all else frozenset(self._types)
        self._types.clear()
        self._all = False
        return marked

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
