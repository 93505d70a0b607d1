"""The Workload API at an agent: the server's class, keys of this host, and deliveries that the server hears of."""

from __future__ import annotations

import asyncio
import os

import grpc
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, load_der_private_key
from fakes.agent_world import eventually, shop_behind_an_agent
from fakes.server_world import FRONT_ID
from fakes.workload_client import Workload, certificates, public_client

from meshca.errors import RefusedError

HERE = f"unix:uid:{os.getuid()}"


async def test_a_workload_gets_its_identity_and_each_change_and_the_server_hears_of_it() -> None:
    async with shop_behind_an_agent() as (parts, admin, host):
        await admin.register("front", [HERE], parent="host1")
        await eventually(lambda: host.desk.rights.registrations)
        async with Workload(host.socket) as workload:
            following = workload.x509()
            first = (await following.next()).svids[0]
            leaf = certificates(first.x509_svid)[0]
            key = load_der_private_key(first.x509_svid_key, None)
            assert first.spiffe_id == FRONT_ID
            assert key.public_key() == leaf.public_key()
            roots = [root.certificate for root in parts.state.snapshot.trust.roots]
            assert [root.public_bytes(Encoding.DER) for root in certificates(first.bundle)] == roots

            await admin.rotate_leaf("front")
            second = (await following.next()).svids[0]
            assert second.x509_svid_key != first.x509_svid_key

            prepared = await admin.rotate_authority("issuing")
            for _ in range(200):  # nobody but this stream, the agent and the server hold anything
                parts.journal.tick()
                await parts.journal.settled()
                await parts.rotations.tick()
                (found,) = [ca for ca in (await admin.authorities()).issuing if ca.id == prepared]
                if found.state == "active":
                    break
                await asyncio.sleep(0.02)
            assert found.state == "active", found.waiting_for

            await admin.revoke(node="front")
            code, _ = await following.end()
            assert code is grpc.StatusCode.PERMISSION_DENIED


async def test_who_is_not_behind_the_agent_gets_nothing() -> None:
    async with shop_behind_an_agent() as (_, admin, host):
        await admin.register("front", [HERE])  # at the server, not here
        async with Workload(host.socket) as workload:
            code, _ = await workload.x509().end()
        assert code is grpc.StatusCode.PERMISSION_DENIED


async def test_a_workload_gets_tokens_that_the_server_signs_and_the_agent_validates() -> None:
    async with shop_behind_an_agent() as (_, admin, host):
        await admin.register("front", [HERE], parent="host1")
        await eventually(lambda: host.desk.rights.registrations)
        with public_client(host.socket) as client:
            token = await asyncio.to_thread(client.fetch_jwt_svid, {"db"})
            assert str(token.spiffe_id) == FRONT_ID
            await eventually(lambda: host.desk.holdings.jwt_bundle)
            valid = await asyncio.to_thread(client.validate_jwt_svid, token.token, "db")
            assert str(valid.spiffe_id) == FRONT_ID
            bundles = await asyncio.to_thread(client.fetch_jwt_bundles)
            assert len(bundles.bundles) == 1
        issued = [record for record in await admin.audit_tail(50) if record.action == "issue-jwt"]
        assert [(record.actor, record.outcome) for record in issued] == [("agent:host1", "ok")]


async def test_an_agent_gets_no_token_for_an_identity_that_is_not_behind_it() -> None:
    async with shop_behind_an_agent() as (_, admin, host):
        await admin.register("front", [HERE], parent="host2")
        with pytest.raises(RefusedError, match="has the agent host1 as its parent"):
            await host.api.token(FRONT_ID, ["db"])
        refused = [record for record in await admin.audit_tail(50) if record.outcome == "refused"]
        assert [(record.actor, record.subject) for record in refused] == [("agent:host1", FRONT_ID)]
