"""Which agents are connected, and what they have been asked to renew. Lives on the event loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from dataclasses import dataclass, field

from meshca.delivery.snapshot import Snapshot
from meshca.policy.entitlement import is_behind
from meshca.spiffe.id import SpiffeId


@dataclass(slots=True)
class AgentHub:
    """Counts; both begin anew with each process, and an agent takes a smaller number than before for what it is."""

    watching: Counter[str] = field(default_factory=Counter)
    replacing: dict[tuple[str, SpiffeId], asyncio.Event] = field(default_factory=dict)
    rotations: Counter[SpiffeId] = field(default_factory=Counter)

    async def replaced(self, holder: str, spiffe_id: SpiffeId, seconds: float) -> None:
        """Wait until a holder behind an agent has another leaf in force, or so long."""
        told = self.replacing.setdefault((holder, spiffe_id), asyncio.Event())
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(told.wait(), seconds)
        self.replacing.pop((holder, spiffe_id), None)

    def has_leaf(self, holder: str, spiffe_id: SpiffeId) -> None:
        """Note that a holder behind an agent has a leaf in force."""
        if told := self.replacing.get((holder, spiffe_id)):
            told.set()

    def rotate(self, spiffe_id: SpiffeId, snapshot: Snapshot) -> int:
        """Ask the agents that are parents of an identity for new leaves; return how many are connected."""
        self.rotations[spiffe_id] += 1
        entries = [entry for entry in snapshot.registrations if entry.spiffe_id == spiffe_id and entry.parent]
        connected = [agent for agent, streams in self.watching.items() if streams > 0]
        return sum(any(is_behind(entry, agent) for entry in entries) for agent in connected)
