"""A freeze on a real server: whichever way one asks, nothing is issued; what was issued is served on."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest
from fakes.server_world import (
    BACK,
    BACK_ID,
    FRONT,
    FRONT_ID,
    LDS,
    STREAM_ADS,
    Admin,
    DeltaEnvoy,
    Envoy,
    leaf_of,
    server,
    shop_with,
    signing_request,
    temporary_home,
)

from meshca.client.values import Issued
from meshca.drop.source import AdminSource, Renewal, Wish
from meshca.errors import ConflictError, RefusedError

WHY = "a leak is suspected"


def drop_of(admin: Admin) -> AdminSource:
    renewal = Renewal(lambda: datetime.now(UTC), lambda: 0.5)
    return AdminSource(admin.client, Wish(BACK, "drop:/d"), BACK_ID, renewal)


async def count(admin: Admin) -> int:
    return len(await admin.certificates())


async def test_while_frozen_no_path_issues_and_afterwards_each_does() -> None:
    with temporary_home() as home:
        async with server(home) as (_, admin):
            await shop_with(admin, FRONT, BACK)
            await admin.freeze(WHY)
            (one,) = await admin.issue([signing_request(FRONT)])
            assert isinstance(one, RefusedError)
            assert str(one).startswith("issuance is frozen since ")
            assert str(one).endswith(f": {WHY}; `meshca unfreeze` ends that")
            many = await admin.issue([signing_request(node) for node in (FRONT, BACK) for _ in range(30)])
            assert all(isinstance(answer, RefusedError) for answer in many)
            with pytest.raises(RefusedError, match="frozen"):
                await asyncio.to_thread(drop_of(admin).wait, 5)
            async with (
                Envoy(home.mesh_socket, FRONT) as dedicated,
                DeltaEnvoy(home.mesh_socket, FRONT) as delta,
                Envoy(home.mesh_socket, BACK, STREAM_ADS) as ads,
            ):
                await ads.ask(type_url=LDS)
                for envoy in (dedicated, ads):
                    await envoy.ask("default", "ROOTCA")
                    assert set(await secrets_with("ROOTCA", envoy)) == {"ROOTCA"}
                await delta.ask(["default", "ROOTCA"], {})
                assert set(await delta.read()) == {"ROOTCA"}
                assert await count(admin) == 0
                await admin.unfreeze()
                for envoy in (dedicated, ads):  # they are told, and need not ask again
                    assert leaf_of((await secrets_with("default", envoy))["default"])
                assert set(await delta.read() or await delta.read()) == {"default"}
            (fine,) = await admin.issue([signing_request(FRONT)])
            assert isinstance(fine, Issued)
            assert await asyncio.to_thread(drop_of(admin).wait, 5) is not None


async def secrets_with(name: str, envoy: Envoy) -> dict[str, Any]:
    """Read until a secret has come, and return all that came."""
    got: dict[str, Any] = {}
    while name not in got:
        got |= envoy.named(await envoy.read())
    return got


async def test_what_was_issued_is_served_on_and_revocation_goes_on() -> None:
    with temporary_home() as home:
        async with server(home) as (_, admin):
            await shop_with(admin, FRONT)
            async with Envoy(home.mesh_socket, FRONT) as envoy:
                await envoy.ask("default", "ROOTCA")
                before = await envoy.secrets()
                await admin.freeze(WHY)
                async with Envoy(home.mesh_socket, FRONT) as another:
                    await another.ask("default", "ROOTCA")
                    found = await another.secrets()
                    assert leaf_of(found["default"]) == leaf_of(before["default"])
                assert await admin.rotate_leaf(FRONT) == 1
                (record,) = await admin.certificates()
                done = await admin.revoke(record.serial, reason="keyCompromise")
                assert done.revoked == (record.serial,)
                assert set(await secrets_with("ROOTCA", envoy)) == {"ROOTCA"}
            assert await count(admin) == 1


async def test_a_freeze_outlives_a_restart_and_held_leaves_stay_good() -> None:
    with temporary_home() as home:
        async with server(home) as (_, admin):
            await shop_with(admin, FRONT)
            async with DeltaEnvoy(home.mesh_socket, FRONT) as delta:
                await delta.ask(["default"], {})
                held = await delta.read()
            await admin.freeze(WHY)
        async with server(home) as (_, admin):
            assert any(WHY in warning and "unfreeze" in warning for warning in (await admin.status()).warnings)
            async with DeltaEnvoy(home.mesh_socket, FRONT) as delta:
                await delta.ask(["default", "ROOTCA"], held)
                assert set(await delta.read()) == {"ROOTCA"}
            assert await count(admin) == 1
            await admin.unfreeze()
            assert not any(WHY in warning for warning in (await admin.status()).warnings)


async def test_both_ways_are_audited_and_refused_where_they_change_nothing() -> None:
    with temporary_home() as home:
        async with server(home) as (_, admin):
            await shop_with(admin)
            with pytest.raises(ConflictError, match="not frozen"):
                await admin.unfreeze()
            since = await admin.freeze(WHY)
            with pytest.raises(ConflictError, match=f"frozen since {since:%Y-%m-%dT%H:%M:%S}.*: {WHY}; nothing"):
                await admin.freeze("another")
            await admin.issue([signing_request(FRONT)])
            await admin.unfreeze()
            tail = [(r.action, r.outcome, r.subject) for r in await admin.audit_tail(5)]
            realm = "spiffe://shop.test"
            assert tail == [
                ("unfreeze", "refused", realm),
                ("freeze", "ok", realm),
                ("freeze", "refused", realm),
                ("issue", "refused", FRONT_ID),
                ("unfreeze", "ok", realm),
            ]
            assert (await admin.audit_verify()).intact
