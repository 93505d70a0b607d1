from __future__ import annotations

import asyncio
import os
import sys

import grpc
from fakes.server_world import (
    BACK,
    BACK_ID,
    CDS,
    FRONT,
    FRONT_ID,
    LDS,
    NOBODY,
    SDS,
    STREAM_ADS,
    DeltaEnvoy,
    Envoy,
    leaf_of,
    sans,
    server,
    shop,
    shop_with,
    signing_request,
    temporary_home,
)


async def test_a_context_that_admits_nobody_names_nobody() -> None:
    with temporary_home() as home:
        async with server(home) as (_, admin):
            await shop_with(admin, FRONT)
            names = ("clients", "clients:9", "servers:unknown.shop", f"client:{BACK_ID}", "client:spiffe://other/x")
            async with Envoy(home.mesh_socket, FRONT) as envoy:
                await envoy.ask(*names)
                found = await envoy.secrets()
            assert {name: sans(secret) for name, secret in found.items()} == {name: [NOBODY] for name in names}


async def test_a_caller_of_several_identities_must_select_but_may_name_them() -> None:
    with temporary_home() as home:
        async with server(home) as (_, admin):
            await shop_with(admin, FRONT, BACK)
            async with Envoy(home.mesh_socket, "an envoy") as envoy:
                await envoy.ask(FRONT_ID, BACK_ID, "ROOTCA")
                assert set(await envoy.secrets()) == {FRONT_ID, BACK_ID, "ROOTCA"}
                await envoy.ask("default")
                ended = await envoy.until_ended()
            assert ended.code is grpc.StatusCode.INVALID_ARGUMENT
            assert FRONT_ID in str(ended)
            assert BACK_ID in str(ended)


async def test_names_that_the_caller_may_not_have_end_a_dedicated_stream() -> None:
    with temporary_home() as home:
        async with server(home) as (_, admin):
            await shop_with(admin, FRONT)
            for name in (BACK_ID, "spiffe://other.test", "spiffe://SHOP.test/x", "no such name"):
                async with Envoy(home.mesh_socket, FRONT) as envoy:
                    await envoy.ask(name)
                    ended = await envoy.until_ended()
                assert ended.code is grpc.StatusCode.INVALID_ARGUMENT
                assert name in str(ended)
            refused = {record.subject for record in await admin.audit_tail(20) if record.outcome == "refused"}
            assert refused == {BACK_ID, "spiffe://other.test", "spiffe://SHOP.test/x", "no such name"}


async def test_streams_of_one_process_share_a_leaf_under_every_alias() -> None:
    with temporary_home() as home:
        async with server(home) as (_, admin):
            await shop_with(admin, FRONT)
            async with Envoy(home.mesh_socket, FRONT) as one, Envoy(home.mesh_socket, FRONT) as other:
                await one.ask("default", FRONT_ID)
                await other.ask("default")
                first, second = await one.secrets(), await other.secrets()
            assert leaf_of(first["default"]) == leaf_of(first[FRONT_ID]) == leaf_of(second["default"])
            assert len(await admin.certificates()) == 1


async def test_an_empty_first_list_means_all_that_the_caller_may_see() -> None:
    with temporary_home() as home:
        async with server(home) as (_, admin):
            await shop_with(admin, FRONT)
            async with Envoy(home.mesh_socket, FRONT) as envoy:
                await envoy.ask()
                found = await envoy.secrets()
            assert set(found) == {"default", FRONT_ID, "ROOTCA", "clients", "clients:8080", "servers:back.shop"}


async def test_unregistering_ends_the_stream() -> None:
    with temporary_home() as home:
        async with server(home) as (_, admin):
            await admin.apply(shop())
            registration = await admin.register(FRONT, [f"unix:uid:{os.getuid()}"])
            async with Envoy(home.mesh_socket, FRONT) as envoy:
                await envoy.ask("ROOTCA")
                await envoy.secrets()
                await admin.unregister(registration.id)
                assert (await envoy.until_ended()).code is grpc.StatusCode.PERMISSION_DENIED


async def test_a_changed_policy_is_pushed_to_those_it_concerns_only() -> None:
    with temporary_home() as home:
        async with server(home) as (_, admin):
            await shop_with(admin, FRONT, BACK)
            async with Envoy(home.mesh_socket, BACK) as back, Envoy(home.mesh_socket, FRONT) as front:
                await back.ask("clients")
                await front.ask("ROOTCA")
                assert sans((await back.secrets())["clients"]) == [FRONT_ID]
                await front.secrets()
                objects = shop()
                tls = objects[1]["spec"]["listeners"][0]["tls"]
                named = "spiffe://shop.test/mesh/shop/virtualNode/other"
                tls["validation"]["subjectAlternativeNames"] = {"match": {"exact": [named]}}
                applied = await admin.apply([objects[1]])
                assert [(p.client, p.server, p.allowed) for p in applied.permissions] == [(FRONT_ID, BACK_ID, False)]
                assert sans((await back.secrets())["clients"]) == [named]
                await front.ask("ROOTCA", "clients")
                assert set(await front.secrets()) >= {"clients"}


async def test_on_ads_a_suspended_node_keeps_its_stream_and_gets_nobody_and_no_leaf() -> None:
    with temporary_home() as home:
        async with server(home) as (_, admin):
            await shop_with(admin, BACK)
            async with Envoy(home.mesh_socket, BACK, STREAM_ADS) as envoy:
                await envoy.ask(type_url=LDS)
                await envoy.ask("default", "clients:8080", "ROOTCA")
                got: dict[str, object] = {}
                while "clients:8080" not in got:
                    response = await envoy.read()
                    got |= envoy.named(response)
                done = await admin.revoke(node=BACK)
                assert (done.notified, done.not_drainable) == (1, 0)
                pushed: dict[str, object] = {}
                while not {"clients:8080", "ROOTCA"} <= pushed.keys():
                    pushed |= envoy.named(await envoy.read())
                assert sans(pushed["clients:8080"]) == sans(pushed["ROOTCA"]) == [NOBODY]
                assert "default" not in pushed
                await admin.resume(BACK)
                while "default" not in pushed:
                    pushed |= envoy.named(await envoy.read())
                assert leaf_of(pushed["default"]) != leaf_of(got["default"])


async def test_listeners_and_clusters_come_over_ads_and_narrowing_renames_them() -> None:
    with temporary_home() as home:
        async with server(home) as (_, admin):
            await shop_with(admin, BACK)
            async with Envoy(home.mesh_socket, BACK, STREAM_ADS) as envoy:
                await envoy.ask(type_url=CDS)
                await envoy.ask(type_url=LDS)
                seen = [await envoy.read(), await envoy.read()]
                assert [response.type_url for response in seen] == [CDS, LDS]
                serial = (await admin.issue([signing_request(FRONT)]))[0].serial
                await admin.revoke(serial)
                again = await envoy.read()
                assert again.type_url == LDS
                assert again.resources != seen[1].resources


async def test_reconnecting_with_a_leaf_that_is_still_good_costs_no_new_one() -> None:
    with temporary_home() as home:
        async with server(home) as (_, admin):
            await shop_with(admin, FRONT)
            async with Envoy(home.mesh_socket, FRONT) as envoy:
                await envoy.ask("default")
                await envoy.secrets()
            (serial,) = [record.serial for record in await admin.certificates()]
        async with server(home) as (_, admin):
            async with DeltaEnvoy(home.mesh_socket, FRONT) as envoy:
                await envoy.ask(["default", "ROOTCA"], {"default": serial})
                assert set(await envoy.read()) == {"ROOTCA"}
                assert [record.serial for record in await admin.certificates()] == [serial]
                await admin.revoke(serial)
                versions: dict[str, str] = {}
                while "default" not in versions:
                    versions |= await envoy.read()
            assert {record.serial for record in await admin.certificates()} == {serial, versions["default"]}


async def test_what_an_envoy_has_rejected_is_remembered_across_a_restart() -> None:
    with temporary_home() as home:
        async with server(home) as (_, admin):
            await shop_with(admin, FRONT)
            async with Envoy(home.mesh_socket, FRONT) as envoy:
                await envoy.ask("ROOTCA")
                await envoy.reject("broken")
                while [row.nack for row in await admin.streams()] != ["broken"]:
                    pass
        async with server(home) as (parts, admin):
            assert len(parts.desk.rejections.of(f"{os.getuid()} {FRONT}", SDS)) == 1


async def test_a_socket_in_other_hands_is_refused_and_audited() -> None:
    with temporary_home() as home:
        async with server(home) as (_, admin):
            reader, writer = await asyncio.open_unix_connection(home.mesh_socket)
            descriptor = writer.get_extra_info("socket").fileno()
            program = f"import socket; socket.socket(fileno={descriptor}).send(b'PRI * HTTP/2.0')"
            command = [sys.executable, "-I", "-S", "-c", program]
            heir = await asyncio.create_subprocess_exec(*command, pass_fds=[descriptor])
            assert await heir.wait() == 0
            while await reader.read(1024):
                pass
            writer.close()
            found = [record for record in await admin.audit_tail(20) if record.outcome == "refused"]
            assert [(record.action, record.subject) for record in found] == [("attest", "meshca.sock")]
            assert f"process {os.getpid()} connected, and process {heir.pid} sends" in found[0].reason
