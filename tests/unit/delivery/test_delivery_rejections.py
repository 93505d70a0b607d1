from __future__ import annotations

from meshca.delivery.rejections import Rejections


def test_a_node_s_rejections_are_remembered_by_type() -> None:
    rejections = Rejections()
    rejections.add("a", "sds", ["1", "2"])
    rejections.add("a", "lds", ["3"])
    assert rejections.of("a", "sds") == {"1", "2"}
    assert rejections.of("b", "sds") == frozenset()


def test_memory_is_bounded_and_keeps_the_newest() -> None:
    rejections = Rejections()
    for number in range(10_000):
        rejections.add("a", "sds", [str(number)])
        rejections.add(f"node {number}", "sds", ["x"])
    assert rejections.of("a", "sds") == {str(number) for number in range(10_000 - 64, 10_000)}
    assert rejections.of("node 0", "sds") == frozenset()
