"""Revocations that come within 50 ms share one CRL (design §7).

Rule: whoever joins is answered by a publication that began after they joined. The loop sleeps, no thread waits.
"""

from __future__ import annotations

import asyncio

from meshca.authority.authority import Authority
from meshca.authority.coalescing import WINDOW
from meshca.authority.trust import Trust
from meshca.errors import MeshcaError, UnavailableError


class UnpublishedError(UnavailableError):
    """The ledger has it, but no CRL says it yet."""


class Publication:
    """Publishes CRLs for all who ask within a window. Lives on one event loop."""

    def __init__(self, authority: Authority, window: float = WINDOW) -> None:
        self._authority = authority
        self._window = window
        self._turn: asyncio.Task[Trust] | None = None

    async def join(self) -> Trust:
        """Return the trust that says all that was committed before this call.

        Raises:
            UnpublishedError: It could not be made; the next tick tries again.
        """
        if self._turn is None:
            self._turn = asyncio.create_task(self._publish())
        try:
            return await asyncio.shield(self._turn)
        except MeshcaError as error:
            raise UnpublishedError(
                f"it is in the ledger, but no CRL could be published: {error}",
                remedy="nothing needs to be repeated; see the warnings of `meshca status`",
            ) from error

    async def _publish(self) -> Trust:
        await asyncio.sleep(self._window)
        self._turn = None
        return await asyncio.to_thread(self._authority.publish_crls)
