"""The X.509 half of the SPIFFE Workload API, on a whole server; the client is the public one wherever it can be."""

from __future__ import annotations

import asyncio
import os
import queue
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
from cryptography import x509
from cryptography.x509.oid import ExtensionOID
from fakes.server_world import BACK, BACK_ID, FRONT, FRONT_ID, Admin, server, shop, shop_with, temporary_home
from fakes.workload_client import HEADER, Workload, certificates, public_client
from spiffe import TrustDomain, WorkloadApiClient
from spiffe.workloadapi.x509_context import X509Context

from meshca.authority.records import CertificateFilter
from meshca.server.parts import Parts

_US = f"unix:uid:{os.getuid()}"


class Watching:
    """The public client's watch of an X.509 context: all that it has been told."""

    def __init__(self, client: WorkloadApiClient) -> None:
        self.told: queue.Queue[X509Context | Exception] = queue.Queue()
        self._handle = client.stream_x509_contexts(self.told.put, self.told.put)

    async def next(self) -> X509Context:
        """Return the next context."""
        found = await asyncio.to_thread(self.told.get, timeout=10)
        assert isinstance(found, X509Context), found
        return found

    def stop(self) -> None:
        """Stop watching."""
        self._handle.cancel()


def _ids(context: X509Context) -> list[str]:
    return [str(svid.spiffe_id) for svid in context.x509_svids]


def _roots(context: X509Context) -> set[bytes]:
    bundle = context.x509_bundle_set.get_bundle_for_trust_domain(TrustDomain("shop.test"))
    assert bundle is not None
    return {root.tbs_certificate_bytes for root in bundle.x509_authorities}


async def _registration(admin: Admin, node: str) -> str:
    return next(str(entry.id) for entry in await admin.registrations() if entry.spiffe_id.endswith(node))


async def test_the_public_client_gets_every_identity_with_its_bundle() -> None:
    with temporary_home() as home:
        async with server(home) as (_, admin):
            await shop_with(admin, FRONT, BACK)
            with_env = {"SPIFFE_ENDPOINT_SOCKET": f"unix://{home.mesh_socket}"}
            before = dict(os.environ)
            os.environ.update(with_env)
            try:
                client = WorkloadApiClient(default_timeout=10)
            finally:
                os.environ.clear()
                os.environ.update(before)
            try:
                context = await asyncio.to_thread(client.fetch_x509_context)
                default = await asyncio.to_thread(client.fetch_x509_svid)
                bundles = await asyncio.to_thread(client.fetch_x509_bundles)
            finally:
                client.close()
            assert _ids(context) == [BACK_ID, FRONT_ID]
            assert str(default.spiffe_id) == BACK_ID  # the first by name, always the same
            assert len(default.cert_chain) == 2
            own = bundles.get_bundle_for_trust_domain(TrustDomain("shop.test"))
            assert own is not None
            assert {root.tbs_certificate_bytes for root in own.x509_authorities} == _roots(context)


async def test_svids_carry_hints_crls_and_a_chain_that_verifies() -> None:
    with temporary_home() as home:
        async with server(home) as (_, admin), Workload(home.mesh_socket) as workload:
            await shop_with(admin, FRONT)
            stream = workload.x509()
            message = await stream.next()
            (svid,) = message.svids
            assert (svid.spiffe_id, svid.hint) == (FRONT_ID, FRONT)
            leaf, issuing = certificates(svid.x509_svid)
            (root,) = certificates(svid.bundle)
            leaf.verify_directly_issued_by(issuing)
            issuing.verify_directly_issued_by(root)
            crls = [x509.load_der_x509_crl(der) for der in message.crl]
            assert {crl.issuer for crl in crls} == {root.subject, issuing.subject}
            assert not message.federated_bundles


UNMEANT: dict[str, tuple[tuple[str, str], ...]] = {
    "none": (),
    "another spelling": (("workload.spiffe.io", "True"),),
    "false": (("workload.spiffe.io", "false"),),
    "twice": (*HEADER, *HEADER),
    "another name": (("x-workload.spiffe.io", "true"),),
}


async def test_without_the_security_header_nothing_is_answered() -> None:
    with temporary_home() as home:
        async with server(home) as (_, admin), Workload(home.mesh_socket) as workload:
            await shop_with(admin, FRONT)
            for name, header in UNMEANT.items():
                for stream in (workload.x509(header), workload.bundles(header)):
                    code, details = await stream.end()
                    assert (code, "workload.spiffe.io" in details) == (grpc.StatusCode.INVALID_ARGUMENT, True), name
            assert not await admin.certificates()


async def test_who_has_no_identity_is_refused_and_audited() -> None:
    with temporary_home() as home:
        async with server(home) as (_, admin), Workload(home.mesh_socket) as workload:
            await admin.apply(shop())
            await admin.register(FRONT, ["unix:uid:4242"])
            for stream in (workload.x509(), workload.bundles()):
                assert (await stream.end())[0] is grpc.StatusCode.PERMISSION_DENIED
            refused = [record for record in await admin.audit_tail(5) if record.outcome == "refused"]
            assert {(record.action, record.subject) for record in refused} == {("attest", "workload API")}


async def test_a_registration_comes_and_goes_within_a_moment() -> None:
    with temporary_home() as home:
        async with server(home) as (_, admin), Workload(home.mesh_socket) as workload:
            await shop_with(admin, FRONT)
            stream = workload.x509()
            assert [svid.spiffe_id for svid in (await stream.next()).svids] == [FRONT_ID]
            await admin.register(BACK, [_US])
            asked = time.monotonic()
            assert [svid.spiffe_id for svid in (await stream.next()).svids] == [BACK_ID, FRONT_ID]
            assert time.monotonic() - asked < 5  # the figure itself is the benchmark's
            await admin.unregister(await _registration(admin, FRONT))
            assert [svid.spiffe_id for svid in (await stream.next()).svids] == [BACK_ID]  # redacted by absence
            await admin.unregister(await _registration(admin, BACK))
            assert (await stream.end())[0] is grpc.StatusCode.PERMISSION_DENIED


async def test_a_suspended_node_gets_none_until_it_is_resumed() -> None:
    with temporary_home() as home:
        async with server(home) as (_, admin), Workload(home.mesh_socket) as workload:
            await shop_with(admin, FRONT, BACK)
            stream = workload.x509()
            assert len((await stream.next()).svids) == 2
            await admin.revoke(node=FRONT)
            while len((found := await stream.next()).svids) == 2:
                pass
            assert [svid.spiffe_id for svid in found.svids] == [BACK_ID]
            await admin.revoke(node=BACK)
            code, details = await stream.end()
            assert (code, "suspended" in details) == (grpc.StatusCode.PERMISSION_DENIED, True)
            assert (await workload.bundles().end())[0] is grpc.StatusCode.PERMISSION_DENIED
            await admin.resume(FRONT)
            assert [svid.spiffe_id for svid in (await workload.x509().next()).svids] == [FRONT_ID]


async def test_a_revoked_leaf_is_replaced_and_stands_on_the_crl() -> None:
    with temporary_home() as home:
        async with server(home) as (_, admin), Workload(home.mesh_socket) as workload:
            await shop_with(admin, FRONT)
            stream = workload.x509()
            (svid,) = (await stream.next()).svids
            old = certificates(svid.x509_svid)[0]
            (row,) = await admin.certificates()
            asked = asyncio.create_task(admin.revoke(row.serial, reason="keyCompromise", wait=timedelta(seconds=5)))
            found = await stream.next()
            new = certificates(found.svids[0].x509_svid)[0]
            assert new.serial_number != old.serial_number
            while old.serial_number not in _listed(found):
                found = await stream.next()
            revoked = await asked
            assert (revoked.notified, revoked.acknowledged, revoked.not_drainable) == (1, 1, 1)


def _listed(message: Any) -> set[int]:
    crls = [x509.load_der_x509_crl(der) for der in message.crl]
    for crl in crls:
        assert crl.extensions.get_extension_for_oid(ExtensionOID.CRL_NUMBER)
    return {entry.serial_number for crl in crls for entry in crl}


async def test_the_public_client_follows_a_leaf_an_issuing_ca_and_a_root() -> None:
    """A delivery is the acknowledgement: nothing else lets the new CAs sign before the deadline, days away."""
    with temporary_home() as home:
        async with server(home) as (parts, admin):
            await shop_with(admin, FRONT)
            client = public_client(home.mesh_socket)
            watching = Watching(client)
            try:
                first = await watching.next()
                await admin.rotate_leaf(FRONT)
                second = await _until(watching, lambda context: _serial(context) != _serial(first))
                issuing = await admin.rotate_authority("issuing")
                await _signing(parts, issuing)
                await admin.rotate_leaf(FRONT)
                third = await _until(watching, lambda context: _issuer(context) != _issuer(second))
                root = await admin.rotate_authority("root")
                await _signing(parts, root)
                last = await _until(watching, lambda context: len(_roots(context)) == 2)
                assert _roots(first) == _roots(third) < _roots(last)
            finally:
                watching.stop()
                client.close()
            row, *_ = parts.house.authority.certificates(CertificateFilter(parts.house.clock.now()))
            generation = parts.house.acknowledgements.generation_of(row.holder, row.spiffe_id)
            assert generation >= max(issuer.generation for issuer in parts.house.ledger.authorities())


async def test_frozen_issuance_keeps_what_there_is_and_says_what_there_is_not() -> None:
    with temporary_home() as home:
        async with server(home) as (_, admin), Workload(home.mesh_socket) as workload:
            await shop_with(admin, FRONT)
            stream = workload.x509()
            assert len((await stream.next()).svids) == 1
            await admin.freeze("a test")
            await admin.register(BACK, [_US])
            assert [svid.spiffe_id for svid in (await workload.x509().next()).svids] == [FRONT_ID]
            await admin.unfreeze()
            while len((await stream.next()).svids) == 1:
                pass


async def test_the_same_key_is_not_given_to_two_processes(tmp_path: Path) -> None:
    with temporary_home() as home:
        async with server(home) as (_, admin), Workload(home.mesh_socket) as workload:
            await shop_with(admin, FRONT)
            (ours,) = (await workload.x509().next()).svids
            (again,) = (await workload.x509().next()).svids
            assert again.x509_svid == ours.x509_svid
            script = (
                "import sys; from fakes.workload_client import public_client as c; from pathlib import Path;"
                "s = c(Path(sys.argv[1])).fetch_x509_svid(); print(s.leaf.serial_number)"
            )
            tests = str(Path(__file__).parents[2])
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join([tests, os.environ.get("PYTHONPATH", "")])}
            done = await asyncio.to_thread(
                subprocess.run,
                [sys.executable, "-c", script, str(home.mesh_socket)],
                env=environment,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            assert int(done.stdout) != certificates(ours.x509_svid)[0].serial_number


def _serial(context: X509Context) -> int:
    return int(context.x509_svids[0].leaf.serial_number)


def _issuer(context: X509Context) -> bytes:
    return bytes(context.x509_svids[0].cert_chain[1].tbs_certificate_bytes)


async def _until(watching: Watching, holds: Any) -> X509Context:
    while not holds(context := await watching.next()):
        pass
    return context


async def _signing(parts: Parts, ca_id: str) -> None:
    async with asyncio.timeout(20):
        async for progress in parts.rotations.watch(ca_id):
            assert progress.holders == 1
