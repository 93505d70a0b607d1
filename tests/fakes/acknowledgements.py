"""Acknowledgements in memory over an in-memory ledger, with every promise of ``authority.ports.Acknowledgements``."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from fakes.ledger import InMemoryLedger

from meshca.authority.ports import Straggler
from meshca.authority.records import CertificateFilter, CertificateRecord
from meshca.authority.requests import DROP_ONCE, ISSUED_ONCE
from meshca.spiffe.id import SpiffeId

Holding = tuple[str, SpiffeId]


@dataclass
class InMemoryAcknowledgements:
    """``trust`` is the generation that each holder has put in force, ``leaves`` the issuer of its leaf."""

    ledger: InMemoryLedger
    trust: dict[Holding, int] = field(default_factory=dict)
    leaves: dict[Holding, str] = field(default_factory=dict)

    def acknowledge(self, holder: str, spiffe_id: SpiffeId, generation: int = 0, issuer_id: str = "") -> None:
        """Note that a holder has put a trust generation, or a leaf of a CA, in force."""
        held = (holder, spiffe_id)
        self.trust[held] = max(generation, self.trust.get(held, 0))
        self.leaves[held] = issuer_id or self.leaves.get(held, "")

    def stragglers(self, generation: int, at: datetime) -> list[Straggler]:
        return [found for found in self._holding(at) if found.acknowledged < generation]

    def holders(self, at: datetime) -> int:
        return len(self._holding(at))

    def still_on(self, issuer_id: str, at: datetime) -> list[Straggler]:
        held = {(record.holder, record.spiffe_id) for record in self._live(at) if record.issuer_id == issuer_id}
        return [found for found in self._holding(at) if self._is_on(issuer_id, (found.holder, found.spiffe_id), held)]

    def _is_on(self, issuer_id: str, holding: Holding, held: set[Holding]) -> bool:
        acknowledged = self.leaves.get(holding, "")
        return acknowledged == issuer_id or (not acknowledged and holding in held)

    def _holding(self, at: datetime) -> list[Straggler]:
        kinds = {(record.holder, record.spiffe_id): record.kind for record in self._live(at)}
        return [
            Straggler(holder, kind, spiffe_id, self.trust.get((holder, spiffe_id), 0))
            for (holder, spiffe_id), kind in sorted(kinds.items(), key=str)
        ]

    def _live(self, at: datetime) -> list[CertificateRecord]:
        return [
            record
            for record in self.ledger.certificates(CertificateFilter(at, status="valid"))
            if record.holder != ISSUED_ONCE and not record.holder.startswith(DROP_ONCE)
        ]
