"""JWT-SVIDs, made beside the event loop. Implements ``delivery.ports.TokenIssuing``.

Rules: a pool of its own, so that callers who ask for many tokens hold up nobody but each other; so many wait at most.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from meshca.authority.authority import Authority
from meshca.authority.tokens import TokenRequest
from meshca.errors import ExhaustedError, MeshcaError
from meshca.server.metrics import Metrics
from meshca.spiffe.id import SpiffeId

# So many share a commit at most.
_WORKERS = 4
_LONGEST_QUEUE = 2_000


class TokenIssuance:
    """Makes tokens. Lives on one event loop."""

    def __init__(self, authority: Authority, metrics: Metrics) -> None:
        self._authority = authority
        self._metrics = metrics
        self._waiting = 0
        self._workers = ThreadPoolExecutor(_WORKERS, thread_name_prefix="tokens")

    async def token(self, spiffe_id: SpiffeId, audience: tuple[str, ...], requested_by: str) -> str:
        """Return a token of this identity for this audience.

        Raises:
            MeshcaError: There is none.
        """
        if self._waiting >= _LONGEST_QUEUE:
            raise ExhaustedError("too many tokens are being waited for", remedy="try again later")
        self._waiting += 1
        try:
            made = await self._in_pool(TokenRequest(spiffe_id, audience, requested_by))
        except MeshcaError:
            self._metrics.refused.labels("issue").inc()
            raise
        finally:
            self._waiting -= 1
        self._metrics.issued.labels("jwt").inc()
        return made

    async def ready(self) -> None:
        """See that there is a key that signs."""
        keys = self._authority.jwt_keys
        if keys.trust.signing is None:
            await asyncio.get_running_loop().run_in_executor(self._workers, keys.require)

    async def _in_pool(self, request: TokenRequest) -> str:
        issue = self._authority.tokens.issue
        return (await asyncio.get_running_loop().run_in_executor(self._workers, issue, request)).text

    def close(self) -> None:
        """Finish what was asked for; take no more."""
        self._workers.shutdown()
