"""Local streams of an agent: what they are given, when, and how the server hears of it."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509 import load_pem_x509_certificate
from envoy.service.discovery.v3 import discovery_pb2
from fakes.agent_world import agent, eventually, shop_behind_an_agent
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
    Admin,
    DeltaEnvoy,
    Envoy,
    leaf_of,
    sans,
    server,
    shop,
    temporary_home,
)
from fakes.tcp_callers import address

from meshca.agent.identity import ByJoinToken
from meshca.attest.join import WrongRootError, parse_token
from meshca.x509.presented import read_leaf

HERE = f"unix:uid:{os.getuid()}"


async def behind(admin: Admin, *nodes: str) -> None:
    for node in nodes:
        await admin.register(node, [HERE], parent="host1")


def serial(secret: Any) -> str:
    from meshca.drop.material import certificate_ders

    return read_leaf(certificate_ders(leaf_of(secret))[0]).serial


async def refusals(admin: Admin) -> list[tuple[str, str, str]]:
    return [(r.actor, r.action, r.subject) for r in await admin.audit_tail(200) if r.outcome == "refused"]


async def test_an_envoy_gets_a_key_made_here_and_contexts_made_there() -> None:
    async with shop_behind_an_agent() as (parts, admin, host):
        await behind(admin, "front")
        await eventually(lambda: host.desk.rights.registrations)
        async with Envoy(host.socket, FRONT) as envoy:
            await envoy.ask("default", "ROOTCA", "servers:back.shop", "clients")
            found = await envoy.secrets()
        own = found["default"].tls_certificate
        certificate = load_pem_x509_certificate(own.certificate_chain.inline_bytes)
        key = load_pem_private_key(own.private_key.inline_bytes, None)
        assert key.public_key() == certificate.public_key()
        assert found["ROOTCA"].validation_context.trusted_ca.inline_bytes == parts.state.snapshot.trust.bundle_pem
        assert sans(found["servers:back.shop"]) == [BACK_ID]

        # The server made no key: what it has issued for this identity it has issued for a CSR of the agent's.
        (record,) = [r for r in parts.house.authority.certificates(_all(parts)) if str(r.spiffe_id) == FRONT_ID]
        assert (record.requested_by, record.holder.split(":")[:2]) == ("agent:host1", ["agent", "host1"])


async def test_a_registration_reaches_an_open_stream_at_once_and_its_end_ends_it() -> None:
    async with shop_behind_an_agent() as (_, admin, host):
        await behind(admin, "front")
        await eventually(lambda: host.desk.rights.registrations)
        async with Envoy(host.socket, FRONT, STREAM_ADS) as envoy:
            await envoy.ask("default", BACK_ID)
            assert set(await envoy.secrets()) == {"default"}
            began = time.monotonic()
            entry = await admin.register("back", [HERE], parent="host1")
            assert set(await envoy.secrets()) == {BACK_ID}
            assert time.monotonic() - began < 2  # measured alone: see the report; the machine may be busy

            await admin.unregister(entry.id)
            (front,) = await admin.registrations()
            await admin.unregister(front.id)
            ended = await asyncio.wait_for(envoy.until_ended(), 5)
        assert ended.code is grpc.StatusCode.PERMISSION_DENIED


async def test_who_is_not_behind_the_agent_is_refused_and_the_server_audits_it() -> None:
    async with shop_behind_an_agent() as (_, admin, host):
        await behind(admin, "front")
        await eventually(lambda: host.desk.rights.registrations)
        async with Envoy(host.socket, BACK) as envoy:
            await envoy.ask("default")
            ended = await envoy.until_ended()
            assert ended.code is grpc.StatusCode.PERMISSION_DENIED
        async with Envoy(host.socket, FRONT) as envoy:
            await envoy.ask(BACK_ID)
            ended = await envoy.until_ended()
            assert ended.code is grpc.StatusCode.INVALID_ARGUMENT
            assert BACK_ID in str(ended)
        for _ in range(100):
            if len(found := await refusals(admin)) >= 2:
                break
            await asyncio.sleep(0.02)
        who = f"agent:host1 uid:{os.getuid()}"
        assert found == [(who, "attest", BACK), (who, "deliver", BACK_ID)]


async def test_a_leaf_that_is_revoked_is_replaced_for_a_new_key_and_a_suspension_ends_it() -> None:
    async with shop_behind_an_agent() as (_, admin, host):
        await behind(admin, "front")
        await eventually(lambda: host.desk.rights.registrations)
        async with Envoy(host.socket, FRONT) as envoy:
            await envoy.ask("default")
            first = (await envoy.secrets())["default"]
            await admin.revoke(serial(first))
            second = (await envoy.secrets())["default"]
            assert serial(second) != serial(first)
            assert second.tls_certificate.private_key != first.tls_certificate.private_key

            assert await admin.rotate_leaf("front") == 1
            third = (await envoy.secrets())["default"]
            assert serial(third) != serial(second)

            await admin.revoke(node="front")
            ended = await asyncio.wait_for(envoy.until_ended(), 5)
            assert ended.code is grpc.StatusCode.PERMISSION_DENIED
        async with Envoy(host.socket, FRONT) as envoy:
            await envoy.ask("default")
            assert (await envoy.until_ended()).code is grpc.StatusCode.PERMISSION_DENIED
        await admin.resume("front")
        await eventually(lambda: not host.desk.rights.suspended)
        async with Envoy(host.socket, FRONT) as envoy:
            await envoy.ask("default")
            assert serial((await envoy.secrets())["default"]) != serial(third)


async def test_on_ads_a_suspended_caller_keeps_its_stream_and_admits_nobody() -> None:
    async with shop_behind_an_agent() as (_, admin, host):
        await behind(admin, "front")
        await eventually(lambda: host.desk.rights.registrations)
        async with Envoy(host.socket, FRONT, STREAM_ADS) as envoy:
            await envoy.ask("default", "servers:back.shop")
            assert set(await envoy.secrets()) == {"default", "servers:back.shop"}
            await admin.revoke(node="front")
            while "servers:back.shop" not in (found := await envoy.secrets()) or sans(found["servers:back.shop"]) != [
                NOBODY
            ]:
                pass


class Silent(Envoy):
    """An Envoy that answers when it is told to."""

    async def receive(self) -> Any:
        response: Any = await asyncio.wait_for(self._call.read(), 10)
        return response

    async def accept(self, response: Any, *names: str) -> None:
        await self._call.write(
            discovery_pb2.DiscoveryRequest(
                type_url=response.type_url,
                resource_names=names,
                version_info=response.version_info,
                response_nonce=response.nonce,
            )
        )


async def acknowledged(admin: Admin) -> list[bool]:
    return [row.version_sent == row.version_acked for row in await admin.streams() if row.type_url == SDS]


async def test_the_server_is_answered_once_all_local_streams_have_answered() -> None:
    async with shop_behind_an_agent() as (_, admin, host):
        await behind(admin, "front")
        await eventually(lambda: host.desk.rights.registrations)
        async with Silent(host.socket, FRONT) as one, Silent(host.socket, FRONT) as two:
            for envoy in (one, two):
                await envoy.ask("servers:back.shop")
            answers = [await envoy.receive() for envoy in (one, two)]
            assert await acknowledged(admin) == [False]
            await one.accept(answers[0], "servers:back.shop")
            await asyncio.sleep(0.2)  # what must not happen has no event
            assert await acknowledged(admin) == [False]
            await two.accept(answers[1], "servers:back.shop")
            for _ in range(100):
                if await acknowledged(admin) == [True]:
                    break
                await asyncio.sleep(0.02)
            assert await acknowledged(admin) == [True]
            assert len(await admin.streams()) == 1  # both share one stream to the server


async def test_who_leaves_is_not_waited_for() -> None:
    async with shop_behind_an_agent() as (_, admin, host):
        await behind(admin, "front")
        await eventually(lambda: host.desk.rights.registrations)
        async with Silent(host.socket, FRONT) as one:
            async with Silent(host.socket, FRONT) as two:
                for envoy in (one, two):
                    await envoy.ask("servers:back.shop")
                answers = [await envoy.receive() for envoy in (one, two)]
                await one.accept(answers[0], "servers:back.shop")
            for _ in range(100):
                if await acknowledged(admin) == [True]:
                    break
                await asyncio.sleep(0.02)
            assert await acknowledged(admin) == [True]


async def test_a_rejection_reaches_the_server_in_the_envoys_words() -> None:
    async with shop_behind_an_agent() as (_, admin, host):
        await behind(admin, "front")
        await eventually(lambda: host.desk.rights.registrations)
        async with Envoy(host.socket, FRONT) as envoy:
            await envoy.ask("servers:back.shop")
            await envoy.reject("I do not like it")
            for _ in range(100):
                if nacks := [row.nack for row in await admin.streams() if row.nack]:
                    break
                await asyncio.sleep(0.02)
            assert nacks == ["I do not like it"]
            # What differs is sent all the same.
            await admin.revoke(node="back")
            while sans((await envoy.secrets())["servers:back.shop"]) != [NOBODY]:
                pass


async def test_the_servers_bytes_are_passed_on_as_they_are() -> None:
    async with shop_behind_an_agent() as (parts, admin, host):
        await behind(admin, "front")
        await admin.register("front", [HERE])
        await eventually(lambda: host.desk.rights.registrations)
        found = []
        for socket in (parts.house.home.mesh_socket, host.socket):
            async with Envoy(socket, FRONT, STREAM_ADS) as envoy:
                await envoy.ask(type_url=CDS)
                clusters = await envoy.read()
                await envoy.ask(type_url=LDS)
                while (listeners := await envoy.read()).type_url != LDS:
                    pass
                found.append(([r.value for r in clusters.resources], [r.value for r in listeners.resources]))
        assert found[0] == found[1]
        assert all(found[0])


async def test_a_delta_client_is_given_and_told_what_is_not_there() -> None:
    async with shop_behind_an_agent() as (_, admin, host):
        await behind(admin, "front")
        await eventually(lambda: host.desk.rights.registrations)
        async with DeltaEnvoy(host.socket, FRONT) as envoy:
            await envoy.ask(["default", "ROOTCA"], {})
            assert set(await envoy.read()) == {"default", "ROOTCA"}


async def test_without_the_server_what_is_known_is_served_and_what_is_not_is_not() -> None:
    with temporary_home() as home:
        async with server(home) as (parts, admin):
            await admin.apply(shop())
            lent = agent(parts, admin)
            host = await lent.__aenter__()
            await behind(admin, "front")
            await eventually(lambda: host.desk.rights.registrations)
            async with Envoy(host.socket, FRONT, STREAM_ADS) as envoy:
                await envoy.ask("default", "servers:back.shop")
                first = await envoy.secrets()
        # The server has gone.
        try:
            await eventually(lambda: not host.server_answers)
            async with Envoy(host.socket, FRONT, STREAM_ADS) as envoy:
                await envoy.ask("default", "servers:back.shop")
                again = await envoy.secrets()
            assert serial(again["default"]) == serial(first["default"])
            assert again["servers:back.shop"] == first["servers:back.shop"]
            assert host.desk.lasts_until() is not None
            async with Envoy(host.socket, BACK) as envoy:
                await envoy.ask("default")
                assert (await envoy.until_ended()).code is grpc.StatusCode.PERMISSION_DENIED
        finally:
            await lent.__aexit__(None, None, None)


async def test_a_rotation_waits_for_those_behind_an_agent_and_for_nobody_else() -> None:
    async with shop_behind_an_agent() as (parts, admin, host):
        await behind(admin, "front")
        await eventually(lambda: host.desk.rights.registrations)
        async with Silent(host.socket, FRONT) as envoy:
            names = ("default", "servers:back.shop")
            await envoy.ask(*names)
            response = await envoy.receive()
            await envoy.accept(response, *names)
            prepared = await admin.rotate_authority("issuing")

            async def step() -> list[str]:
                parts.journal.tick()
                await parts.journal.settled()
                await parts.rotations.tick()
                found = [ca for ca in (await admin.authorities()).issuing if ca.id == prepared]
                return list(found[0].waiting_for) if found[0].state == "prepared" else []

            changed = await envoy.receive()
            async with asyncio.timeout(20):
                while len(waiting := await step()) != 1:
                    await asyncio.sleep(0.02)
            assert waiting[0].startswith(f"{FRONT_ID} agent:host1:")
            await envoy.accept(changed, *names)
            async with asyncio.timeout(20):
                while await step():
                    await asyncio.sleep(0.02)


async def test_a_token_is_not_shown_to_another_server() -> None:
    with temporary_home() as home, temporary_home() as other:
        async with server(home) as (_, admin), server(other) as (elsewhere, stranger):
            token = parse_token((await admin.create_token("host1")).text)
            with pytest.raises(WrongRootError, match="somebody stands in between"):
                await ByJoinToken(lambda: token).attest(address(elsewhere))
            assert await refusals(stranger) == []  # it was asked for its roots, and for nothing else


def _all(parts: Any) -> Any:
    from meshca.authority.records import CertificateFilter

    return CertificateFilter(at=parts.house.clock.now())
