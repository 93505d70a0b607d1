"""Callers over TCP: who is let in, to what, and for how long."""

from __future__ import annotations

import asyncio
import ssl
import time
from datetime import timedelta
from typing import Any

import pytest
from fakes.server_world import FRONT_ID, Admin, server, shop, temporary_home
from fakes.tcp_callers import TD, address, admin_identity, caller, handshake, identity_of, met

from meshca.client.remote import remote_admin
from meshca.client.tunnel import Identity, Meeting, parse_server, unverified_meeting
from meshca.errors import InvalidInputError, MeshcaError, RefusedError, UnauthenticatedError, UnavailableError
from meshca.hardening import memory_file
from meshca.server.services.roles import ADMIN_CALLS, AGENT_CALLS
from meshca.v1 import admin_pb2, agent_pb2

ADMIN_ID = "spiffe://shop.test/meshca/admin/ann"
AGENT_ID = "spiffe://shop.test/meshca/agent/host1"
ADS = "DeltaAggregatedResources"


async def refusals(admin: Admin) -> list[tuple[str, str, str]]:
    return [(r.actor, r.action, r.subject) for r in await admin.audit_tail(200) if r.outcome == "refused"]


def test_every_method_has_its_place_in_the_table() -> None:
    admin = {method.name for method in admin_pb2.DESCRIPTOR.services_by_name["Admin"].methods}
    agent = {method.name for method in agent_pb2.DESCRIPTOR.services_by_name["Agent"].methods}

    assert admin == ADMIN_CALLS.keys()
    assert agent | {ADS} == AGENT_CALLS.keys()


async def test_an_admin_calls_over_tcp_as_the_role_allows() -> None:
    with temporary_home() as home:
        async with server(home) as (parts, admin):
            await admin.apply(shop())
            viewer = await admin_identity(admin, "ann", "viewer")
            async with caller(parts, viewer) as remote:
                status = await remote.status()
                assert (status.state, status.grpc) == ("ready", str(parts.tcp.address))
                for call in (
                    remote.apply(shop()),
                    remote.revoke(node="front"),
                    remote.unfreeze(),
                    remote.add_admin("bob", "admin", b"x"),
                    remote.rotate_authority("root"),
                ):
                    with pytest.raises(RefusedError, match="needs the role"):
                        await call
            assert await refusals(admin) == [
                (ADMIN_ID, "call", name) for name in ("Apply", "Revoke", "Unfreeze", "AddAdmin", "RotateAuthority")
            ]

            operator = await admin_identity(admin, "ann", "operator")
            async with caller(parts, operator) as remote:
                await remote.apply(shop())
                with pytest.raises(RefusedError, match="needs the role admin, the caller's is operator"):
                    await remote.taint_authority("x")


async def test_a_role_that_is_changed_counts_at_once() -> None:
    with temporary_home() as home:
        async with server(home) as (parts, admin):
            identity = await admin_identity(admin, "ann", "admin")
            async with caller(parts, identity) as remote:
                await remote.freeze("drill")
                await remote.unfreeze()
                await admin_identity(admin, "ann", "viewer")
                with pytest.raises(RefusedError, match="needs the role"):
                    await remote.freeze("drill")


@pytest.mark.parametrize(
    ("spiffe_id", "kind", "words"),
    [
        (None, "", "client certificate"),
        (FRONT_ID, "file", "only agents and admins"),
        (AGENT_ID, "agent", "not for agents"),
        ("spiffe://shop.test/meshca/server/server", "server", "only agents and admins"),
        ("spiffe://shop.test/meshca/admin/nobody-added", "admin", "the caller's is none"),
    ],
)
async def test_nobody_else_calls_the_admin_api(spiffe_id: str | None, kind: Any, words: str) -> None:
    with temporary_home() as home:
        async with server(home) as (parts, admin):
            await admin.apply(shop())
            identity = None if spiffe_id is None else await identity_of(parts, spiffe_id, kind)
            async with caller(parts, identity) as remote:
                with pytest.raises((UnauthenticatedError, RefusedError), match=words):
                    await remote.status()
            assert await refusals(admin) == [(spiffe_id or "tcp:127.0.0.1", "call", "Status")]


async def ended(stream: Any) -> tuple[MeshcaError, float]:
    """Read a stream to its end; say why it ended, and how long after now."""
    began = time.monotonic()

    def read() -> MeshcaError:
        try:
            for _ in stream:
                pass
        except MeshcaError as error:
            return error
        raise AssertionError("the stream ended without an error")

    error = await asyncio.wait_for(asyncio.to_thread(read), 15)
    return error, time.monotonic() - began


async def test_an_open_stream_ends_when_its_certificate_is_revoked() -> None:
    with temporary_home() as home:
        async with server(home) as (parts, admin):
            identity = await admin_identity(admin, "ann", "viewer")
            async with caller(parts, identity) as remote:
                stream = await remote.watch_trust("x")
                await asyncio.to_thread(next, stream)
                reading = asyncio.create_task(ended(stream))
                (record,) = [r for r in await admin.certificates() if r.spiffe_id == ADMIN_ID]
                await admin.revoke(record.serial)

                error, _ = await reading
                assert isinstance(error, UnauthenticatedError), error
                assert "revoked" in str(error)
                with pytest.raises(UnauthenticatedError, match="revoked"):
                    await remote.status()
            await _until(lambda: not parts.tcp.gate.remotes())


async def test_an_open_stream_ends_when_its_certificate_expires() -> None:
    with temporary_home() as home:
        async with server(home) as (parts, admin):
            identity = await admin_identity(admin, "ann", "viewer", timedelta(seconds=2))
            async with caller(parts, identity) as remote:
                stream = await remote.watch_trust("x")
                await asyncio.to_thread(next, stream)
                error, seconds = await ended(stream)

                assert isinstance(error, UnauthenticatedError), error
                assert "expired" in str(error)
                assert seconds < 4


async def test_an_open_stream_ends_when_another_replica_has_revoked_or_demoted() -> None:
    """The ledger is asked again with each tick, whoever wrote it."""
    with temporary_home() as home:
        async with server(home) as (parts, admin):
            identity = await admin_identity(admin, "ann", "viewer")
            async with caller(parts, identity) as remote:
                stream = await remote.watch_trust("x")
                await asyncio.to_thread(next, stream)
                reading = asyncio.create_task(ended(stream))
                with parts.house.store._connections.writing.begin() as elsewhere:
                    elsewhere.exec_driver_sql("DELETE FROM admins")
                await parts.tcp.tick()

                error, _ = await reading
                assert isinstance(error, RefusedError), error


def _context(identity: Identity | None, roots: bytes) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(cadata=roots.decode())
    context.set_alpn_protocols(["h2"])
    if identity:
        with memory_file(identity.chain_pem + identity.key_pem) as path:
            context.load_cert_chain(path)
    return context


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated:DeprecationWarning")
async def test_tls_1_1_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    with temporary_home() as home:
        async with server(home) as (parts, admin):
            identity = await admin_identity(admin, "ann", "viewer")
            context = _context(identity, parts.state.snapshot.trust.bundle_pem)
            context.set_ciphers("ALL:@SECLEVEL=0")
            context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await handshake(parts, context)
            assert "unsupported protocol" in caplog.text

            for version, name in ((ssl.TLSVersion.TLSv1_2, "TLSv1.2"), (ssl.TLSVersion.TLSv1_3, "TLSv1.3")):
                context.maximum_version = ssl.TLSVersion.MAXIMUM_SUPPORTED
                context.minimum_version = context.maximum_version = version
                assert await handshake(parts, context) == name


async def test_a_certificate_of_another_authority_does_not_shake_hands(caplog: pytest.LogCaptureFixture) -> None:
    with temporary_home() as other, temporary_home() as home:
        async with server(other) as (_, stranger):
            foreign = await admin_identity(stranger, "ann", "admin")
        async with server(home) as (parts, _):
            context = _context(foreign, parts.state.snapshot.trust.bundle_pem)
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await handshake(parts, context)
            assert "certificate verify failed" in caplog.text


async def test_the_client_tells_nothing_to_a_workload_that_plays_the_server() -> None:
    with temporary_home() as home:
        async with server(home) as (parts, admin):
            await admin.apply(shop())
            identity = await admin_identity(admin, "ann", "admin")
            fake = await identity_of(parts, FRONT_ID, "file")
            heard = bytearray()

            async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                heard.extend(await reader.read(100))
                writer.close()

            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            with memory_file(fake.chain_pem + fake.key_pem) as path:
                context.load_cert_chain(path)
            listening = await asyncio.start_server(listen, "127.0.0.1", 0, ssl=context)
            where = listening.sockets[0].getsockname()[:2]
            lent = remote_admin(where, lambda: met(parts, identity))
            client = await asyncio.to_thread(lent.__enter__)
            with pytest.raises(UnauthenticatedError, match=r"not a server of shop\.test"):
                await Admin(client).status()
            await asyncio.to_thread(lent.__exit__, None, None, None)
            listening.close()
            assert not heard


async def test_a_server_of_another_authority_is_not_trusted() -> None:
    with temporary_home() as home, temporary_home() as other:
        async with server(home) as (parts, admin), server(other) as (elsewhere, _):
            identity = await admin_identity(admin, "ann", "admin")
            lent = remote_admin(address(elsewhere), lambda: met(parts, identity))
            client = await asyncio.to_thread(lent.__enter__)
            with pytest.raises(UnauthenticatedError, match="not trusted"):
                await Admin(client).status()
            await asyncio.to_thread(lent.__exit__, None, None, None)


async def test_where_nobody_listens_the_error_says_so() -> None:
    lent = remote_admin(("127.0.0.1", 1), unverified_meeting)
    client = await asyncio.to_thread(lent.__enter__)
    with pytest.raises(UnavailableError, match=r"no server answers at 127\.0\.0\.1:1"):
        await Admin(client).status()
    await asyncio.to_thread(lent.__exit__, None, None, None)


async def test_an_admin_renews_for_a_new_key_only_over_tcp() -> None:
    from meshca.keys.requesting import new_request

    with temporary_home() as home:
        async with server(home) as (parts, admin):
            identity = await admin_identity(admin, "ann", "viewer")
            key, csr = new_request()
            with pytest.raises(RefusedError, match="over TCP"):
                await admin.renew_admin(csr)
            async with caller(parts, identity) as remote:
                made = await remote.renew_admin(csr)
            assert (made.issued.spiffe_id, made.role) == (ADMIN_ID, "viewer")
            async with caller(parts, Identity(made.issued.chain, key)) as remote:
                assert (await remote.status()).state == "ready"


async def test_the_servers_own_certificate_holds_no_rotation_up_and_switches_last() -> None:
    with temporary_home() as home:
        async with server(home) as (parts, admin):
            identity = await admin_identity(admin, "ann", "viewer")
            async with caller(parts, identity) as remote:
                await remote.status()
            before = parts.state.snapshot.trust.signing
            assert before is not None
            prepared = await admin.rotate_authority("issuing")
            for _ in range(20):
                await parts.tcp.tick()
                parts.journal.tick()
                await parts.rotations.tick()
                if (now := parts.state.snapshot.trust.signing) is not None and now.id == prepared:
                    break
                await asyncio.sleep(0.05)
            else:
                raise AssertionError([a.waiting_for for a in (await admin.authorities()).issuing])
            await parts.tcp.tick()
            own = [r for r in await admin.certificates() if r.spiffe_id.endswith("/meshca/server/server")]
            assert own[-1].issuer == prepared
            async with caller(parts, identity) as remote:
                assert (await remote.status()).state == "ready"


async def test_strangers_do_not_take_all_room_nor_send_without_bound() -> None:
    with temporary_home() as home:
        async with server(home) as (parts, _):
            context = _context(None, parts.state.snapshot.trust.bundle_pem)
            host, port = address(parts)
            reader, writer = await asyncio.open_connection(host, port, ssl=context)
            writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0" * 400_000)
            try:
                while await asyncio.wait_for(reader.read(65536), 5):
                    pass
            except ConnectionError:
                pass
            writer.close()
            await _until(lambda: len(parts.tcp.gate) == 0)


@pytest.mark.parametrize("text", ["", "host", "host:", ":1", "host:0", "host:70000", "a:b:1", "host:x"])
def test_an_address_is_host_and_port(text: str) -> None:
    with pytest.raises(InvalidInputError, match="host:port"):
        parse_server(text)
    assert parse_server("ca.example:8443") == ("ca.example", 8443)
    assert parse_server("[::1]:1") == ("::1", 1)


def test_a_meeting_shows_nothing_of_its_key() -> None:
    identity = Identity(b"CHAIN", b"KEY")

    assert "KEY" not in repr(identity)
    assert Meeting.__slots__
    assert TD.name == "shop.test"


async def _until(holds: Any) -> None:
    for _ in range(200):
        if holds():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it did not come about")
