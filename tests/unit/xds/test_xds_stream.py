"""One stream without grpc: order of types, patience, and what streams of one node know of each other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from envoy.service.discovery.v3.discovery_pb2 import (
    DeltaDiscoveryRequest,
    DeltaDiscoveryResponse,
    DiscoveryRequest,
    DiscoveryResponse,
)

from meshca.errors import RefusedError
from meshca.xds import stream as stream_module
from meshca.xds import wire
from meshca.xds.registry import StreamTable
from meshca.xds.resource import ADS_TYPES, CDS, EDS, LDS, RDS, SDS, Resource
from meshca.xds.source import Changes, Found
from meshca.xds.stream import Stream, Transport

SHORT = {SDS: "SDS", CDS: "CDS", EDS: "EDS", LDS: "LDS", RDS: "RDS"}
both = pytest.mark.parametrize("delta", [False, True], ids=["sotw", "delta"])


def resource(type_url: str, name: str, content: str = "1") -> Resource:
    return Resource(type_url, name, f"v{content}", f"{name} {content}".encode())


class FakeView:
    node_id = "node"
    spiffe_id = "spiffe://m.test/a"

    def __init__(self) -> None:
        self.changes = Changes()
        self.content: dict[tuple[str, str], Resource] = {}
        self.gone: list[tuple[str, ...]] = []
        self.stayed: list[tuple[str, ...]] = []
        self.accepted: list[tuple[str, str]] = []
        self.rejections: list[str] = []
        self.nacked: set[str] = set()

    def has(self, *resources: Resource, without: tuple[str, str] | None = None) -> None:
        self.content.update({(r.type_url, r.name): r for r in resources})
        if without:
            del self.content[without]
        self.changes.mark(None)

    async def fetch(self, type_url: str, names: frozenset[str] | None, held: Mapping[str, str]) -> Found:
        del held
        mine = {name: r for (kind, name), r in self.content.items() if kind == type_url}
        return Found({n: r for n, r in mine.items() if names is None or n in names})

    async def next_change(self) -> frozenset[str] | None:
        return await self.changes.next()

    def dropped(self, type_url: str, names: frozenset[str]) -> None:
        self.gone.append((type_url, *sorted(names)))

    def kept(self, type_url: str, names: frozenset[str], message: str) -> None:
        self.stayed.append((type_url, *sorted(names), message))

    def acknowledged(self, type_url: str, resources: Mapping[str, Resource]) -> None:
        self.accepted += [(SHORT[type_url], resource.body.decode()) for resource in resources.values()]

    def rejected(self, type_url: str, resources: Mapping[str, Resource], message: str) -> None:
        del type_url
        self.rejections.append(message)
        self.nacked |= {r.digest for r in resources.values()}

    def nacked_content(self, type_url: str) -> frozenset[str]:
        del type_url
        return frozenset(self.nacked)

    def reworded(self, resource: Resource, attempt: int) -> Resource:
        return Resource(resource.type_url, resource.name, resource.version, resource.body + b" #%d" % attempt)

    def close(self) -> None:
        """Hold nothing."""


class Client:
    """The other end of a stream; what it reads is one response after the other."""

    def __init__(self, *, delta: bool, dedicated: bool) -> None:
        self.delta = delta
        self.transport = Transport(delta=delta, dedicated=dedicated)
        self.up: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.down: asyncio.Queue[bytes] = asyncio.Queue()
        self.names: dict[str, list[str]] = {}
        self.nonces: dict[str, str] = {}

    def ask(self, type_url: str, *names: str) -> None:
        self.names[type_url] = list(names)
        self.up.put_nowait(self.request(type_url, self.nonces.get(type_url, ""), names=list(names)))

    def answer(self, response: Any, error: str = "") -> None:
        names = [] if self.delta else self.names[response.type_url]
        self.up.put_nowait(self.request(response.type_url, response.nonce, error, names))

    def request(self, type_url: str, nonce: str = "", error: str = "", names: list[str] | None = None) -> bytes:
        if self.delta:
            message: Any = DeltaDiscoveryRequest(resource_names_subscribe=names)
        else:
            message = DiscoveryRequest(resource_names=names)
        message.type_url = type_url
        message.response_nonce = nonce
        if error:
            message.error_detail.message = error
        raw: bytes = message.SerializeToString()
        return raw

    async def read(self) -> Any:
        raw = await asyncio.wait_for(self.down.get(), 20)
        message: Any = DeltaDiscoveryResponse() if self.delta else DiscoveryResponse()
        message.ParseFromString(raw)
        if not self.delta:
            self.nonces[message.type_url] = message.nonce
        return message

    async def read_and_accept(self, count: int = 1) -> list[str]:
        told = []
        for _ in range(count):
            response = await self.read()
            told.append(self.told(response))
            self.answer(response)
        return told

    def told(self, response: Any) -> str:
        if self.delta and response.removed_resources:
            return f"{SHORT[response.type_url]} -{','.join(response.removed_resources)}"
        bodies = [(r.resource if self.delta else r).value.decode() for r in response.resources]
        return f"{SHORT[response.type_url]} {', '.join(bodies)}"

    async def quiet(self) -> bool:
        """Let everything run that can, and return whether nothing more was sent."""
        for _ in range(50):
            await asyncio.sleep(0)
        return self.down.empty()


@asynccontextmanager
async def opened(
    view: FakeView, *, delta: bool = False, dedicated: bool = False, table: StreamTable | None = None
) -> AsyncIterator[Client]:
    client = Client(delta=delta, dedicated=dedicated)
    known = a_table() if table is None else table

    async def run() -> None:
        raw = await client.up.get()
        assert raw is not None
        first, _node = wire.parse(raw, ADS_TYPES, delta=delta)
        await Stream(client.transport, view, known, "n").run(first, client.up.get, client.down.put)

    task = asyncio.create_task(run())
    yield client
    client.up.put_nowait(None)
    await asyncio.wait_for(task, 20)


def a_table() -> StreamTable:
    return StreamTable(lambda: datetime(2026, 1, 1, tzinfo=UTC))


@pytest.fixture(autouse=True)
def endless_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "PATIENCE", 3600)


async def with_everything(view: FakeView, client: Client) -> None:
    view.has(resource(SDS, "s"), resource(CDS, "c"), resource(EDS, "c"), resource(LDS, "l"), resource(RDS, "r"))
    for type_url, names in ((CDS, []), (EDS, ["c"]), (SDS, ["s"]), (LDS, []), (RDS, ["r"])):
        client.ask(type_url, *names)
        await client.read_and_accept()
    assert await client.quiet()


def second(*types: str) -> list[Resource]:
    return [resource(type_url, {SDS: "s", CDS: "c", EDS: "c", LDS: "l", RDS: "r"}[type_url], "2") for type_url in types]


@both
async def test_a_change_of_everything_goes_out_in_safe_order(delta: bool) -> None:
    view = FakeView()
    async with opened(view, delta=delta) as client:
        await with_everything(view, client)
        view.has(*second(RDS, LDS, EDS, CDS, SDS))

        assert await client.read_and_accept(5) == ["SDS s 2", "CDS c 2", "EDS c 2", "LDS l 2", "RDS r 2"]
        assert await client.quiet()


@both
async def test_endpoints_are_sent_again_for_a_cluster_that_changed(delta: bool) -> None:
    view = FakeView()
    async with opened(view, delta=delta) as client:
        await with_everything(view, client)
        view.has(*second(CDS))

        assert await client.read_and_accept(2) == ["CDS c 2", "EDS c 1"]
        assert await client.quiet()


async def test_a_client_that_never_stops_asking_does_not_keep_a_stream_that_is_to_end() -> None:
    view, client = FakeView(), Client(delta=True, dedicated=False)
    view.has(resource(SDS, "s"))
    answers = 0

    async def ask_at_once_again(raw: bytes) -> None:
        nonlocal answers
        answers += 1
        if answers == 3:
            view.changes.fail(RefusedError("not entitled any more"))
        if answers < 100:
            nonce = DeltaDiscoveryResponse.FromString(raw).nonce
            client.up.put_nowait(client.request(SDS, nonce, names=["s"]))
        for _ in range(5):
            await asyncio.sleep(0)

    first, _node = wire.parse(client.request(SDS, names=["s"]), ADS_TYPES, delta=True)
    run = Stream(client.transport, view, a_table(), "n").run(first, client.up.get, ask_at_once_again)
    with pytest.raises(RefusedError):
        await asyncio.wait_for(run, 20)
    assert answers < 10


async def test_a_cluster_is_removed_before_its_secret_and_both_after_the_listener() -> None:
    view = FakeView()
    async with opened(view, delta=True) as client:
        await with_everything(view, client)
        view.has(*second(LDS), without=(SDS, "s"))
        view.has(without=(CDS, "c"))

        assert await client.read_and_accept() == ["LDS l 2"]
        unanswered = await client.read()
        assert unanswered.removed_resources == ["c"]
        assert await client.quiet(), "the secret stays until the cluster has gone"
        client.answer(unanswered)
        assert await client.read_and_accept() == ["SDS -s"]
        assert await client.quiet()
        assert view.gone == [(CDS, "c"), (SDS, "s")]


@both
async def test_who_keeps_what_is_taken_away_is_told_of(delta: bool) -> None:
    view = FakeView()
    async with opened(view, delta=delta) as client:
        await with_everything(view, client)
        view.has(without=(CDS, "c"))
        client.answer(await client.read(), "no")
        assert await client.quiet()
        assert view.stayed == [(CDS, "c", "no")]
        assert view.gone == []


async def test_a_listener_that_was_rejected_and_taken_away_is_no_nack_any_more() -> None:
    view, table = FakeView(), a_table()
    async with opened(view, delta=True, table=table) as client:
        await with_everything(view, client)
        view.has(resource(LDS, "bad"))
        client.answer(await client.read(), "cannot bind")
        await client.quiet()
        assert {row.nack for row in table.rows() if row.type_url == LDS} == {"cannot bind"}
        view.has(without=(LDS, "bad"))
        assert await client.read_and_accept() == ["LDS -bad"]
        await client.quiet()
        assert {row.nack for row in table.rows() if row.type_url == LDS} == {""}


@both
async def test_what_builds_on_a_held_up_type_waits_for_it(delta: bool) -> None:
    view = FakeView()
    async with opened(view, delta=delta) as client:
        await with_everything(view, client)
        view.has(*second(SDS))
        unanswered = await client.read()
        view.has(resource(SDS, "s", "3"), *second(LDS))

        assert await client.quiet(), "the renamed filter chain must not come before the new CRL"
        client.answer(unanswered)
        assert await client.read_and_accept(2) == ["SDS s 3", "LDS l 2"]


@both
async def test_an_answer_somebody_waits_for_is_not_held_up(delta: bool) -> None:
    """Envoy acknowledges a new cluster only once it is warm, for which it needs its endpoints and secrets."""
    view = FakeView()
    async with opened(view, delta=delta) as client:
        await with_everything(view, client)
        view.has(resource(CDS, "d"), resource(EDS, "d"), resource(SDS, "t"))
        clusters = await client.read()
        view.has(resource(CDS, "d", "2"), *second(LDS))
        client.ask(EDS, *(["d"] if delta else ["c", "d"]))
        client.ask(SDS, *(["t"] if delta else ["s", "t"]))

        assert sorted(await client.read_and_accept(2)) == ["EDS d 1", "SDS t 1"]
        assert await client.quiet(), "nobody waits for the rest"
        client.answer(clusters)
        assert await client.read_and_accept(3) == [f"CDS {'' if delta else 'c 1, '}d 2", "EDS d 1", "LDS l 2"]


@both
async def test_patience_ends_and_the_newest_state_goes_out(delta: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "PATIENCE", 0)
    view = FakeView()
    async with opened(view, delta=delta) as client:
        await with_everything(view, client)
        view.has(resource(CDS, "c", "2"))
        assert client.told(await client.read()) == "CDS c 2"
        client.answer(await client.read())  # the endpoints
        view.has(resource(CDS, "c", "3"), *second(LDS))

        assert [client.told(await client.read()) for _ in range(3)] == ["CDS c 3", "EDS c 1", "LDS l 2"]


async def test_a_listener_rejected_for_a_bad_secret_is_asked_again_once_that_is_repaired() -> None:
    view = FakeView()
    async with opened(view) as client:
        await with_everything(view, client)
        view.has(*second(SDS))
        client.answer(await client.read(), "KEY_VALUES_MISMATCH")
        view.has(*second(LDS))
        client.answer(await client.read(), "KEY_VALUES_MISMATCH")
        assert await client.quiet()
        view.has(resource(SDS, "s", "3"))

        assert await client.read_and_accept(2) == ["SDS s 3", "LDS l 2"]
        assert await client.quiet()
        assert view.rejections == ["KEY_VALUES_MISMATCH"] * 2


@both
async def test_a_secret_repaired_on_one_stream_gives_its_siblings_another_attempt(delta: bool) -> None:
    """A dedicated stream is NACKed for the key on another one: first-ever bad key pair (envoy-facts §4)."""
    table, keys, context = a_table(), FakeView(), FakeView()
    keys.has(resource(SDS, "key"))
    context.has(resource(SDS, "context"))
    async with (
        opened(keys, delta=delta, dedicated=True, table=table) as one,
        opened(context, delta=delta, dedicated=True, table=table) as other,
    ):
        one.ask(SDS, "key")
        await one.read_and_accept()
        other.ask(SDS, "context")
        other.answer(await other.read(), "KEY_VALUES_MISMATCH")
        assert await other.quiet()
        keys.has(resource(SDS, "key", "2"))
        await one.read_and_accept()

        assert await other.read_and_accept() == ["SDS context 1 #1"]
        assert await one.quiet()
        assert await other.quiet()
    assert not len(table)


@both
async def test_content_whose_answer_was_lost_is_sent_in_other_words_on_the_next_stream(delta: bool) -> None:
    """The lost answer may have been a NACK, and then the same bytes would be acknowledged without proof."""
    table, view = a_table(), FakeView()
    view.has(resource(SDS, "s"))
    async with opened(view, delta=delta, table=table) as client:
        client.ask(SDS, "s")
        await client.read()
    for words in ("SDS s 1 #1", "SDS s 1"):
        async with opened(view, delta=delta, table=table) as client:
            client.ask(SDS, "s")
            assert await client.read_and_accept() == [words]
            assert await client.quiet()
    assert view.accepted == [("SDS", "s 1 #1"), ("SDS", "s 1")]


@both
async def test_a_slow_client_finds_the_newest_state_only(delta: bool) -> None:
    view = FakeView()
    async with opened(view, delta=delta) as client:
        await with_everything(view, client)
        for number in range(2, 9):
            view.has(resource(SDS, "s", str(number)))
            assert (await client.quiet()) is (number != 2)
            if number == 2:
                unanswered = await client.read()
        client.answer(unanswered)

        assert await client.read_and_accept() == ["SDS s 8"]
