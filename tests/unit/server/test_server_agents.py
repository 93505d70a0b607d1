"""Agents at the server: how they join, what they are told, and what they may ask for."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from envoy.service.discovery.v3 import discovery_pb2
from fakes.server_world import (
    BACK,
    BACK_ID,
    CDS,
    FRONT,
    FRONT_ID,
    SDS,
    Admin,
    EndedError,
    Envoy,
    server,
    shop,
    temporary_home,
)
from fakes.tcp_callers import agent_stub, identity_of, join, joined

from meshca.drop.material import certificate_ders
from meshca.errors import ConflictError, InvalidInputError
from meshca.keys.requesting import new_request
from meshca.v1 import agent_pb2 as pb
from meshca.x509.presented import read_leaf

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from meshca.server.parts import Parts

HOST1 = "spiffe://shop.test/meshca/agent/host1"


@asynccontextmanager
async def world() -> AsyncIterator[tuple[Parts, Admin]]:
    with temporary_home() as home:
        async with server(home) as (parts, admin):
            await admin.apply(shop())
            yield parts, admin


async def refusals(admin: Admin) -> list[tuple[str, str, str]]:
    return [(r.actor, r.action, r.subject) for r in await admin.audit_tail(200) if r.outcome == "refused"]


def csr_for(uri: str) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)])
    builder = x509.CertificateSigningRequestBuilder(x509.Name([])).add_extension(names, critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


def tamper(parts: Parts, statement: str) -> None:
    """Change the database behind the server's back: what a wait would do."""
    with parts.house.store._connections.writing.begin() as connection:
        connection.exec_driver_sql(statement)


async def sign(stub: Any, *identities: str, word: str = "w") -> list[Any]:
    requests = [pb.WorkloadRequest(spiffe_id=one, csr=new_request()[1], holder=word) for one in identities]
    return list((await stub.Sign(pb.SignRequest(requests=requests))).results)


async def test_an_agent_joins_once_with_its_token() -> None:
    async with world() as (parts, admin):
        token = await admin.create_token("host1")
        first = new_request()
        identity = await join(parts, token.text, first)

        leaf = read_leaf(certificate_ders(identity.chain_pem)[0])
        assert str(leaf.spiffe_id) == token.spiffe_id == HOST1
        (row,) = await admin.agents()
        assert (row.id, row.state, row.method, row.registrations) == ("host1", "attested", "join_token", 0)

        # The answer may have been lost: the same key may ask again, for a minute, and nobody else may.
        again = await join(parts, token.text, first)
        assert read_leaf(certificate_ders(again.chain_pem)[0]).serial != leaf.serial
        with pytest.raises(grpc.aio.AioRpcError, match="used already"):
            await join(parts, token.text)
        tamper(parts, "UPDATE join_tokens SET burnt_at = burnt_at - 61000000")
        with pytest.raises(grpc.aio.AioRpcError, match="used already"):
            await join(parts, token.text, first)
        assert await refusals(admin) == [
            ("agent:host1", "issue", HOST1),
            ("tcp:127.0.0.1", "attest", "join_token"),
            ("agent:host1", "issue", HOST1),
        ]


@pytest.mark.parametrize("name", ["k8s.prod.node1", "aws.123456789012.task.1"])
async def test_no_token_makes_an_agent_of_a_cluster_or_a_role(name: str) -> None:
    async with world() as (_, admin):
        with pytest.raises(InvalidInputError, match="not by a token"):
            await admin.create_token(name)


async def test_a_token_is_over_when_its_time_is() -> None:
    async with world() as (parts, admin):
        token = await admin.create_token("host1", timedelta(seconds=5))
        tamper(parts, "UPDATE join_tokens SET expires_at = expires_at - 6000000")
        with pytest.raises(grpc.aio.AioRpcError, match="its time is over"):
            await join(parts, token.text)
        assert await admin.agents() == []


async def test_a_token_of_another_server_or_for_another_agent_lets_nobody_in() -> None:
    async with world() as (parts, admin), world() as (_, other):
        with pytest.raises(grpc.aio.AioRpcError, match="no token of this trust domain"):
            await join(parts, (await other.create_token("host1")).text)
        mine = await admin.create_token("host1")
        with pytest.raises(grpc.aio.AioRpcError, match="another name than its identity"):
            await join(parts, mine.text, (b"", csr_for("spiffe://shop.test/meshca/agent/host2")))
        # What was refused for its CSR has used up nothing.
        assert await join(parts, mine.text)


async def test_no_secret_is_stored_or_told() -> None:
    async with world() as (parts, admin):
        token = await admin.create_token("host1")
        await join(parts, token.text)
        secret = token.text.split(".")[1]
        with parts.house.store.read() as connection:
            rows = connection.exec_driver_sql("SELECT * FROM join_tokens").all()
        assert secret not in repr(rows)
        assert secret not in repr(await admin.audit_tail(100))
        assert secret not in repr(token)


@pytest.mark.parametrize(
    ("method", "words"), [("kubernetes", "not offered here"), ("", "not offered here"), ("join_token", "32 bytes")]
)
async def test_what_proves_nothing_is_refused(method: str, words: str) -> None:
    async with world() as (parts, admin):
        async with agent_stub(parts, None) as (stub, _):
            with pytest.raises(grpc.aio.AioRpcError, match=words):
                await stub.Attest(pb.AttestRequest(method=method, payload=b"x", csr=new_request()[1]))
        assert [(actor, action) for actor, action, _ in await refusals(admin)] == [("tcp:127.0.0.1", "attest")]


async def test_an_agent_renews_its_own_certificate_and_no_one_elses() -> None:
    async with world() as (parts, admin):
        identity = await joined(parts, admin)
        async with agent_stub(parts, identity) as (stub, _):
            made = await stub.Renew(pb.RenewRequest(csr=new_request()[1]))
            assert made.spiffe_id == HOST1
            with pytest.raises(grpc.aio.AioRpcError, match="another name"):
                await stub.Renew(pb.RenewRequest(csr=csr_for("spiffe://shop.test/meshca/agent/host2")))
        for spiffe_id, kind in ((FRONT_ID, "file"), ("spiffe://shop.test/meshca/admin/x", "admin")):
            async with agent_stub(parts, await identity_of(parts, spiffe_id, kind)) as (stub, _):  # type: ignore[arg-type]
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await stub.Renew(pb.RenewRequest(csr=new_request()[1]))
                assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_an_agent_is_told_of_what_it_is_the_parent_of_and_at_once() -> None:
    async with world() as (parts, admin):
        await admin.register("back", ["unix:uid:7"])
        await admin.register("back", ["unix:uid:7"], parent="host2")
        async with agent_stub(parts, await joined(parts, admin)) as (stub, _):
            watch = stub.Watch(pb.WatchRequest())
            first = await watch.read()
            assert (first.trust_domain, list(first.holdings)) == ("shop.test", [])
            assert first.trust.bundle == parts.state.snapshot.trust.bundle_pem
            assert (await admin.agents())[0].state == "connected"

            began = time.monotonic()
            await admin.register("front", ["unix:uid:9"], parent="host1")
            told = await watch.read()
            elapsed = time.monotonic() - began
            (holding,) = told.holdings
            assert (holding.spiffe_id, list(holding.selectors), holding.node_id) == (FRONT_ID, ["unix:uid:9"], FRONT)
            assert elapsed < 1, elapsed

            await admin.revoke(node="front")
            while not (told := await watch.read()).suspended:
                pass
            assert list(told.suspended) == [FRONT_ID]
            await admin.resume("front")
            while (told := await watch.read()).suspended:
                pass
            assert await admin.rotate_leaf("front") == 1
            assert dict((await watch.read()).rotations) == {FRONT_ID: 1}


async def test_an_agent_gets_certificates_for_those_behind_it_alone() -> None:
    async with world() as (parts, admin):
        await admin.register("front", ["unix:uid:9"], parent="host1")
        await admin.register("back", ["unix:uid:9"], parent="host2")
        async with agent_stub(parts, await joined(parts, admin)) as (stub, _):
            mine, others, strange, junk = await sign(stub, FRONT_ID, BACK_ID, HOST1, "spiffe://shop.test/a?b")
            assert read_leaf(certificate_ders(mine.certificate.chain)[0]).serial == mine.certificate.serial
            for refused in (others, strange):
                assert "has the agent host1 as its parent" in refused.failure.message
                assert refused.failure.code == grpc.StatusCode.PERMISSION_DENIED.value[0]
            assert junk.failure.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
            assert [(actor, subject) for actor, action, subject in await refusals(admin) if action == "issue"] == [
                ("agent:host1", BACK_ID), ("agent:host1", HOST1), ("agent:host1", "spiffe://shop.test/a?b"),
            ]  # fmt: skip

            (foreign_csr,) = (
                await stub.Sign(
                    pb.SignRequest(requests=[pb.WorkloadRequest(spiffe_id=FRONT_ID, csr=csr_for(BACK_ID), holder="w")])
                )
            ).results
            assert "another name" in foreign_csr.failure.message
            (odd,) = await sign(stub, FRONT_ID, word="stream:1:2/../x y")
            assert "a short word" in odd.failure.message

            # Acknowledged is what its own holders hold.
            ack = pb.Acknowledgement(holder="w", spiffe_id=FRONT_ID, serial=mine.certificate.serial, generation=1)
            await stub.Acknowledge(pb.AcknowledgeRequest(acknowledgements=[ack]))
            for change in ({"holder": "v"}, {"generation": 99}, {"serial": "0a"}):
                wrong = pb.Acknowledgement()
                wrong.CopyFrom(ack)
                for name, value in change.items():
                    setattr(wrong, name, value)
                with pytest.raises(grpc.aio.AioRpcError):
                    await stub.Acknowledge(pb.AcknowledgeRequest(acknowledgements=[wrong]))

            # The registration goes, and with it what the agent may ask for.
            (entry,) = [r for r in await admin.registrations() if r.parent == "host1"]
            await admin.unregister(entry.id)
            (refused,) = await sign(stub, FRONT_ID)
            assert "has the agent host1 as its parent" in refused.failure.message


async def test_what_an_agent_is_the_parent_of_is_nobodys_at_the_servers_own_socket() -> None:
    import os

    async with world() as (parts, admin):
        await admin.register("front", [f"unix:uid:{os.getuid()}"], parent="host1")
        async with Envoy(parts.house.home.mesh_socket, FRONT) as envoy:
            await envoy.ask("default")
            ended = await envoy.until_ended()
        assert ended.code is grpc.StatusCode.PERMISSION_DENIED


class Ads:
    """An agent's delta stream."""

    def __init__(self, channel: grpc.aio.Channel, node_id: str) -> None:
        self._call = channel.stream_stream(
            "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources",
            request_serializer=discovery_pb2.DeltaDiscoveryRequest.SerializeToString,
            response_deserializer=discovery_pb2.DeltaDiscoveryResponse.FromString,
        )()
        self._node_id = node_id

    async def ask(self, type_url: str, *names: str) -> Any:
        request = discovery_pb2.DeltaDiscoveryRequest(type_url=type_url, resource_names_subscribe=names)
        request.node.id = self._node_id
        await self._call.write(request)
        return await self.read()

    async def read(self) -> Any:
        try:
            response: Any = await asyncio.wait_for(self._call.read(), 10)
        except grpc.aio.AioRpcError as error:
            raise EndedError(error.code(), error.details() or "") from error
        await self._call.write(
            discovery_pb2.DeltaDiscoveryRequest(type_url=response.type_url, response_nonce=response.nonce)
        )
        return response


async def test_an_agent_has_configuration_for_those_behind_it_but_no_key() -> None:
    async with world() as (parts, admin):
        await admin.register("front", ["unix:uid:9"], parent="host1")
        await admin.register("back", ["unix:uid:9"], parent="host2")
        async with agent_stub(parts, await joined(parts, admin)) as (stub, channel):
            before = len(await admin.certificates())
            ads = Ads(channel, FRONT)
            clusters = await ads.ask(CDS)
            assert clusters.resources
            secrets = await ads.ask(SDS, "ROOTCA", "default", FRONT_ID, BACK_ID)
            names = [resource.name for resource in secrets.resources]
            gone = list(secrets.removed_resources) or list((await ads.read()).removed_resources)
            assert names == ["ROOTCA"]
            assert sorted(gone) == sorted(["default", FRONT_ID, BACK_ID])
            assert len(await admin.certificates()) == before

            with pytest.raises(EndedError, match="may not be"):
                await Ads(channel, BACK).ask(CDS)
            (row, *_) = await admin.streams()
            assert (row.node_id, row.spiffe_id) == (FRONT, FRONT_ID)
            del stub


async def test_an_evicted_agent_is_out_with_all_that_it_holds() -> None:
    async with world() as (parts, admin):
        await admin.register("front", ["unix:uid:9"], parent="host1")
        spare = await admin.create_token("host1")
        identity = await joined(parts, admin)
        async with agent_stub(parts, identity) as (stub, channel):
            watch = stub.Watch(pb.WatchRequest())
            await watch.read()
            (mine,) = await sign(stub, FRONT_ID)
            ads = Ads(channel, FRONT)
            await ads.ask(CDS)

            evicted = await admin.evict("host1")

            own = read_leaf(certificate_ders(identity.chain_pem)[0]).serial
            assert set(evicted.revoked) == {mine.certificate.serial, own}
            with pytest.raises(grpc.aio.AioRpcError) as ended:
                await _to_the_end(watch.read)
            assert ended.value.code() is grpc.StatusCode.UNAUTHENTICATED
            with pytest.raises(EndedError, match="revoked"):
                await _to_the_end(ads.read)
            with pytest.raises(grpc.aio.AioRpcError):
                await stub.Renew(pb.RenewRequest(csr=new_request()[1]))
        assert [(row.id, row.state) for row in await admin.agents()] == [("host1", "evicted")]
        with pytest.raises(grpc.aio.AioRpcError, match="no token"):
            await join(parts, spare.text)
        with pytest.raises(ConflictError, match="was evicted"):
            await admin.create_token("host1")
        await admin.resume(HOST1)
        assert await joined(parts, admin)


async def _to_the_end(read: Any) -> None:
    while True:
        await asyncio.wait_for(read(), 5)


@pytest.mark.parametrize("name", ["", "a/b", "..", "spiffe://shop.test/mesh/x", "spiffe://other.test/meshca/agent/a"])
async def test_an_agent_has_a_name_of_one_segment(name: str) -> None:
    async with world() as (_, admin):
        with pytest.raises(InvalidInputError):
            await admin.create_token(name)
        assert BACK
