"""What each node has rejected, by content, beyond the life of its streams.

Rule: bytes that an Envoy has NACKed are not proof of anything when it ACKs them later (design §5). Bounded: the nodes
last heard of, and each one's last rejections.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

_NODES, _CONTENTS = 4096, 64


class Rejections:
    """Digests by node and type."""

    def __init__(self) -> None:
        self._nodes: OrderedDict[tuple[str, str], OrderedDict[str, None]] = OrderedDict()

    def add(self, node: str, type_url: str, digests: Iterable[str]) -> None:
        """Remember a NACK."""
        known = self._nodes.setdefault((node, type_url), OrderedDict())
        self._nodes.move_to_end((node, type_url))
        for digest in digests:
            known[digest] = None
            known.move_to_end(digest)
        while len(known) > _CONTENTS:
            known.popitem(last=False)
        while len(self._nodes) > _NODES:
            self._nodes.popitem(last=False)

    def of(self, node: str, type_url: str) -> frozenset[str]:
        """Return what a node has rejected."""
        return frozenset(self._nodes.get((node, type_url), ()))
