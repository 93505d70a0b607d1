"""Watching: the newest value, an end told once, and nothing retried unasked."""

from __future__ import annotations

import queue
from typing import TYPE_CHECKING

import pytest

from meshca.drop.watch import Watch
from meshca.errors import RefusedError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE = 10.0


def test_the_newest_value_is_taken_once() -> None:
    feed: queue.SimpleQueue[int] = queue.SimpleQueue()
    watch = Watch(lambda: iter(feed.get, 0))
    feed.put(1)

    assert watch.take(PATIENCE) == 1
    assert watch.take(0) is None
    feed.put(2)
    assert watch.take(PATIENCE) == 2
    feed.put(0)


def test_the_end_is_told_once_and_asking_again_opens_again() -> None:
    opened = []

    def stream() -> Iterator[int]:
        opened.append(1)
        yield len(opened)
        raise RefusedError("no more")

    watch = Watch(stream)
    assert [watch.take(PATIENCE) for _ in range(1)] == [1]
    with pytest.raises(RefusedError, match="no more"):
        watch.take(PATIENCE)
    assert watch.take(PATIENCE) == 2


def test_a_stream_that_just_ends_is_an_error() -> None:
    with pytest.raises(UnavailableError, match="ended the stream"):
        Watch(lambda: iter(())).take(PATIENCE)
