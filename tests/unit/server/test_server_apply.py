"""An apply as the admin API serves it: judged, followed, undone; endpoints beside it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from fakes.server_world import (
    BACK,
    BACK_ID,
    CDS,
    FRONT,
    FRONT_ID,
    LDS,
    SDS,
    STREAM_ADS,
    Admin,
    Envoy,
    sans,
    server,
    shop,
    shop_with,
    temporary_home,
)

from meshca.client.values import EnvoyProgress
from meshca.delivery import effects as effects_module
from meshca.delivery.generated import made
from meshca.envoy.consistency import InconsistentSnapshotError
from meshca.errors import ConflictError, InvalidInputError, MeshcaError, NotFoundError
from meshca.server.parts import Parts
from meshca.server.services.endpoints import parse_endpoint

RDS = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"


@pytest.fixture
async def running() -> AsyncIterator[tuple[Parts, Admin]]:
    with temporary_home() as home:
        async with server(home) as (parts, admin):
            await shop_with(admin, FRONT, BACK)
            yield parts, admin


def socket_of(parts: Parts) -> Any:
    return parts.house.home.mesh_socket


def with_port(port: int) -> list[dict[str, Any]]:
    objects = shop()
    objects[1]["spec"]["listeners"][0]["portMapping"]["port"] = port
    return objects


def without_backend() -> dict[str, Any]:
    front = shop()[3]
    front["spec"]["backends"] = []
    return front


async def read_types(envoy: Envoy, *types: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    while not set(types) <= found.keys():
        response = await envoy.read()
        found[response.type_url] = response
    return found


async def progress(admin: Admin, revision: int, seconds: float = 5) -> list[tuple[EnvoyProgress, ...]]:
    return await asyncio.to_thread(lambda: list(admin.client.watch_revision(revision, seconds)))


async def test_a_revision_is_followed_until_the_last_envoy_has_it(running: tuple[Parts, Admin]) -> None:
    parts, admin = running
    async with Envoy(socket_of(parts), BACK) as back, Envoy(socket_of(parts), FRONT) as front:
        await back.ask("clients")
        await back.secrets()
        await front.ask("ROOTCA")
        await front.secrets()
        applied = await admin.apply([without_backend()])
        watching = asyncio.create_task(progress(admin, applied.revision))
        await asyncio.sleep(0.2)
        assert not watching.done()
        await back.secrets()
        steps = await watching
    waiting = EnvoyProgress(BACK, BACK_ID, "waiting")
    assert steps[0][0] == waiting
    # What front was given, its trust, is the same.
    assert steps[-1] == (replace(waiting, state="acknowledged"), EnvoyProgress(FRONT, FRONT_ID, "acknowledged"))


async def test_a_nack_comes_at_once_and_who_leaves_is_gone(running: tuple[Parts, Admin]) -> None:
    parts, admin = running
    async with Envoy(socket_of(parts), BACK) as back:
        async with Envoy(socket_of(parts), FRONT) as front:
            for envoy, name in ((back, "clients"), (front, "servers:back.shop")):
                await envoy.ask(name)
                await envoy.secrets()
            objects = with_port(8081)
            tls = objects[1]["spec"]["listeners"][0]["tls"]
            tls["validation"]["subjectAlternativeNames"] = {"match": {"exact": [f"{FRONT_ID}x"]}}
            applied = await admin.apply([*objects[:3], without_backend()])
            watching = asyncio.create_task(progress(admin, applied.revision))
            await back.reject("broken")
            await asyncio.sleep(0.2)
            assert not watching.done()
        steps = await watching
    rejected = EnvoyProgress(BACK, BACK_ID, "rejected", "broken")
    assert any(rejected in step and EnvoyProgress(FRONT, FRONT_ID, "waiting") in step for step in steps)
    assert steps[-1] == (rejected, EnvoyProgress(FRONT, FRONT_ID, "gone"))


async def test_no_such_revision_is_watched_or_undone(running: tuple[Parts, Admin]) -> None:
    _, admin = running
    for revision in (0, 9):
        with pytest.raises(NotFoundError, match="no such revision"):
            await progress(admin, revision)
    with pytest.raises(NotFoundError, match="not known"):
        await admin.rollback(9)


async def test_the_newest_revision_is_undone_and_no_other(running: tuple[Parts, Admin]) -> None:
    _, admin = running
    before = await admin.get()
    extra = {"kind": "virtualNode", "meshName": "shop", "virtualNodeName": "extra", "spec": {}}
    await admin.apply([without_backend(), extra])
    assert await admin.rollback(2) == 3
    assert await admin.get() == before
    with pytest.raises(ConflictError, match="at revision 3 by now"):
        await admin.rollback(2)
    assert await admin.rollback(3) == 4
    assert {one.get("virtualNodeName") for one in await admin.get("virtualNode")} == {"front", "back", "extra"}
    assert [record.action for record in await admin.audit_tail(2)] == ["rollback", "rollback"]


async def test_what_would_lead_nowhere_is_refused_with_its_name(
    running: tuple[Parts, Admin], monkeypatch: pytest.MonkeyPatch
) -> None:
    parts, admin = running

    def without_routes(*arguments: Any) -> Any:
        by_type: Any = made(*arguments)
        return {kind: found for kind, found in by_type.items() if kind != RDS}

    async with Envoy(socket_of(parts), BACK, STREAM_ADS) as back:
        await back.ask(type_url=LDS)
        await read_types(back, LDS)
        monkeypatch.setattr(effects_module, "made", without_routes)
        for dry_run in (True, False):
            with pytest.raises(MeshcaError, match=r"Listener .* leads to a RouteConfiguration that is not there"):
                await admin.apply(with_port(8081), dry_run=dry_run)
        assert parts.state.snapshot.mesh.revision == 1
        assert issubclass(InconsistentSnapshotError, MeshcaError)
        monkeypatch.undo()
        assert (await admin.apply(with_port(8081))).revision == 2


async def test_what_was_checked_is_what_is_sent(running: tuple[Parts, Admin], monkeypatch: pytest.MonkeyPatch) -> None:
    parts, admin = running
    async with Envoy(socket_of(parts), BACK, STREAM_ADS) as back:
        await back.ask(type_url=LDS)
        await read_types(back, LDS)
        calls: list[object] = []

        def noted(*arguments: Any) -> Any:
            calls.append(arguments[0])
            return made(*arguments)

        monkeypatch.setattr(effects_module, "made", noted)
        monkeypatch.setattr("meshca.delivery.generated.made", lambda *_: pytest.fail("generated twice"))
        await admin.apply(with_port(8081))
        await read_types(back, LDS)
    assert [str(node) for node in calls] == [BACK]


async def test_a_removed_backend_loses_its_cluster_first_then_its_secret(running: tuple[Parts, Admin]) -> None:
    parts, admin = running
    async with Envoy(socket_of(parts), FRONT, STREAM_ADS) as front:
        await front.ask(type_url=CDS)
        await front.ask("servers:back.shop", "ROOTCA")
        first = await read_types(front, CDS, SDS)
        assert len(first[CDS].resources) == 2
        await admin.apply([without_backend()])
        order: list[str] = []
        while len(order) < 2:
            response = await front.read()
            order.append(response.type_url)
            if response.type_url == SDS:
                assert sans(front.named(response)["servers:back.shop"]) == ["spiffe://shop.test/meshca/nobody"]
        assert order == [CDS, SDS]


async def test_a_cluster_that_an_envoy_keeps_does_not_keep_its_secret(running: tuple[Parts, Admin]) -> None:
    parts, admin = running
    async with Envoy(socket_of(parts), FRONT, STREAM_ADS) as front:
        await front.ask(type_url=CDS)
        await front.ask("servers:back.shop", "ROOTCA")
        await read_types(front, CDS, SDS)
        await admin.apply([without_backend()])
        await front.reject("no")  # the clusters
        response = await front.read()
        while response.type_url != SDS:
            response = await front.read()
        assert sans(front.named(response)["servers:back.shop"]) == ["spiffe://shop.test/meshca/nobody"]


async def test_status_says_who_has_rejected_what(running: tuple[Parts, Admin]) -> None:
    parts, admin = running
    async with Envoy(socket_of(parts), BACK) as back:
        await back.ask("clients")
        await back.reject("broken")
        while not (found := [text for text in (await admin.status()).warnings if "has rejected" in text]):
            pass
    assert found == [f"the Envoy {BACK} has rejected a Secret, and goes on with what it had: broken"]


async def test_a_dry_run_says_what_would_be_sent_and_changes_nothing(running: tuple[Parts, Admin]) -> None:
    parts, admin = running
    async with Envoy(socket_of(parts), BACK, STREAM_ADS) as back:
        await back.ask(type_url=LDS)
        await read_types(back, LDS)
        applied = await admin.apply([without_backend()], dry_run=True)
        effects = {effect.node_id: effect for effect in applied.effects}
        assert {node: effect.envoys for node, effect in effects.items()} == {BACK: (BACK,), FRONT: ()}
        of_back = {(r.change, r.type_url, r.name) for r in effects[BACK].resources}
        assert {("changed", SDS, "clients:8080"), ("removed", SDS, f"client:{FRONT_ID}")} < of_back
        assert ("removed", SDS, "servers:back.shop") in {
            (r.change, r.type_url, r.name) for r in effects[FRONT].resources
        }
    assert parts.state.snapshot.mesh.revision == 1
    assert (await admin.apply(shop(), dry_run=True)).effects == ()


# --- endpoints


async def test_endpoints_are_part_of_the_snapshot_and_audited(running: tuple[Parts, Admin]) -> None:
    parts, admin = running
    found = await admin.add_endpoints("back", ["10.0.0.1", "[fd00::1]:8081"])
    assert [(e.node_id, e.address, e.port) for e in found] == [(BACK, "10.0.0.1", 0), (BACK, "fd00::1", 8081)]
    (endpoints,) = parts.state.snapshot.endpoints.values()
    assert endpoints == (("10.0.0.1", None), ("fd00::1", 8081))
    assert len(await admin.remove_endpoints("back", ["10.0.0.1"])) == 1
    assert [e.address for e in await admin.endpoints()] == ["fd00::1"]
    assert await admin.endpoints("front") == []
    last = (await admin.audit_tail(1))[0]
    assert (last.action, last.subject, last.reason) == ("remove-endpoints", BACK, "10.0.0.1")


async def test_endpoints_concern_the_callers_of_their_node_alone(
    running: tuple[Parts, Admin], monkeypatch: pytest.MonkeyPatch
) -> None:
    parts, admin = running
    forgotten: list[str] = []
    forget = parts.desk.generated.forget

    def noted(nodes: Any) -> None:
        forgotten.extend(map(str, nodes))
        forget(nodes)

    monkeypatch.setattr(parts.desk.generated, "forget", noted)
    await admin.add_endpoints("back", ["10.0.0.1"])
    assert forgotten == [FRONT]
    forgotten.clear()
    await admin.add_endpoints("back", ["10.0.0.1"])
    assert forgotten == []


async def test_endpoints_of_a_node_that_is_gone_come_back_with_it(running: tuple[Parts, Admin]) -> None:
    _, admin = running
    extra = {"kind": "virtualNode", "meshName": "shop", "virtualNodeName": "extra", "spec": {}}
    await admin.apply([extra])
    await admin.add_endpoints("extra", ["10.0.0.1", "10.0.0.2"])
    await admin.delete("virtualNode", "extra")
    with pytest.raises(NotFoundError):
        await admin.add_endpoints("extra", ["10.0.0.3"])
    assert len(await admin.endpoints()) == 2
    await admin.remove_endpoints("mesh/shop/virtualNode/extra", ["10.0.0.2"])
    await admin.apply([extra])
    assert [e.address for e in await admin.endpoints("extra")] == ["10.0.0.1"]


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("", "is no IP address"), ("host", "is no IP address"), ("host:80", "is no IP address"),
        ("10.0.0.1:0", "a port is a number"), ("10.0.0.1:70000", "a port is a number"),
        ("10.0.0.1:", "a port is a number"), ("10.0.0.1:+8", "a port is a number"), ("10.0.0.1:\uff18", "a port is a"),
        ("[::1", "is no IP address"), ("[::1]80", "is no IP address"), ("::1%lo", "no address of one host"),
        ("0.0.0.0", "no address of one host"), ("224.0.0.1", "no address of one host"),
        ("10.0.0.256", "is no IP address"), ("1" * 5000, "is no IP address"), ("10.0.0.1\n", "is no IP address"),
    ],
)  # fmt: skip
def test_what_is_no_endpoint_is_refused(text: str, rule: str) -> None:
    with pytest.raises(InvalidInputError, match=rule):
        parse_endpoint(text)


async def test_too_many_endpoints_are_refused(running: tuple[Parts, Admin]) -> None:
    _, admin = running
    many = [f"10.0.{number // 250}.{number % 250}" for number in range(10_000)]
    with pytest.raises(InvalidInputError, match="1 to 1000 endpoints at a time"):
        await admin.add_endpoints("back", many)
    await admin.add_endpoints("back", many[:1000])
    with pytest.raises(MeshcaError, match="at most 1000 endpoints, and this would have 1001"):
        await admin.add_endpoints("back", many[1000:1001])
    with pytest.raises(InvalidInputError, match="endpoints at a time"):
        await admin.add_endpoints("back", [])
