"""One stream to the server, for all local streams of one node: what came is kept, and answered once they have answered.

Rules kept here:
- Bytes are passed on as they came; nothing is understood but names and versions. Certificates are never asked for here.
- The server's response is acknowledged once every local stream that is to have it has acknowledged it, and rejected as
  soon as one rejects it. A local stream that has gone, or no longer wants it, is not waited for.
- What came last is served while the server is away; on a new stream it is named as held, if all have accepted it.
- A local stream that answers nothing for a while holds up a revocation for its siblings: it is ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from meshca.client.delta import DeltaResponse, DeltaStream
from meshca.errors import MeshcaError, UnavailableError
from meshca.xds.messages import WILDCARD
from meshca.xds.resource import CDS, LDS, SDS, Resource
from meshca.xds.schedule import ORDER

_log = structlog.get_logger(__name__)

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 1.0
_PATIENCE = 10.0
_TAKEN_AWAY = frozenset({LDS, CDS})


class Local(Protocol):
    """A local stream, as far as its upstream knows it."""

    def wants(self, type_url: str, name: str) -> bool:
        """Say whether it is to have this resource."""

    def has(self, type_url: str, name: str, digest: str) -> bool:
        """Say whether it has acknowledged this content ("": any) of the name last."""

    def refuses(self, type_url: str, digest: str) -> str | None:
        """Return why its Envoy has rejected this very content before, or None."""

    def upstream_changed(self, type_url: str) -> None:
        """Look again at resources of a type."""

    def end(self, error: MeshcaError) -> None:
        """End the stream."""


@dataclass(eq=False, slots=True)
class _Unanswered:
    """A response that waits for local answers."""

    nonce: str
    content: dict[str, str]  # name to digest
    waiting: set[tuple[Local, str]] = field(default_factory=set)
    error: str | None = None


@dataclass(slots=True)
class _Interest:
    """What is asked for of one type, and what is known of it."""

    names: set[str] = field(default_factory=set)
    everything: bool = False
    heard: bool = False  # the server has answered since everything was asked for
    known: dict[str, Resource] = field(default_factory=dict)
    absent: set[str] = field(default_factory=set)
    unanswered: list[_Unanswered] = field(default_factory=list)


Send = Callable[[DeltaStream], Awaitable[None]]


class Upstream:
    """The stream of one node. Lives on one event loop."""

    def __init__(self, node_id: str, open_stream: Callable[[], DeltaStream]) -> None:
        self.node_id = node_id
        self._open_stream = open_stream
        self._types: dict[str, _Interest] = {}
        self._locals: set[Local] = set()
        self._outbox: asyncio.Queue[Send] | None = None
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._connected = False
        self.idle_since: float | None = None

    async def close(self) -> None:
        """End the stream for good."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    # ---- local streams

    def join(self, local: Local) -> None:
        """Serve a local stream."""
        self._locals.add(local)
        self.idle_since = None

    def leave(self, local: Local, now: float) -> None:
        """Forget a local stream."""
        self._locals.discard(local)
        for type_url in self._types:
            self._settle(type_url, lambda one, _: one is not local)
        if not self._locals:
            self.idle_since = now

    async def fetch(self, type_url: str, names: frozenset[str] | None) -> dict[str, Resource]:
        """Return the named resources, or all; waits for the server's first answer about them while it may come."""
        interest = self._subscribe(type_url, names)
        while not _answered(interest, names) and (self._connected or not interest.known):
            await self._news.wait()
        if names is None:
            return dict(interest.known)
        return {name: interest.known[name] for name in names if name in interest.known}

    def acknowledged(self, local: Local, type_url: str, name: str, digest: str) -> None:
        """Note that a local stream has accepted a content."""
        interest = self._types.get(type_url)
        if interest is None:
            return
        newest = interest.known.get(name)
        is_newest = newest is None or newest.digest == digest

        def still(one: Local, waited: str, response: _Unanswered) -> bool:
            mine = one is local and waited == name
            return not (mine and (is_newest or response.content.get(name) == digest))

        self._settle_each(type_url, still)

    def given_up(self, local: Local, type_url: str, names: Collection[str]) -> None:
        """Note what a local stream no longer has, or no longer wants."""
        self._settle(type_url, lambda one, name: one is not local or name not in names)
        interest = self._types.get(type_url)
        if interest is None:
            return
        unwanted = {n for n in interest.names & set(names) if not any(one.wants(type_url, n) for one in self._locals)}
        if unwanted:
            interest.names -= unwanted
            interest.absent -= unwanted
            for name in unwanted:
                interest.known.pop(name, None)
            self._send(lambda stream: stream.ask(type_url, (), given_up=unwanted))

    def rejected(self, type_url: str, digests: Collection[str], message: str) -> None:
        """Note that a local stream has rejected contents."""
        interest = self._types.get(type_url)
        for response in interest.unanswered if interest else ():
            if not set(response.content.values()).isdisjoint(digests):
                response.error = message or "rejected without a message"
                response.waiting.clear()
        self._answer(type_url)

    # ---- inside

    def _subscribe(self, type_url: str, names: frozenset[str] | None) -> _Interest:
        interest = self._types.get(type_url)
        fresh = interest is None
        interest = self._types.setdefault(type_url, _Interest())
        if names is None:
            if not interest.everything:
                interest.everything = True
                self._send(lambda stream: stream.ask(type_url, () if fresh else (WILDCARD,)))
        elif new := names - interest.names:
            interest.names |= new
            self._send(lambda stream: stream.ask(type_url, new))
        if self._task is None:  # connected only once there is something to ask for
            self._task = asyncio.create_task(self._run())
        return interest

    def _send(self, send: Send) -> None:
        if self._outbox is not None:  # else all of it is said when there is a stream again
            self._outbox.put_nowait(send)

    async def _run(self) -> None:
        pause, said = _FIRST_PAUSE, ""
        while True:
            stream = self._open_stream()
            writer: asyncio.Task[None] | None = None
            try:
                self._outbox = asyncio.Queue()
                await self._greet(stream)
                self._connected = True
                writer = asyncio.create_task(self._write(stream, self._outbox))
                while True:
                    response = await stream.read()
                    pause, said = _FIRST_PAUSE, ""
                    self._take(response)
            except MeshcaError as error:
                if str(error) != said:
                    said = str(error)
                    _log.debug("upstream ended", node=self.node_id, reason=said)
            finally:
                self._outbox = None
                if writer is not None:
                    writer.cancel()
                stream.close()
                self._lost()
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    async def _greet(self, stream: DeltaStream) -> None:
        """Ask for all that is wanted, and say what is there already."""
        for type_url in (*ORDER, *(set(self._types) - set(ORDER))):
            if interest := self._types.get(type_url):
                held = {name: r.version for name, r in interest.known.items() if self._is_settled(type_url, r)}
                names = {*interest.names, *({WILDCARD} if interest.everything and interest.names else ())}
                await stream.ask(type_url, names, held)

    async def _write(self, stream: DeltaStream, outbox: asyncio.Queue[Send]) -> None:
        try:
            while True:
                send = await outbox.get()
                await send(stream)
        except MeshcaError:
            return  # reading says it as well

    def _take(self, response: DeltaResponse) -> None:
        type_url = response.type_url
        interest = self._types.setdefault(type_url, _Interest())
        resources = [Resource(type_url, r.name, r.version, r.body) for r in response.resources]
        for resource in resources:
            interest.known[resource.name] = resource
            interest.absent.discard(resource.name)
        for name in response.removed:
            interest.known.pop(name, None)
            interest.absent.add(name)
        interest.heard = True
        waited = self._waited(type_url, resources, response)
        interest.unanswered.append(waited)
        self._tell_news()
        for local in tuple(self._locals):
            local.upstream_changed(type_url)
        if type_url == SDS and waited.waiting:
            asyncio.get_running_loop().call_later(_PATIENCE, self._lose_patience, waited)
        self._answer(type_url)

    def _waited(self, type_url: str, resources: Iterable[Resource], response: DeltaResponse) -> _Unanswered:
        found = _Unanswered(response.nonce, {resource.name: resource.digest for resource in resources})
        for local in self._locals:
            for name, digest in found.content.items():
                if not local.wants(type_url, name):
                    continue
                if (why := local.refuses(type_url, digest)) is not None:
                    found.error = why
                elif not local.has(type_url, name, digest):
                    found.waiting.add((local, name))
            if type_url in _TAKEN_AWAY:
                found.waiting |= {(local, name) for name in response.removed if local.has(type_url, name, "")}
        if found.error is not None:
            found.waiting.clear()
        return found

    def _settle(self, type_url: str, still: Callable[[Local, str], bool]) -> None:
        self._settle_each(type_url, lambda one, name, _: still(one, name))

    def _settle_each(self, type_url: str, still: Callable[[Local, str, _Unanswered], bool]) -> None:
        if interest := self._types.get(type_url):
            for response in interest.unanswered:
                response.waiting = {(one, name) for one, name in response.waiting if still(one, name, response)}
            self._answer(type_url)

    def _answer(self, type_url: str) -> None:
        """Answer in order what nobody is waited for any more."""
        interest = self._types.get(type_url)
        while interest and interest.unanswered and not interest.unanswered[0].waiting:
            done = interest.unanswered.pop(0)
            self._send(lambda stream, done=done: stream.answer(type_url, done.nonce, done.error))  # type: ignore[misc]

    def _is_settled(self, type_url: str, resource: Resource) -> bool:
        return all(
            one.has(type_url, resource.name, resource.digest)
            for one in self._locals
            if one.wants(type_url, resource.name)
        )

    def _lose_patience(self, response: _Unanswered) -> None:
        for local in {one for one, _ in response.waiting}:
            local.end(UnavailableError(f"no answer to a change of secrets within {_PATIENCE:g} s"))

    def _lost(self) -> None:
        self._connected = False
        for interest in self._types.values():
            interest.unanswered.clear()
        self._tell_news()

    def _tell_news(self) -> None:
        self._news.set()
        self._news = asyncio.Event()


def _answered(interest: _Interest, names: frozenset[str] | None) -> bool:
    if names is None:
        return interest.heard
    return names <= interest.known.keys() | interest.absent
