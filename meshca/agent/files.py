"""What the drops of this host ask their agent, in place of a server: trust, certificates, acknowledgements.

Implements ``drop.source.TrustApi``.

Rules kept here:
- Called from the drops' own threads; everything else of an agent lives on its event loop.
- A file can have the identities that a registration behind this agent names, and no others.
- The last word of the server stands while the server is away; who asks for a certificate then hears that it is.
- A drop is a holder of its own: the server waits for its word, which comes once the files are in use (design §7).
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from typing import Any, TypeVar

from meshca.agent.journal import AgentJournal
from meshca.client.agent import Holding, Holdings, WorkloadCertificate, WorkloadRequest
from meshca.client.values import Issued, SigningRequest, Trust
from meshca.errors import ConflictError, MeshcaError, NotFoundError, UnavailableError
from meshca.spiffe.id import SpiffeId

Sign = Callable[[Sequence[WorkloadRequest]], Awaitable[list[WorkloadCertificate | MeshcaError]]]
T = TypeVar("T")

_WORD = re.compile(r"[A-Za-z0-9._-]{1,64}")


class NotBehindUsError(NotFoundError):
    """No registration behind this agent names it."""


def word_for(name: str) -> str:
    """Return the agent's word for the drop of this name."""
    return f"drop:{name if _WORD.fullmatch(name) else hashlib.sha256(name.encode()).hexdigest()[:16]}"


class FileDesk:
    """The desk for files; made on the event loop, used from threads."""

    def __init__(self, sign: Sign, journal: AgentJournal) -> None:
        self._sign = sign
        self._journal = journal
        self._loop = asyncio.get_running_loop()
        self._news = threading.Condition()
        self._holdings: Holdings | None = None
        self._waiting: set[Future[Any]] = set()
        self._ended = False

    # ---- on the event loop

    def apply(self, holdings: Holdings) -> None:
        """Put in force what the server says."""
        with self._news:
            self._holdings = holdings
            self._news.notify_all()

    def close(self) -> None:
        """Let whoever waits go, and answer nobody any more."""
        with self._news:
            self._ended = True
            self._news.notify_all()
            waiting = tuple(self._waiting)
        for one in waiting:
            one.cancel()

    # ---- in the drops' threads

    def resolve(self, node: str) -> SpiffeId:
        """Return the identity of a node behind this agent: by name, ``node.id`` or SPIFFE ID.

        Raises:
            NotBehindUsError: There is none.
            ConflictError: There are several.
            UnavailableError: The server has not said yet what is behind this agent.
        """
        behind = self._current().holdings
        found = {one.spiffe_id for one in behind if node in {one.node_id, one.spiffe_id, _name(one)}}
        if len(found) > 1:
            choice = ", ".join(sorted(found))
            raise ConflictError(f"may mean {choice}", field="node", value=node, remedy="write one of them")
        if not found:
            raise _unknown(node)
        return SpiffeId.parse(found.pop())

    @property
    def key_types(self) -> tuple[str, ...]:
        """Return which types of keys leaves may have, the first one preferred."""
        return self._current().key_types

    def watch_trust(self, holder: str, spiffe_id: str = "") -> Iterator[Trust]:
        """Yield the trust at once, and again after each change of what the server says."""
        del holder  # it is named with what it acknowledges
        last: Holdings | None = None
        while True:
            last = self._next(last)
            yield _trust(last, spiffe_id)

    def issue(self, requests: Sequence[SigningRequest]) -> list[Issued | MeshcaError]:
        """Have a batch signed; ``node`` is a SPIFFE ID here.

        Raises:
            MeshcaError: The server does not answer.
        """
        asked = [WorkloadRequest(one.node, one.csr, one.holder, one.dns_names) for one in requests]

        async def sign() -> list[WorkloadCertificate | MeshcaError]:
            return await self._sign(asked)

        answers = self._run(sign())
        return [_issued(one.spiffe_id, answer) for one, answer in zip(asked, answers, strict=True)]

    def acknowledge_trust(self, holder: str, spiffe_id: str, generation: int, serial: str = "") -> None:
        """Say that a trust generation and this leaf are in force; the server hears of it when it is there."""

        async def note() -> None:
            self._journal.file_in_use(holder, spiffe_id, serial, generation)

        self._run(note())

    # ---- inside

    def _current(self) -> Holdings:
        with self._news:
            if self._holdings is None:
                raise UnavailableError("the agent has not reached its server yet")
            return self._holdings

    def _next(self, last: Holdings | None) -> Holdings:
        with self._news:
            self._news.wait_for(lambda: self._ended or (self._holdings is not None and self._holdings is not last))
            if self._ended or self._holdings is None:
                raise _going_down()
            return self._holdings

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        """Have something done on the event loop, and wait for it."""
        with self._news:
            if self._ended:
                work.close()
                raise _going_down()
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
            self._waiting.add(future)
        try:
            return future.result()
        except CancelledError:
            raise _going_down() from None
        finally:
            with self._news:
                self._waiting.discard(future)


def _name(one: Holding) -> str:
    return one.node_id.rsplit("/", 1)[-1]


def _unknown(node: str) -> NotBehindUsError:
    remedy = "meshca register NODE --selector S --parent AGENT, with this agent's name"
    return NotBehindUsError("no registration behind this agent names it", field="node", value=node, remedy=remedy)


def _going_down() -> UnavailableError:
    return UnavailableError("the agent is going down")


def _trust(holdings: Holdings, spiffe_id: str) -> Trust:
    if spiffe_id not in {one.spiffe_id for one in holdings.holdings}:
        raise _unknown(spiffe_id)
    return Trust(
        generation=holdings.generation,
        bundle=holdings.bundle,
        crl=holdings.crl,
        revoked=tuple(holdings.revoked),
        suspended=spiffe_id in holdings.suspended,
        leaf_crl_only=holdings.leaf_crl_only,
    )


def _issued(spiffe_id: str, answer: WorkloadCertificate | MeshcaError) -> Issued | MeshcaError:
    if isinstance(answer, MeshcaError):
        return answer
    return Issued(answer.serial, spiffe_id, answer.not_before, answer.not_after, answer.chain)
