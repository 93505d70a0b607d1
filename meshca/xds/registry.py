"""The streams that are open, for ``envoy list`` and for streams of one node that need to know of each other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol


@dataclass(frozen=True, slots=True)
class StreamRow:
    """One type on one stream."""

    node_id: str
    spiffe_id: str
    type_url: str
    version_sent: str
    version_acked: str
    nack: str
    """The client's last rejection, empty once everything it rejected has been accepted in some form."""
    connected_since: datetime
    refused: Mapping[str, str] = field(default_factory=dict)
    """Names asked for that this caller may not have, with the reason."""


@dataclass(slots=True)
class Counters:
    """What streams have seen since the start."""

    streams: int = 0
    requests: int = 0
    responses: int = 0
    acks: int = 0
    nacks: int = 0
    refused: int = 0
    failed: int = 0


class Listed(Protocol):
    """An open stream, as the table knows it."""

    node_id: str
    spiffe_id: str

    def rows(self) -> Iterator[StreamRow]:
        """Return a row for each type."""

    def something_was_accepted(self) -> None:
        """Take note that the same node has accepted a secret on another stream."""


class StreamTable:
    """All open streams of a server; used on one event loop."""

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self.clock = clock
        self.counters = Counters()
        self._streams: dict[tuple[str, str], dict[int, Listed]] = {}

    def __len__(self) -> int:
        return sum(len(streams) for streams in self._streams.values())

    def add(self, stream: Listed) -> None:
        """List a stream."""
        self._streams.setdefault((stream.node_id, stream.spiffe_id), {})[id(stream)] = stream

    def remove(self, stream: Listed) -> None:
        """Forget a stream."""
        key = (stream.node_id, stream.spiffe_id)
        streams = self._streams.get(key, {})
        streams.pop(id(stream), None)
        if not streams:
            self._streams.pop(key, None)

    def siblings(self, stream: Listed) -> list[Listed]:
        """Return the other streams of the same node and identity."""
        return [
            other for other in self._streams.get((stream.node_id, stream.spiffe_id), {}).values() if other is not stream
        ]

    def rows(self) -> list[StreamRow]:
        """Return one row per stream and type, ordered by node, type and age."""
        found = [row for streams in self._streams.values() for stream in streams.values() for row in stream.rows()]
        return sorted(found, key=lambda row: (row.node_id, row.type_url, row.connected_since))
