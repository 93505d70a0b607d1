"""The certificate that the server shows over TCP.

Rules kept here (design §7):
- Its key is made for it, lies in memory alone, and is not older than half a life.
- There is none before somebody connects: a server that nobody calls over TCP holds no key for it.
- meshca's own certificate switches last: while others still serve leaves of the CA that signed it, the next one is put
  off, until five sixths of its life are over.
- It counts as a holder like any other: what trust it shows is acknowledged, so that no CA goes before it does.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Collection
from dataclasses import dataclass

import structlog

from meshca.attest.tcp import server_context
from meshca.authority.ports import Clock
from meshca.authority.trust import Trust
from meshca.delivery.ports import Journal, Leaf
from meshca.server.house import House
from meshca.server.issuance import Issuance, Order
from meshca.spiffe import reserved
from meshca.spiffe.id import SpiffeId

_log = structlog.get_logger(__name__)

_USUAL, _LATEST = 1 / 2, 5 / 6


@dataclass(frozen=True, slots=True)
class Shown:
    """Where a certificate is shown, whose it is, and how a handshake is answered with chain, key and roots in PEM."""

    where: str
    spiffe_id: SpiffeId
    answer: Callable[[bytes, bytes, bytes], ssl.SSLContext]


class OwnSvid:
    """Makes and renews it. Lives on the event loop."""

    def __init__(self, house: House, issuance: Issuance, journal: Journal, shown: Shown | None = None) -> None:
        replica = house.store.writer
        shown = shown or Shown("server", reserved.server(house.authority.realm.trust_domain, replica), server_context)
        self._authority = house.authority
        self._acknowledgements = house.acknowledgements
        self._clock = house.clock
        self._issuance = issuance
        self._journal = journal
        self._holder = f"{shown.where}:{replica}"
        self._answer = shown.answer
        self.spiffe_id = shown.spiffe_id
        self._leaf: Leaf | None = None
        self._made: tuple[Leaf, int, ssl.SSLContext] | None = None
        self._one = asyncio.Lock()

    async def context(self) -> ssl.SSLContext:
        """Return how to answer the next handshake.

        Raises:
            MeshcaError: There is no certificate, and none could be made.
        """
        async with self._one:
            leaf, trust = await self._current(), self._authority.trust
            if self._made is None or self._made[:2] != (leaf, trust.generation):
                context = self._answer(leaf.chain_pem, leaf.key_pem, trust.bundle_pem)
                self._made = (leaf, trust.generation, context)
                self._acknowledge(leaf, trust)
            return self._made[2]

    async def tick(self) -> None:
        """Renew what is due, and say which trust is shown; nothing happens before the first caller."""
        if self._leaf is not None:
            await self.context()

    def revoked(self, serials: Collection[str]) -> None:
        """Show another one from now on, if it is among these."""
        if self._leaf is not None and self._leaf.serial in serials:
            self._leaf = None

    async def _current(self) -> Leaf:
        leaf = self._leaf
        if leaf is not None and not await self._due(leaf):
            return leaf
        try:
            self._leaf = await self._issuance.one(Order(self.spiffe_id, self._holder, "server", self._holder))
        except Exception as error:
            if leaf is None or leaf.not_after <= self._clock.now():
                raise
            _log.warning("the server's own certificate was not renewed", reason=str(error))
            return leaf
        return self._leaf

    async def _due(self, leaf: Leaf) -> bool:
        trust, over = self._authority.trust, _part_over(leaf, self._clock)
        if leaf.issuer_id in trust.tainted or over >= _LATEST:
            return True
        if trust.signing is None or trust.signing.id == leaf.issuer_id:
            return over >= _USUAL
        return not await asyncio.to_thread(self._others_on, leaf.issuer_id)

    def _others_on(self, issuer_id: str) -> bool:
        behind = self._acknowledgements.still_on(issuer_id, self._clock.now())
        return any(straggler.holder != self._holder for straggler in behind)

    def _acknowledge(self, leaf: Leaf, trust: Trust) -> None:
        self._journal.leaf_in_force(self._holder, self.spiffe_id, leaf.issuer_id)
        self._journal.trust_in_force(self._holder, self.spiffe_id, trust.generation)


def _part_over(leaf: Leaf, clock: Clock) -> float:
    return (clock.now() - leaf.signed_at) / (leaf.not_after - leaf.signed_at)
