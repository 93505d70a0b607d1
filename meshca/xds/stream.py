"""One open stream: a reader that takes requests in, and a writer that sends what is due.

Rules this module keeps:
- All state is in the subscriptions; reader and writer only move it. Nothing is queued: a slow client finds the newest
  state when it comes back, and grpc's flow control holds the writer.
- The first request fixes who the stream is for. A later node is never looked at.
- A dedicated SDS stream ends when a name is refused, naming it (as SPIRE's); on ADS the name is simply not there.
- Errors of ours end the stream in words; any other as "internal error".
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Set
from dataclasses import dataclass
from functools import partial

from meshca.errors import InvalidInputError
from meshca.xds import schedule, wire
from meshca.xds.messages import Accepted, Rejected, Request, Response
from meshca.xds.registry import StreamRow, StreamTable
from meshca.xds.resource import ADS_TYPES, CDS, EDS, SDS
from meshca.xds.source import View
from meshca.xds.subscription import Subscription

PATIENCE = 0.25
_MAX_DESCRIBED = 10


class RefusedNamesError(InvalidInputError):
    """Names were asked for that this caller may not have."""


@dataclass(frozen=True, slots=True)
class Transport:
    """Which of the four streams this is."""

    delta: bool
    dedicated: bool

    @property
    def types(self) -> frozenset[str]:
        """Return the types it serves."""
        return frozenset({SDS}) if self.dedicated else ADS_TYPES


Read = Callable[[], Awaitable[bytes | None]]
Write = Callable[[bytes], Awaitable[None]]


class Stream:
    """One client's stream, from its first request to its end."""

    def __init__(self, transport: Transport, view: View, table: StreamTable, nonce_prefix: str) -> None:
        self._transport = transport
        self._view = view
        self._table = table
        self._nonce_prefix = nonce_prefix
        self._nonces = 0
        self._subscriptions: dict[str, Subscription] = {}
        self._nacks: dict[str, str] = {}
        self._refused: dict[str, dict[str, str]] = {}
        self._wake = asyncio.Event()
        self._ended = False
        self._error: Exception | None = None
        self._patience: asyncio.TimerHandle | None = None
        self._since = table.clock()
        self.node_id = view.node_id
        self.spiffe_id = view.spiffe_id
        self._node = (view.node_id, view.spiffe_id)

    # -- what others see

    def rows(self) -> Iterator[StreamRow]:
        """Return a row for each type."""
        for type_url, subscription in self._subscriptions.items():
            yield StreamRow(
                self.node_id,
                self.spiffe_id,
                type_url,
                subscription.version_sent,
                subscription.version_acked,
                self._nacks.get(type_url, ""),
                self._since,
                self._refused.get(type_url, {}),
            )

    def something_was_accepted(self) -> None:
        """Give secrets in doubt another attempt: on another stream the same node has accepted one."""
        if (secrets := self._subscriptions.get(SDS)) is not None and secrets.doubt:
            secrets.retry()
            self._wake.set()

    # -- life

    async def run(self, first: Request, read: Read, write: Write) -> None:
        """Serve until the client ends the stream.

        Raises:
            MeshcaError: the stream ends with the matching status.
        """
        self._table.add(self)
        tasks: list[asyncio.Task[None]] = []
        try:
            self._take(first)
            tasks = [asyncio.create_task(self._guard(work)) for work in (partial(self._read, read), self._watch)]
            await self._write(write)
        finally:
            self._table.remove(self)
            if (secrets := self._subscriptions.get(SDS)) is not None:
                self._table.unanswered.add(self._node, secrets.flight.digests)
            if self._patience is not None:
                self._patience.cancel()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _guard(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except Exception as error:  # raised again by the writer, which owns the stream
            self._error = error
        self._ended = True
        self._wake.set()

    async def _read(self, read: Read) -> None:
        while (raw := await read()) is not None:
            request, _node = wire.parse(raw, self._transport.types, delta=self._transport.delta)
            self._take(request)
            if self._pending:  # most requests are acknowledgements, and call for nothing
                self._wake.set()

    async def _watch(self) -> None:
        while True:
            changed = await self._view.next_change()
            for type_url, subscription in self._subscriptions.items():
                if changed is None or type_url in changed:
                    subscription.change()
            self._wake.set()

    async def _write(self, write: Write) -> None:
        self._wake.set()
        while True:
            await self._wake.wait()
            self._wake.clear()
            if self._error is not None:
                raise self._error
            if self._ended:
                return
            # A stream that is to end does so, however much the client goes on asking.
            while self._pending and self._error is None and await self._round(write):
                pass
            if self._pending:
                self._mind_patience()

    @property
    def _pending(self) -> bool:
        return any(subscription.pending for subscription in self._subscriptions.values())

    # -- requests

    def _take(self, request: Request) -> None:
        self._table.counters.requests += 1
        subscription = self._subscriptions.get(request.type_url)
        if subscription is None:
            subscription = Subscription(request.type_url, delta=self._transport.delta)
            self._subscriptions[request.type_url] = subscription
        doubted = bool(subscription.doubt)
        verdict = subscription.receive(request)
        wire.require_names(len(subscription.interest.names))
        if isinstance(verdict, Rejected):
            self._note_rejected(request.type_url, verdict)
        elif verdict is not None:
            self._note_accepted(subscription, verdict, doubted=doubted)

    def _note_rejected(self, type_url: str, verdict: Rejected) -> None:
        self._table.counters.nacks += 1
        self._nacks[type_url] = verdict.message or "rejected without a message"
        self._view.rejected(type_url, verdict.resources, verdict.message)
        if verdict.removed:
            self._view.kept(type_url, verdict.removed, verdict.message)
        if type_url == SDS:
            self._table.doubts(self)

    def _note_accepted(self, subscription: Subscription, verdict: Accepted, *, doubted: bool) -> None:
        self._table.counters.acks += 1
        if not subscription.doubt:
            self._nacks.pop(subscription.type_url, None)
        if verdict.removed:
            self._view.dropped(subscription.type_url, verdict.removed)
        if not verdict.resources:
            return
        self._view.acknowledged(subscription.type_url, verdict.resources)
        if subscription.type_url == SDS:
            self._note_secrets(subscription, verdict, doubted=doubted)

    def _note_secrets(self, subscription: Subscription, verdict: Accepted, *, doubted: bool) -> None:
        self._table.unanswered.accepted(self._node, verdict.resources)
        if not subscription.doubt:
            self._table.settled(self)
        for sibling in self._table.doubting_siblings(self):
            sibling.something_was_accepted()
        if doubted and not subscription.doubt:
            # A listener is rejected because of a bad secret it uses; with the secret repaired it may be asked again.
            for other in self._subscriptions.values():
                other.retry()

    # -- responses

    async def _round(self, write: Write) -> bool:
        """Send at most one response of each type, in order; return whether anything was sent."""
        sent = False
        for type_url in schedule.ORDER:
            subscription = self._subscriptions.get(type_url)
            if subscription is not None and schedule.may_send(subscription, self._subscriptions):
                sent |= await self._send_next(subscription, write)
        for type_url in schedule.REMOVAL_ORDER if self._transport.delta else ():
            subscription = self._subscriptions.get(type_url)
            if subscription is not None and schedule.may_remove(subscription, self._subscriptions):
                sent |= await self._send(subscription, subscription.next_removal(self._nonce()), write)
        return sent

    async def _send_next(self, subscription: Subscription, write: Write) -> bool:
        await self._fetch(subscription)
        response = subscription.next_response(self._nonce(), self._view.reworded)
        if response is not None and subscription.type_url == CDS and EDS in self._subscriptions:
            # Envoy warms a changed cluster with endpoints it expects to be sent again, under the cluster's name.
            changed = {resource.name for resource in response.resources} - response.unchanged
            self._subscriptions[EDS].resend(changed)
        return await self._send(subscription, response, write)

    async def _fetch(self, subscription: Subscription) -> None:
        type_url = subscription.type_url
        while questions := subscription.ask():
            for names in questions:
                found = await self._view.fetch(type_url, names, subscription.held)
                self._note_refused(type_url, names, found.refused)
                had = subscription.offer(found.resources, self._rejected(type_url))
                if had is not None:
                    self._view.acknowledged(type_url, had.resources)

    def _rejected(self, type_url: str) -> Set[str]:
        rejected = self._view.nacked_content(type_url)
        return rejected | self._table.unanswered.of(self._node) if type_url == SDS else rejected

    def _note_refused(self, type_url: str, names: frozenset[str] | None, refused: Mapping[str, str]) -> None:
        known = self._refused.get(type_url, {})
        self._table.counters.refused += len(refused.keys() - known.keys())
        if refused and self._transport.dedicated:
            raise RefusedNamesError(describe(refused))
        others = {} if names is None else {name: reason for name, reason in known.items() if name not in names}
        self._refused[type_url] = {**others, **refused}

    async def _send(self, subscription: Subscription, response: Response | None, write: Write) -> bool:
        if response is None:
            return False
        self._table.counters.responses += 1
        serialise = wire.delta if self._transport.delta else wire.sotw
        await write(serialise(subscription.type_url, response))
        return True

    def _nonce(self) -> str:
        self._nonces += 1
        return f"{self._nonce_prefix}{self._nonces}"

    def _mind_patience(self) -> None:
        if self._patience is None and schedule.somebody_waits(self._subscriptions):
            self._patience = asyncio.get_running_loop().call_later(PATIENCE, self._lose_patience)

    def _lose_patience(self) -> None:
        self._patience = None
        if not schedule.somebody_waits(self._subscriptions):
            return
        for subscription in self._subscriptions.values():
            if subscription.flight:
                subscription.lose_patience()
        self._wake.set()


def describe(refused: Mapping[str, str]) -> str:
    """Return which names are refused, and why, in one line (the first words are SPIRE's)."""
    shown = sorted(refused)[:_MAX_DESCRIBED]
    names = ", ".join(f'"{name}" ({refused[name]})' if refused[name] else f'"{name}"' for name in shown)
    more = f" and {len(refused) - len(shown)} more" if len(refused) > len(shown) else ""
    return f"workload is not authorized for the requested identities [{names}]{more}"
