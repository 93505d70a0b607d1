"""Responses that the client has yet to answer, oldest first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from meshca.xds.resource import Resource

_MAX_UNDER_WAY = 4


@dataclass(frozen=True, slots=True)
class Batch:
    """The resources of one response: as they are, and in the words that were sent."""

    version: str
    meant: Mapping[str, Resource]
    sent: Mapping[str, Resource]
    introduces: bool = False
    """Some names in it were new to the client."""


class Flight:
    """The responses under way of one subscription, by nonce."""

    __slots__ = ("_batches", "last_nonce")

    def __init__(self) -> None:
        self._batches: dict[str, Batch] = {}
        self.last_nonce = ""

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

    def add(self, nonce: str, batch: Batch) -> None:
        """Note that a response was sent."""
        self._batches[nonce] = batch
        self.last_nonce = nonce

    def land(self, nonce: str) -> Batch | None:
        """Take out the response that was answered; None if that nonce awaits no answer.

        It is united with older ones: SotW clients may answer several with the newest nonce.
        """
        if nonce not in self._batches:
            return None
        meant: dict[str, Resource] = {}
        sent: dict[str, Resource] = {}
        while True:
            oldest = next(iter(self._batches))
            batch = self._batches.pop(oldest)
            meant |= batch.meant
            sent |= batch.sent
            if oldest == nonce:
                return Batch(batch.version, meant, sent)
