"""What holders say they have in force, whichever API they say it by."""

from __future__ import annotations

import asyncio

from meshca.errors import InvalidInputError
from meshca.server.parts import Parts
from meshca.spiffe.id import SpiffeId


async def acknowledge(parts: Parts, holder: str, spiffe_id: SpiffeId, generation: int, serial: str) -> None:
    """Note that a holder has put a trust generation (0: none), and a leaf ("": none), in force.

    Raises:
        InvalidInputError: There is no such generation, or no such leaf of this holder.
    """
    if not 0 <= generation <= parts.state.snapshot.trust.generation:
        raise InvalidInputError("there is no such generation", field="generation", value=str(generation))
    if serial:
        leaf = await asyncio.to_thread(parts.house.authority.certificate, serial)
        if leaf is None or (leaf.spiffe_id, leaf.holder) != (spiffe_id, holder):
            raise InvalidInputError("no leaf of this holder", field="serial", value=serial)
        parts.journal.leaf_in_force(holder, spiffe_id, leaf.issuer_id)
    if generation:
        parts.journal.trust_in_force(holder, spiffe_id, generation)
