"""Who starts from an X.509 identity in files: agents, and nodes that are registered with x509:self."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import pytest
from fakes.agent_world import eventually
from fakes.server_world import BACK_ID, FRONT, FRONT_ID, Admin, EndedError, Envoy, server, shop, temporary_home
from fakes.tcp_callers import address, admin_identity, agent_stub, caller, csr_for, identity_of

from meshca.agent.identity import ByCertificate, Own, SpentTokenError
from meshca.agent.place import Place
from meshca.agent.run import Options, running
from meshca.cli.agent import _from_files
from meshca.cli.remote import IdentityFolder
from meshca.client.tunnel import Identity
from meshca.errors import InvalidInputError, MeshcaError, RefusedError, UnauthenticatedError
from meshca.keys.requesting import new_request
from meshca.v1 import agent_pb2 as pb

if TYPE_CHECKING:
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


async def folder_of(admin: Admin, path: Path, ttl: timedelta | None = None) -> IdentityFolder:
    """Make an agent's identity, as `meshca token host1 --x509 DIR` does."""
    key, csr = new_request()
    found = IdentityFolder(path)
    found.put(await admin.issue_agent("host1", csr, ttl), key)
    return found


async def test_an_agent_starts_from_files_and_goes_on_with_a_key_that_never_was_in_one(tmp_path: Path) -> None:
    async with world() as (parts, admin):
        files = await folder_of(admin, tmp_path / "id")
        (row,) = await admin.agents()
        assert (row.id, row.method, row.state) == ("host1", "x509", "attested")
        await admin.register("front", [f"unix:uid:{os.getuid()}"], parent="host1")
        place = Place(tmp_path / "a")
        os.close(place.take())
        for _ in range(2):  # and again, after a restart
            method = ByCertificate(lambda: _from_files(tmp_path / "id"))
            async with running(Options(address(parts), place, method)) as (host, _):
                await eventually(host.ready.is_set, 10)
                own = host.identity.own
                assert str(own.spiffe_id) == HOST1
                assert own.serial != files.presented().serial
                assert own.identity.key_pem != files.identity().key_pem
                async with Envoy(host.socket, FRONT) as envoy:
                    await envoy.ask("default")
                    assert "default" in await envoy.secrets()
        assert {path.name for path in tmp_path.rglob("*") if path.is_file() and b"PRIVATE" in path.read_bytes()} == {
            "svid_key.pem"
        }


async def test_what_was_copied_is_ended_by_evicting_the_agent(tmp_path: Path) -> None:
    async with world() as (parts, admin):
        files = await folder_of(admin, tmp_path / "id")
        evicted = await admin.evict("host1")  # though it never called
        assert files.presented().serial in evicted.revoked
        with pytest.raises(MeshcaError, match="revoked"):
            await ByCertificate(lambda: _from_files(tmp_path / "id")).attest(address(parts))
        with pytest.raises(RefusedError, match="suspended"):
            await folder_of(admin, tmp_path / "other")
        assert (HOST1, "call", "Renew") in await refusals(admin)


async def test_files_that_are_not_an_agents_own_are_refused(tmp_path: Path) -> None:
    async with world() as (parts, admin):
        files = await folder_of(admin, tmp_path / "id")

        def read() -> Own:
            return _from_files(tmp_path / "id")

        key = tmp_path / "id/svid_key.pem"
        key.chmod(0o644)
        with pytest.raises(RefusedError, match="others may read this key"):
            read()
        key.chmod(0o600)
        # The key of somebody else.
        before = key.read_bytes()
        key.write_bytes(new_request()[0])
        with pytest.raises(InvalidInputError, match="do not match"):
            await ByCertificate(read).attest(address(parts))
        key.write_bytes(before)
        # A node's, and an administrator's.
        for spiffe_id, kind in ((FRONT_ID, "file"), ("spiffe://shop.test/meshca/admin/ann", "admin")):
            other = await identity_of(parts, spiffe_id, kind)  # type: ignore[arg-type]
            (tmp_path / "id/svid.pem").write_bytes(other.chain_pem)
            with pytest.raises(RefusedError, match="not the identity of an agent"):
                read()
        (tmp_path / "id/svid.pem").write_bytes(b"")
        with pytest.raises(MeshcaError, match="no PEM certificate"):
            read()
        assert files.folder == tmp_path / "id"


async def test_files_that_have_expired_say_what_to_do(tmp_path: Path) -> None:
    async with world() as (parts, admin):
        await folder_of(admin, tmp_path / "id", timedelta(seconds=1))

        await eventually(lambda: IdentityFolder(tmp_path / "id").presented().not_after <= datetime.now(UTC))
        with pytest.raises(UnauthenticatedError, match="token AGENT --x509"):
            _from_files(tmp_path / "id")
        async with running(
            Options(address(parts), Place(tmp_path / "a"), ByCertificate(lambda: _from_files(tmp_path / "id")))
        ) as (_, tasks):
            with pytest.raises(UnauthenticatedError, match="expired"):
                await tasks[0]


async def test_of_another_trust_domain_nothing_is_taken(tmp_path: Path) -> None:
    async with world() as (_, admin), world() as (elsewhere, _):
        await folder_of(admin, tmp_path / "id")
        with pytest.raises(UnauthenticatedError, match="not trusted"):
            await ByCertificate(lambda: _from_files(tmp_path / "id")).attest(address(elsewhere))


async def test_only_operators_make_agents() -> None:
    async with world() as (parts, admin):
        async with caller(parts, await admin_identity(admin, "ann", "viewer")) as remote:
            with pytest.raises(RefusedError, match="needs the role operator"):
                await remote.issue_agent("host1", new_request()[1])
        with pytest.raises(InvalidInputError, match="no CSR"):
            await admin.issue_agent("host1", b"")
        with pytest.raises(InvalidInputError):
            await admin.issue_agent("../admin/ann", new_request()[1])


# ---- x509:self


async def renew(parts: Parts, identity: Identity, csr: bytes | None = None) -> Any:
    async with agent_stub(parts, identity) as (stub, _):
        return await stub.Renew(pb.RenewRequest(csr=csr or new_request()[1]))


async def test_a_node_renews_its_own_certificate_only_where_a_registration_says_so() -> None:
    async with world() as (parts, admin):
        front, back = [await identity_of(parts, each, "file") for each in (FRONT_ID, BACK_ID)]
        await admin.register("back", ["unix:uid:9"])
        entry = await admin.register("front", ["x509:self"])

        made = await renew(parts, front)
        assert made.spiffe_id == FRONT_ID
        assert made.bundle == parts.state.snapshot.trust.bundle_pem
        (record,) = [r for r in await admin.certificates() if r.serial == made.serial]
        assert (record.spiffe_id, record.state) == (FRONT_ID, "valid")

        with pytest.raises(grpc.aio.AioRpcError, match="over TCP this node is not served") as refused:
            await renew(parts, back)
        assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED

        # Its own, and nothing else: no other's certificate, no role, no keys, none of what agents are told.
        with pytest.raises(grpc.aio.AioRpcError, match="another name"):
            await renew(parts, front, csr_for(BACK_ID))
        async with agent_stub(parts, front) as (stub, _):
            for call in (
                stub.Sign(pb.SignRequest()),
                stub.Token(pb.TokenRequest(spiffe_id=FRONT_ID)),
                stub.Report(pb.ReportRequest()),
                stub.Acknowledge(pb.AcknowledgeRequest()),
                stub.Watch(pb.WatchRequest()).read(),
            ):
                with pytest.raises(grpc.aio.AioRpcError, match="only agents and admins"):
                    await call
        async with caller(parts, front) as remote:
            with pytest.raises(RefusedError, match="only agents and admins"):
                await remote.status()

        await admin.unregister(entry.id)
        with pytest.raises(grpc.aio.AioRpcError, match="this node is not served"):
            await renew(parts, front)
        found = await refusals(admin)
        assert (BACK_ID, "call", "Renew") in found
        assert found[-1] == (FRONT_ID, "call", "Renew")


async def test_a_stolen_leaf_ends_with_its_revocation_and_its_node() -> None:
    async with world() as (parts, admin):
        await admin.register("front", ["x509:self"])
        stolen, other = [await identity_of(parts, FRONT_ID, "file") for _ in range(2)]
        (serial, *_) = [r.serial for r in await admin.certificates(node="front")]
        await admin.revoke(serial=serial)
        ends = []
        for one in (stolen, other):
            try:
                ends.append((await renew(parts, one)).spiffe_id)
            except grpc.aio.AioRpcError as error:
                ends.append(str(error.code()))
        assert sorted(ends) == sorted(["StatusCode.UNAUTHENTICATED", FRONT_ID])
        await admin.revoke(node="front")
        for one in (stolen, other):
            with pytest.raises(grpc.aio.AioRpcError):
                await renew(parts, one)


async def test_no_process_has_what_is_said_of_a_certificate() -> None:
    async with world() as (parts, admin):
        await admin.register("front", ["x509:self"])
        async with Envoy(parts.house.home.mesh_socket, FRONT) as envoy:
            await envoy.ask("default")
            with pytest.raises(EndedError):
                await envoy.secrets()
        with pytest.raises(InvalidInputError, match="stands alone"):
            await admin.register("front", ["x509:self", "unix:uid:1"])
        with pytest.raises(InvalidInputError, match="no agent between"):
            await admin.register("front", ["x509:self"], parent="host1")
        with pytest.raises(InvalidInputError, match="one of the types"):
            await admin.register("front", ["x509:other"])


# ---- a token that was used


async def test_a_used_token_is_not_shown_again() -> None:
    from meshca.agent.identity import ByJoinToken
    from meshca.attest.join import parse_token

    async with world() as (parts, admin):
        tokens = [parse_token((await admin.create_token("host1")).text) for _ in range(2)]
        lying = [tokens[0]]
        method = ByJoinToken(lambda: lying[0])
        await method.attest(address(parts))
        with pytest.raises(SpentTokenError):
            await method.attest(address(parts))
        assert await refusals(admin) == []
        lying[0] = tokens[1]
        assert str((await method.attest(address(parts))).spiffe_id) == HOST1
