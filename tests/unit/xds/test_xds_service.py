"""The streams over grpc.aio with a small source behind them: what is bad costs its own stream and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import grpc
import grpc.aio
import pytest
from envoy.service.discovery.v3.discovery_pb2 import (
    DeltaDiscoveryRequest,
    DeltaDiscoveryResponse,
    DiscoveryRequest,
    DiscoveryResponse,
)

from meshca.errors import MeshcaError, RefusedError
from meshca.xds.registry import StreamTable
from meshca.xds.resource import CDS, LDS, SDS, Resource
from meshca.xds.service import ADS_SERVICE, SDS_SERVICE, SERVER_OPTIONS, handlers
from meshca.xds.source import Changes, Found, NodeInfo

T = TypeVar("T")
STREAM_SECRETS = f"/{SDS_SERVICE}/StreamSecrets"
DELTA_SECRETS = f"/{SDS_SERVICE}/DeltaSecrets"
FETCH_SECRETS = f"/{SDS_SERVICE}/FetchSecrets"
ADS = f"/{ADS_SERVICE}/StreamAggregatedResources"
DELTA_ADS = f"/{ADS_SERVICE}/DeltaAggregatedResources"
ALL_STREAMS = (STREAM_SECRETS, DELTA_SECRETS, ADS, DELTA_ADS)

pytestmark = pytest.mark.timeout(60)


async def soon(work: Awaitable[T]) -> T:
    return await asyncio.wait_for(work, 20)


def resource(name: str, content: str = "1", type_url: str = SDS) -> Resource:
    return Resource(type_url, name, f"v{content}", f"{name} {content}".encode())


class FakeView:
    """What one stream may see: everything its source has, save the names it forbids."""

    def __init__(self, source: FakeSource, node: NodeInfo) -> None:
        self.node_id = node.id
        self.spiffe_id = "spiffe://m.test/a"
        self.changes = Changes()
        self._source = source
        self.gone: list[tuple[str, ...]] = []
        self.stayed: list[tuple[str, ...]] = []
        self.accepted: asyncio.Queue[list[str]] = asyncio.Queue()
        self.messages: asyncio.Queue[str] = asyncio.Queue()
        self._nacked: set[str] = set()

    async def fetch(self, type_url: str, names: frozenset[str] | None, held: Mapping[str, str]) -> Found:
        del held
        if self._source.failure is not None:
            raise self._source.failure
        mine = {r.name: r for r in self._source.resources if r.type_url == type_url}
        wanted = mine.keys() if names is None else names
        refused = {name: "not yours" for name in wanted if name in self._source.forbidden}
        return Found({name: mine[name] for name in wanted if name in mine and name not in refused}, refused)

    async def next_change(self) -> frozenset[str] | None:
        return await self.changes.next()

    def dropped(self, type_url: str, names: frozenset[str]) -> None:
        self.gone.append((type_url, *sorted(names)))

    def kept(self, type_url: str, names: frozenset[str], message: str) -> None:
        self.stayed.append((type_url, *sorted(names), message))

    def acknowledged(self, type_url: str, resources: Mapping[str, Resource]) -> None:
        del type_url
        self.accepted.put_nowait(sorted(resources))

    def rejected(self, type_url: str, resources: Mapping[str, Resource], message: str) -> None:
        del type_url
        self._nacked |= {r.digest for r in resources.values()}
        self.messages.put_nowait(message)

    def nacked_content(self, type_url: str) -> frozenset[str]:
        del type_url
        return frozenset(self._nacked)

    def reworded(self, resource: Resource, attempt: int) -> Resource:
        del attempt
        return resource

    def close(self) -> None:
        self._source.open_views.discard(self)
        if not self._source.open_views:
            self._source.idle.set()


class FakeSource:
    def __init__(self) -> None:
        self.resources = [resource("a"), resource("b"), resource("c", type_url=CDS), resource("l", type_url=LDS)]
        self.forbidden: set[str] = set()
        self.failure: Exception | None = None
        self.turned_away: MeshcaError | None = None
        self.views: list[FakeView] = []
        self.open_views: set[FakeView] = set()
        self.idle = asyncio.Event()
        self.idle.set()

    async def open(self, peer: str, node: NodeInfo, *, dedicated: bool) -> FakeView:
        del peer, dedicated
        if self.turned_away is not None:
            raise self.turned_away
        view = FakeView(self, node)
        self.views.append(view)
        self.open_views.add(view)
        self.idle.clear()
        return view

    def change(self, *resources: Resource) -> None:
        new = {(r.type_url, r.name) for r in resources}
        self.resources = [r for r in self.resources if (r.type_url, r.name) not in new] + list(resources)
        for view in self.views:
            view.changes.mark(None)


class Client:
    """One stream, raw bytes out and messages in."""

    def __init__(self, channel: grpc.aio.Channel, method: str) -> None:
        open_stream: Any = channel.stream_stream(method)
        self.call = open_stream(timeout=30)
        self._answer: Any = DeltaDiscoveryResponse if "Delta" in method else DiscoveryResponse

    async def send(self, raw: bytes) -> None:
        await soon(self.call.write(raw))

    async def ask(self, *names: str, type_url: str = SDS, nonce: str = "", error: str = "") -> None:
        message = DiscoveryRequest(type_url=type_url, resource_names=names, response_nonce=nonce)
        message.node.id = "node"
        if error:
            message.error_detail.message = error
        await self.send(message.SerializeToString())

    async def read(self) -> Any:
        return self._answer.FromString(await soon(self.call.read()))

    async def status(self) -> tuple[grpc.StatusCode, str]:
        # The status comes after the messages: a client that doesn't read these doesn't see it.
        with contextlib.suppress(grpc.aio.AioRpcError):
            while await soon(self.call.read()) is not grpc.aio.EOF:
                pass
        return await soon(self.call.code()), await soon(self.call.details())


class World:
    def __init__(self, address: str, source: FakeSource, table: StreamTable) -> None:
        self.source = source
        self.table = table
        self._channel = grpc.aio.insecure_channel(address)

    def stream(self, method: str) -> Client:
        return Client(self._channel, method)

    async def fetch(self, *names: str) -> Any:
        call: Any = self._channel.unary_unary(FETCH_SECRETS)
        message = DiscoveryRequest(resource_names=names)
        return DiscoveryResponse.FromString(await soon(call(message.SerializeToString(), timeout=20)))

    async def still_serves(self) -> None:
        client = self.stream(STREAM_SECRETS)
        await client.ask("a")
        assert [any_.value for any_ in (await client.read()).resources] == [b"a 1"]
        client.call.cancel()

    async def close(self) -> None:
        await self._channel.close()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    source, table = FakeSource(), StreamTable(lambda: datetime(2026, 1, 1, tzinfo=UTC))
    server = grpc.aio.server(options=SERVER_OPTIONS)
    server.add_generic_rpc_handlers(handlers(source, table))
    address = f"unix:{tmp_path}/s"
    server.add_insecure_port(address)
    await server.start()
    made = World(address, source, table)
    yield made
    await made.close()
    await server.stop(1)
    await soon(source.idle.wait())  # grpc has stopped; what it cancelled may still have its last step to do
    assert not len(table)


# -- what is bad


def asking(method: str, *names: str, type_url: str = SDS) -> bytes:
    if "Delta" in method:
        raw = DeltaDiscoveryRequest(type_url=type_url, resource_names_subscribe=names).SerializeToString()
    else:
        raw = DiscoveryRequest(type_url=type_url, resource_names=names).SerializeToString()
    return bytes(raw)


def bad(method: str, kind: str) -> bytes:
    if kind == "malformed":
        return b"\xff\xff\xff\xff"
    if kind == "truncated":
        return asking(method, "a", "b")[:-1]
    if kind == "10,000 names":
        return asking(method, *(f"name-{number}" for number in range(10_000)))
    return asking(method, type_url="type.googleapis.com/x.Y")


@pytest.mark.parametrize("method", ALL_STREAMS)
@pytest.mark.parametrize("later", [False, True], ids=["first", "later"])
@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("malformed", "not a discovery request"),
        ("truncated", "not a discovery request"),
        ("10,000 names", "10000 resource names; at most 5000"),
        ("unknown type", "unknown resource type"),
    ],
)
async def test_a_bad_request_ends_its_stream_in_words(
    world: World, method: str, later: bool, kind: str, words: str
) -> None:
    client = world.stream(method)
    if later:
        await client.send(asking(method, "a", "b"))
        await client.read()
    await client.send(bad(method, kind))
    code, details = await client.status()

    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert words in details
    await world.still_serves()


@pytest.mark.parametrize("method", ALL_STREAMS)
async def test_a_request_of_more_than_4_mib_is_refused_and_the_server_goes_on(world: World, method: str) -> None:
    client = world.stream(method)
    await client.send(bytes(4 * 1024 * 1024 + 1))
    code, _details = await client.status()

    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    await world.still_serves()


async def test_names_that_add_up_to_too_many_end_a_delta_stream(world: World) -> None:
    client = world.stream(DELTA_ADS)
    for half in range(2):
        names = [f"{half}-{number}" for number in range(3_000)]
        await client.send(asking(DELTA_ADS, *names))

    assert (await client.status())[0] is grpc.StatusCode.INVALID_ARGUMENT


async def test_an_error_not_ours_tells_a_stranger_nothing(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.source.failure = ValueError("secret detail")
    client = world.stream(ADS)
    await client.ask("a")

    assert await client.status() == (grpc.StatusCode.INTERNAL, "internal error")
    assert "secret detail" in caplog.text
    world.source.failure = None
    await world.still_serves()


async def test_who_may_not_come_in_is_told(world: World) -> None:
    world.source.turned_away = RefusedError("suspended")
    client = world.stream(ADS)
    await client.ask("a")

    assert await client.status() == (grpc.StatusCode.PERMISSION_DENIED, "suspended")


async def test_a_view_that_fails_later_ends_the_stream(world: World) -> None:
    client = world.stream(STREAM_SECRETS)
    await client.ask("a")
    await client.read()
    world.source.views[0].changes.fail(RefusedError("suspended"))

    assert await client.status() == (grpc.StatusCode.PERMISSION_DENIED, "suspended")


# -- what is refused


async def test_a_refused_name_ends_a_dedicated_stream_naming_it(world: World) -> None:
    world.source.forbidden.add("b")
    client = world.stream(STREAM_SECRETS)
    await client.ask("a", "b")
    code, details = await client.status()

    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert '"b" (not yours)' in details


async def test_a_refused_name_is_absent_on_ads_and_shown_to_the_operator(world: World) -> None:
    world.source.forbidden.add("b")
    client = world.stream(ADS)
    await client.ask("a", "b")

    assert [any_.value for any_ in (await client.read()).resources] == [b"a 1"]
    assert [row.refused for row in world.table.rows()] == [{"b": "not yours"}]
    client.call.cancel()


async def test_a_refused_name_is_removed_on_delta_ads(world: World) -> None:
    world.source.forbidden.add("b")
    client = world.stream(DELTA_ADS)
    await client.send(asking(DELTA_ADS, "a", "b"))
    response = await client.read()

    assert [found.name for found in response.resources] == ["a"]
    acknowledgement = DeltaDiscoveryRequest(type_url=SDS, response_nonce=response.nonce)
    await client.send(acknowledgement.SerializeToString())
    assert list((await client.read()).removed_resources) == ["b"]
    client.call.cancel()


# -- what is good


async def test_a_change_is_pushed_acknowledged_and_listed(world: World) -> None:
    client = world.stream(STREAM_SECRETS)
    await client.ask("a")
    first = await client.read()
    await client.ask("a", nonce=first.nonce)
    view = world.source.views[0]
    assert await soon(view.accepted.get()) == ["a"]
    world.source.change(resource("a", "2"))
    second = await client.read()
    await client.ask("a", nonce=second.nonce)
    assert await soon(view.accepted.get()) == ["a"]

    assert [any_.value for any_ in second.resources] == [b"a 2"]
    (row,) = world.table.rows()
    assert (row.node_id, row.version_sent, row.version_acked) == ("node", second.version_info, second.version_info)
    client.call.cancel()


async def test_a_rejection_is_shown_until_other_content_is_accepted(world: World) -> None:
    client = world.stream(ADS)
    await client.ask("a")
    await client.ask("a", nonce=(await client.read()).nonce, error="KEY_VALUES_MISMATCH")
    view = world.source.views[0]
    assert await soon(view.messages.get()) == "KEY_VALUES_MISMATCH"
    assert [row.nack for row in world.table.rows()] == ["KEY_VALUES_MISMATCH"]
    world.source.change(resource("a", "2"))
    repaired = await client.read()
    await client.ask("a", nonce=repaired.nonce)
    await soon(view.accepted.get())

    assert [any_.value for any_ in repaired.resources] == [b"a 2"]
    assert [row.nack for row in world.table.rows()] == [""]
    client.call.cancel()


async def test_a_later_node_is_not_looked_at(world: World) -> None:
    client = world.stream(ADS)
    await client.ask("a")
    await client.read()
    other = DiscoveryRequest(type_url=CDS)
    other.node.id = "somebody else"
    await client.send(other.SerializeToString())
    await client.read()

    assert {row.node_id for row in world.table.rows()} == {"node"}
    client.call.cancel()


async def test_secrets_go_before_the_listener_that_uses_them(world: World) -> None:
    client = world.stream(ADS)
    for type_url, name in ((LDS, ""), (SDS, "a")):
        await client.ask(*filter(None, [name]), type_url=type_url)
        await client.ask(*filter(None, [name]), type_url=type_url, nonce=(await client.read()).nonce)
    view = world.source.views[0]
    for _ in range(2):
        await soon(view.accepted.get())
    world.source.change(resource("l", "2", LDS), resource("a", "2"))

    assert [(await client.read()).type_url for _ in range(2)] == [SDS, LDS]
    client.call.cancel()


async def test_fetch_answers_once_and_refuses_in_words(world: World) -> None:
    assert [any_.value for any_ in (await world.fetch("b")).resources] == [b"b 1"]
    assert len((await world.fetch()).resources) == 2
    world.source.forbidden.add("b")
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await world.fetch("b")

    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_client_that_says_nothing_and_leaves_is_no_error(world: World) -> None:
    client = world.stream(ADS)
    await soon(client.call.done_writing())

    assert (await client.status())[0] is grpc.StatusCode.OK
    assert world.table.counters.failed == 0
