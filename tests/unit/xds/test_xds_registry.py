"""The table of open streams."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from meshca.xds.registry import StreamRow, StreamTable

START = datetime(2026, 1, 1, tzinfo=UTC)


class Open:
    def __init__(self, node: str, *types: str, identity: str = "spiffe://m.test/a", age: int = 0) -> None:
        self.node_id = node
        self.spiffe_id = identity
        self.types = types
        self.since = START - timedelta(seconds=age)

    def rows(self) -> Iterator[StreamRow]:
        for type_url in self.types:
            yield StreamRow(self.node_id, self.spiffe_id, type_url, "", "", "", self.since)

    def something_was_accepted(self) -> None:
        """Take no note."""


def table_of(*streams: Open) -> StreamTable:
    table = StreamTable(lambda: START)
    for stream in streams:
        table.add(stream)
    return table


def test_rows_come_by_node_type_and_age() -> None:
    table = table_of(Open("b", "x"), Open("a", "y", "x"), Open("a", "x", age=5))

    rows = [(row.node_id, row.type_url, row.connected_since) for row in table.rows()]
    assert rows == [("a", "x", START - timedelta(seconds=5)), ("a", "x", START), ("a", "y", START), ("b", "x", START)]


def test_siblings_share_node_and_identity_and_are_in_doubt() -> None:
    one, two, sure = Open("a"), Open("a"), Open("a")
    others = (Open("b"), Open("a", identity="spiffe://m.test/b"))
    table = table_of(one, two, sure, *others)
    for stream in (one, two, *others):
        table.doubts(stream)

    assert table.doubting_siblings(one) == [two]
    assert table.doubting_siblings(sure) == [one, two]
    table.settled(two)
    table.settled(two)
    assert table.doubting_siblings(one) == []


def test_a_removed_stream_is_forgotten_and_removing_it_again_harmless() -> None:
    stream, sibling = Open("a", "x"), Open("a", "x")
    table = table_of(stream, sibling, Open("b", "x"))
    table.doubts(stream)
    table.remove(stream)
    table.remove(stream)

    assert len(table) == 2
    assert [row.node_id for row in table.rows()] == ["a", "b"]
    assert table.doubting_siblings(sibling) == []
