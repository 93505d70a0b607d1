"""Which agents are connected, and what they have been asked to renew. Lives on the event loop."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from meshca.delivery.snapshot import Snapshot
from meshca.spiffe.id import SpiffeId


@dataclass(slots=True)
class AgentHub:
    """Counts; both begin anew with each process, and an agent takes a smaller number than before for what it is."""

    watching: Counter[str] = field(default_factory=Counter)
    rotations: Counter[SpiffeId] = field(default_factory=Counter)

    def rotate(self, spiffe_id: SpiffeId, snapshot: Snapshot) -> int:
        """Ask the agents that are parents of an identity for new leaves; return how many are connected."""
        self.rotations[spiffe_id] += 1
        parents = {entry.parent for entry in snapshot.registrations if entry.spiffe_id == spiffe_id}
        return sum(self.watching[parent] > 0 for parent in parents - {""})
