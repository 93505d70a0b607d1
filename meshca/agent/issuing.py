"""Leaves for those behind this agent: keys are made here, CSRs go to the server in batches.

Implements ``delivery.ports.Issuing``. Rules: a key leaves this process only to the workload it is for; whoever asks
while a batch is under way joins the next; a wish that fails fails alone.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from meshca.client.agent import WorkloadCertificate, WorkloadRequest
from meshca.delivery.peers import node_word
from meshca.delivery.ports import Leaf
from meshca.delivery.workloads import NODE_ID
from meshca.errors import MeshcaError, UnavailableError
from meshca.keys.requesting import new_request
from meshca.spiffe.id import SpiffeId

_LARGEST_BATCH = 50
_LINGER = 0.002
_LONGEST_QUEUE = 10_000
_WORKLOAD = node_word(NODE_ID)

Sign = Callable[[Sequence[WorkloadRequest]], Awaitable[list[WorkloadCertificate | MeshcaError]]]


@dataclass(slots=True, eq=False)
class _Wish:
    spiffe_id: SpiffeId
    word: str
    answer: asyncio.Future[Leaf]


def word_of(holder: str) -> str:
    """Return the agent's word for a holder (``stream:PID:START:NODE``).

    Envoys of one ``node.id`` share their word, as they share the stream on which the server learns which trust they
    have; on the Workload API each process speaks for itself.
    """
    _, pid, start, node = holder.split(":")
    return f"{pid}:{start}:{node}" if node == _WORKLOAD else node


class AgentIssuing:
    """The queue in front of the server. Lives on one event loop."""

    def __init__(self, sign: Sign, key_type: Callable[[], str]) -> None:
        self._sign = sign
        self._key_type = key_type
        self._queue: deque[_Wish] = deque()
        self._working: asyncio.Task[None] | None = None

    async def leaf(self, spiffe_id: SpiffeId, holder: str, requested_by: str) -> Leaf:
        """Make a key and have it certified.

        Raises:
            MeshcaError: There is none: the server refuses it, or does not answer.
        """
        if len(self._queue) >= _LONGEST_QUEUE:
            raise UnavailableError("too many certificates are being waited for", value=requested_by)
        wish = _Wish(spiffe_id, word_of(holder), asyncio.get_running_loop().create_future())
        self._queue.append(wish)
        if self._working is None:
            self._working = asyncio.create_task(self._work())
        return await wish.answer

    async def held(self, _serial: str, _spiffe_id: SpiffeId, _holder: str) -> Leaf | None:
        """Return None: what this process has not made it has no key of."""
        return None

    async def close(self) -> None:
        """Refuse what is still waited for."""
        if self._working is not None:
            self._working.cancel()
            await asyncio.gather(self._working, return_exceptions=True)
        for wish in self._queue:
            wish.answer.cancel()

    async def _work(self) -> None:
        try:
            await asyncio.sleep(_LINGER)
            while self._queue:
                batch = [self._queue.popleft() for _ in range(min(len(self._queue), _LARGEST_BATCH))]
                await self._batch([wish for wish in batch if not wish.answer.done()])
        finally:
            self._working = None

    async def _batch(self, batch: Sequence[_Wish]) -> None:
        kind = self._key_type()
        made = await asyncio.to_thread(lambda: [new_request(kind) for _ in batch])
        requests = [
            WorkloadRequest(str(wish.spiffe_id), csr, wish.word) for wish, (_, csr) in zip(batch, made, strict=True)
        ]
        answers: Sequence[WorkloadCertificate | MeshcaError]
        try:
            answers = await self._sign(requests)
        except MeshcaError as error:
            answers = [error] * len(batch)
        except BaseException:
            for wish in batch:
                wish.answer.cancel()
            raise
        for wish, (key_pem, _), answer in zip(batch, made, answers, strict=True):
            _tell(wish, key_pem, answer)


def _tell(wish: _Wish, key_pem: bytes, answer: WorkloadCertificate | MeshcaError) -> None:
    if wish.answer.done():
        return
    if isinstance(answer, MeshcaError):
        wish.answer.set_exception(answer)
        return
    wish.answer.set_result(
        Leaf(
            serial=answer.serial,
            spiffe_id=wish.spiffe_id,
            not_before=answer.not_before,
            not_after=answer.not_after,
            signed_at=answer.signed_at,
            chain_pem=answer.chain,
            key_pem=key_pem,
            issuer_id=answer.issuer,
        )
    )


class AgentTokens:
    """JWT-SVIDs for those behind this agent: the server signs them. Implements ``delivery.ports.TokenIssuing``."""

    def __init__(self, ask: Callable[[str, Sequence[str]], Awaitable[str]]) -> None:
        self._ask = ask

    async def token(self, spiffe_id: SpiffeId, audience: tuple[str, ...], requested_by: str) -> str:
        """Return a token of this identity for this audience.

        Raises:
            MeshcaError: There is none: the server refuses it, or does not answer.
        """
        if not audience:
            raise UnavailableError("a token is for somebody", field="audience", value=requested_by)
        return await self._ask(str(spiffe_id), audience)

    async def ready(self) -> None:
        """See that there is a key that signs.

        Raises:
            MeshcaError: There is none.
        """
        await self._ask("", ())
