from __future__ import annotations

import os

import grpc
from fakes.server_world import (
    BACK,
    BACK_ID,
    FRONT,
    FRONT_ID,
    NOBODY,
    Envoy,
    leaf_of,
    sans,
    server,
    shop_with,
    temporary_home,
)


async def test_an_envoy_gets_identity_trust_and_policy_and_a_new_key_after_revocation() -> None:
    with temporary_home() as home:
        async with server(home) as (_, admin):
            await shop_with(admin, BACK)
            async with Envoy(home.mesh_socket, BACK) as envoy:
                await envoy.ask("default", "ROOTCA", "clients")
                first = await envoy.secrets()
                assert set(first) == {"default", "ROOTCA", "clients"}
                assert sans(first["clients"]) == [FRONT_ID]
                assert sans(first["ROOTCA"]) == []
                serial = (await admin.certificates())[0].serial
                done = await admin.revoke(serial)
                assert done.revoked == (serial,)
                pushed: dict[str, object] = {}
                while not pushed.keys() >= {"default", "ROOTCA", "clients"}:
                    pushed |= {n: s for n, s in (await envoy.secrets()).items() if s != first[n]}
                assert leaf_of(pushed["default"]) != leaf_of(first["default"])


async def test_a_suspended_node_loses_its_stream_and_its_peers_admit_nobody() -> None:
    with temporary_home() as home:
        async with server(home) as (_, admin):
            await shop_with(admin, FRONT, BACK)
            async with Envoy(home.mesh_socket, BACK) as back, Envoy(home.mesh_socket, FRONT) as front:
                await back.ask("clients")
                await front.ask("default", "servers:back.shop")
                assert sans((await back.secrets())["clients"]) == [FRONT_ID]
                assert sans((await front.secrets())["servers:back.shop"]) == [BACK_ID]
                await admin.revoke(node=FRONT)
                assert sans((await back.secrets())["clients"]) == [NOBODY]
                assert (await front.until_ended()).code is grpc.StatusCode.PERMISSION_DENIED


async def test_who_is_not_registered_or_claims_another_gets_nothing_and_is_audited() -> None:
    with temporary_home() as home:
        async with server(home) as (_, admin):
            await shop_with(admin)
            for registered in (False, True):
                if registered:
                    await admin.register(FRONT, [f"unix:uid:{os.getuid()}"])
                async with Envoy(home.mesh_socket, BACK) as envoy:
                    await envoy.ask("default")
                    assert (await envoy.until_ended()).code is grpc.StatusCode.PERMISSION_DENIED
            refused = [record for record in await admin.audit_tail(50) if record.outcome == "refused"]
            assert [record.subject for record in refused] == [BACK, BACK]
