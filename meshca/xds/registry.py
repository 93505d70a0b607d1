"""The streams that are open, for ``envoy list`` and for streams of one node that need to know of each other."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Container, Iterator, Mapping, Set
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

_MAX_NODES, _MAX_CONTENTS = 4_096, 1_024


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


class Unanswered:
    """Secrets that were under way when their stream ended: the client's answer was lost, and it may have been a NACK.

    Sent again as they are they would be acknowledged without proof (design §5), so a new stream of the same node treats
    them as rejected until a content of that name is accepted. Bounded: the nodes and contents last heard of.
    """

    def __init__(self) -> None:
        self._nodes: OrderedDict[tuple[str, str], dict[str, str]] = OrderedDict()

    def add(self, node: tuple[str, str], contents: Mapping[str, str]) -> None:
        """Remember contents: their names by digest."""
        if not contents:
            return
        known = self._nodes.setdefault(node, {})
        self._nodes.move_to_end(node)
        known.update(contents)
        for digest in list(known)[:-_MAX_CONTENTS]:
            del known[digest]
        if len(self._nodes) > _MAX_NODES:
            self._nodes.popitem(last=False)

    def of(self, node: tuple[str, str]) -> Set[str]:
        """Return the digests remembered for a node."""
        return self._nodes[node].keys() if node in self._nodes else frozenset()

    def accepted(self, node: tuple[str, str], names: Container[str]) -> None:
        """Forget the contents of these names."""
        if node not in self._nodes:
            return
        left = {digest: name for digest, name in self._nodes[node].items() if name not in names}
        if left:
            self._nodes[node] = left
        else:
            del self._nodes[node]


class Listed(Protocol):
    """An open stream, as the table knows it."""

    node_id: str
    spiffe_id: str

    def rows(self) -> Iterator[StreamRow]:
        """Return a row for each type."""

    def something_was_accepted(self) -> None:
        """Take note that the same node has accepted a secret on another stream."""


class StreamTable:
    """All open streams of a server; used on one event loop.

    Many Envoys may share a node id (replicas), so nothing here costs more for every stream of the same node: only those
    in doubt are looked up by node.
    """

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self.clock = clock
        self.counters = Counters()
        self.unanswered = Unanswered()
        self._streams: dict[int, Listed] = {}
        self._doubting: dict[tuple[str, str], dict[int, Listed]] = {}

    def __len__(self) -> int:
        return len(self._streams)

    def add(self, stream: Listed) -> None:
        """List a stream."""
        self._streams[id(stream)] = stream

    def remove(self, stream: Listed) -> None:
        """Forget a stream."""
        self._streams.pop(id(stream), None)
        self.settled(stream)

    def doubts(self, stream: Listed) -> None:
        """Note that a stream has secrets in doubt, see ``doubt``."""
        self._doubting.setdefault((stream.node_id, stream.spiffe_id), {})[id(stream)] = stream

    def settled(self, stream: Listed) -> None:
        """Note that a stream has nothing in doubt any more."""
        key = (stream.node_id, stream.spiffe_id)
        if (doubting := self._doubting.get(key)) is None:
            return
        doubting.pop(id(stream), None)
        if not doubting:
            del self._doubting[key]

    def doubting_siblings(self, stream: Listed) -> list[Listed]:
        """Return the other streams of the same node and identity that have secrets in doubt."""
        doubting = self._doubting.get((stream.node_id, stream.spiffe_id))
        return [other for other in doubting.values() if other is not stream] if doubting else []

    def rows(self) -> list[StreamRow]:
        """Return one row per stream and type, ordered by node, type and age."""
        found = [row for stream in self._streams.values() for row in stream.rows()]
        return sorted(found, key=lambda row: (row.node_id, row.type_url, row.connected_since))
