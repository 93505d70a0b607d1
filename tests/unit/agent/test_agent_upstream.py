"""The stream that local streams share, against a server that a test plays."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from meshca.agent import upstream as upstream_module
from meshca.agent.upstream import Upstream
from meshca.client.delta import DeltaResource, DeltaResponse, DeltaStream
from meshca.errors import MeshcaError, UnavailableError
from meshca.xds.resource import CDS, SDS, Resource

Asked = tuple[str, tuple[str, ...], dict[str, str], tuple[str, ...]]


class Server:
    """The other end of one stream."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.answers: list[tuple[str, str, str | None]] = []
        self._inbox: asyncio.Queue[DeltaResponse | MeshcaError] = asyncio.Queue()

    async def ask(
        self,
        type_url: str,
        names: Collection[str],
        held: Mapping[str, str] | None = None,
        given_up: Collection[str] = (),
    ) -> None:
        self.asked.append((type_url, tuple(sorted(names)), dict(held or {}), tuple(sorted(given_up))))

    async def answer(self, type_url: str, nonce: str, error: str | None = None) -> None:
        self.answers.append((type_url, nonce, error))

    async def read(self) -> DeltaResponse:
        found = await self._inbox.get()
        if isinstance(found, MeshcaError):
            raise found
        return found

    def close(self) -> None:
        pass

    def send(self, type_url: str, nonce: str, *names: str, version: str = "1", removed: Collection[str] = ()) -> None:
        resources = tuple(DeltaResource(name, version, f"{name} {version}".encode()) for name in names)
        self._inbox.put_nowait(DeltaResponse(type_url, nonce, resources, frozenset(removed)))

    def go(self) -> None:
        self._inbox.put_nowait(UnavailableError("gone"))


class Local:
    """A local stream that wants everything and accepts what it is told to."""

    def __init__(self) -> None:
        self.accepted: dict[tuple[str, str], str] = {}
        self.refused: set[str] = set()
        self.told: list[str] = []
        self.ended: MeshcaError | None = None

    def wants(self, type_url: str, name: str) -> bool:
        return True

    def has(self, type_url: str, name: str, digest: str) -> bool:
        found = self.accepted.get((type_url, name))
        return found is not None and digest in {"", found}

    def refuses(self, type_url: str, digest: str) -> str | None:
        return "before" if digest in self.refused else None

    def upstream_changed(self, type_url: str) -> None:
        self.told.append(type_url)

    def end(self, error: MeshcaError) -> None:
        self.ended = error

    def accept(self, upstream: Upstream, resource: Resource) -> None:
        self.accepted[resource.type_url, resource.name] = resource.digest
        upstream.acknowledged(self, resource.type_url, resource.name, resource.digest)


@asynccontextmanager
async def shared() -> AsyncIterator[tuple[Upstream, list[Server]]]:
    servers: list[Server] = []

    def connect() -> DeltaStream:
        servers.append(Server())
        return cast("DeltaStream", servers[-1])

    made = Upstream("mesh/m/virtualNode/n", connect)
    try:
        yield made, servers
    finally:
        await made.close()


async def until(holds: Any) -> None:
    async with asyncio.timeout(5):
        while not holds():
            await asyncio.sleep(0.005)


async def fetched(
    upstream: Upstream, servers: list[Server], type_url: str, *names: str, nonce: str = "a"
) -> dict[str, Any]:
    asking = asyncio.create_task(upstream.fetch(type_url, frozenset(names)))
    await until(lambda: servers and servers[-1].asked)
    servers[-1].send(type_url, nonce, *names)
    return dict(await asking)


async def test_nothing_is_connected_before_something_is_asked_for() -> None:
    async with shared() as (upstream, servers):
        upstream.join(Local())
        await asyncio.sleep(0)
        assert servers == []
        assert (await fetched(upstream, servers, SDS, "x"))["x"].body == b"x 1"
        assert servers[0].asked == [(SDS, ("x",), {}, ())]


async def test_answers_go_up_in_order_once_all_have_answered() -> None:
    async with shared() as (upstream, servers):
        one, two = Local(), Local()
        upstream.join(one)
        upstream.join(two)
        first = (await fetched(upstream, servers, CDS, "x"))["x"]
        servers[0].send(CDS, "b", "y")
        await until(lambda: len(one.told) == 2)
        second = (await upstream.fetch(CDS, frozenset({"y"})))["y"]
        for local in (one, two):
            local.accept(upstream, second)
        await asyncio.sleep(0.01)
        assert servers[0].answers == []  # "a" first
        one.accept(upstream, first)
        two.accept(upstream, first)
        await until(lambda: servers[0].answers == [(CDS, "a", None), (CDS, "b", None)])


async def test_what_is_superseded_is_answered_by_what_came_after_it() -> None:
    async with shared() as (upstream, servers):
        local = Local()
        upstream.join(local)
        await fetched(upstream, servers, CDS, "x")
        servers[0].send(CDS, "b", "x", version="2")
        await until(lambda: len(local.told) == 2)
        local.accept(upstream, (await upstream.fetch(CDS, frozenset({"x"})))["x"])
        await until(lambda: [nonce for _, nonce, _ in servers[0].answers] == ["a", "b"])


async def test_one_rejection_is_all_ones_rejection() -> None:
    async with shared() as (upstream, servers):
        one, two = Local(), Local()
        upstream.join(one)
        upstream.join(two)
        found = (await fetched(upstream, servers, SDS, "x"))["x"]
        upstream.rejected(SDS, [found.digest], "no")
        await until(lambda: servers[0].answers == [(SDS, "a", "no")])
        # The same bytes again: its Envoy would acknowledge them as a no-op, so it is not asked.
        one.refused.add(found.digest)
        servers[0].send(SDS, "b", "x")
        await until(lambda: servers[0].answers[1:] == [(SDS, "b", "before")])


async def test_a_cluster_that_goes_is_waited_for_and_a_stream_that_went_is_not() -> None:
    async with shared() as (upstream, servers):
        one, two = Local(), Local()
        upstream.join(one)
        upstream.join(two)
        found = (await fetched(upstream, servers, CDS, "x"))["x"]
        one.accept(upstream, found)
        two.accept(upstream, found)
        servers[0].send(CDS, "b", removed=["x"])
        await until(lambda: len(one.told) == 2)
        await asyncio.sleep(0.01)
        assert len(servers[0].answers) == 1
        upstream.given_up(one, CDS, ["x"])
        upstream.leave(two, 0.0)
        await until(lambda: servers[0].answers[1:] == [(CDS, "b", None)])
        assert await upstream.fetch(CDS, frozenset({"x"})) == {}


async def test_on_a_new_stream_what_all_have_accepted_is_named_as_held() -> None:
    async with shared() as (upstream, servers):
        local = Local()
        upstream.join(local)
        local.accept(upstream, (await fetched(upstream, servers, SDS, "x"))["x"])
        servers[0].send(SDS, "b", "y")
        await until(lambda: len(local.told) == 2)
        servers[0].go()
        await until(lambda: len(servers) == 2 and servers[1].asked)
        assert servers[1].asked[0][2] == {"x": "1"}  # "y" was not answered: it comes again
        # Meanwhile both are served.
        assert set(await upstream.fetch(SDS, frozenset({"x"}))) == {"x"}


async def test_who_answers_nothing_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream_module, "_PATIENCE", 0.05)
    async with shared() as (upstream, servers):
        silent, quick = Local(), Local()
        upstream.join(silent)
        upstream.join(quick)
        quick.accept(upstream, (await fetched(upstream, servers, SDS, "x"))["x"])
        await until(lambda: silent.ended is not None)
        assert quick.ended is None
        upstream.leave(silent, 0.0)
        await until(lambda: servers[0].answers == [(SDS, "a", None)])
