"""Responses that the client has yet to answer, oldest first."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import NamedTuple

from meshca.xds.resource import Resource

_MAX_UNDER_WAY = 4
_FORMER_NONCES = 8


class Batch(NamedTuple):
    """The resources of one response: as they are, and in the words that were sent."""

    version: str
    meant: Mapping[str, Resource]
    sent: Mapping[str, Resource]
    introduces: bool = False
    """Some names in it were new to the client."""
    removed: frozenset[str] = frozenset()
    """What it takes away from the client."""


class Flight:
    """The responses under way of one subscription, by nonce."""

    __slots__ = ("_batches", "_former", "last_nonce")

    def __init__(self) -> None:
        self._batches: dict[str, Batch] = {}
        self.last_nonce = ""
        self._former: deque[str] = deque(maxlen=_FORMER_NONCES)

    def __bool__(self) -> bool:
        return bool(self._batches)

    @property
    def full(self) -> bool:
        """Return whether no more may be sent before an answer."""
        return len(self._batches) >= _MAX_UNDER_WAY

    @property
    def introduces(self) -> bool:
        """Return whether names new to the client are under way."""
        return any(batch.introduces for batch in self._batches.values())

    @property
    def names(self) -> set[str]:
        """Return the names under way."""
        return {name for batch in self._batches.values() for name in batch.sent}

    @property
    def digests(self) -> dict[str, str]:
        """Return the content under way and in which name, by digest, both as it is and in the words that were sent."""
        contents = [content for batch in self._batches.values() for content in (batch.meant, batch.sent)]
        return {resource.digest: name for content in contents for name, resource in content.items()}

    def stale(self, nonce: str) -> bool:
        """Return whether a newer response was sent after the one with this nonce ("": after none)."""
        return nonce in self._former

    def add(self, nonce: str, batch: Batch) -> None:
        """Note that a response was sent."""
        self._batches[nonce] = batch
        self._former.append(self.last_nonce)
        self.last_nonce = nonce

    def land(self, nonce: str) -> Batch | None:
        """Take out the response that was answered; None if that nonce awaits no answer.

        It is united with older ones: SotW clients may answer several with the newest nonce.
        """
        if nonce not in self._batches:
            return None
        if len(self._batches) == 1:
            return self._batches.pop(nonce)
        meant: dict[str, Resource] = {}
        sent: dict[str, Resource] = {}
        removed: frozenset[str] = frozenset()
        while True:
            oldest = next(iter(self._batches))
            batch = self._batches.pop(oldest)
            meant |= batch.meant
            sent |= batch.sent
            removed = (removed - batch.sent.keys()) | batch.removed
            if oldest == nonce:
                return Batch(batch.version, meant, sent, removed=removed)
