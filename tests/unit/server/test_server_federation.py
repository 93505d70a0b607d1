"""Bundles of others over real TLS: how they are fetched, what is refused, and what a server does with them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from fakes.server_world import BACK, Envoy, server, shop_with, temporary_home
from fakes.workload_client import Workload
from harness.strangers import Stranger

from meshca.client.values import Federating
from meshca.errors import (
    InvalidInputError,
    MeshcaError,
    NotFoundError,
    RefusedError,
    UnauthenticatedError,
    UnavailableError,
)
from meshca.server import bundle_client
from meshca.server.bundle_client import spiffe_meeting
from meshca.server.bundle_endpoint import bundle_context
from meshca.server.config import Address
from meshca.spiffe.bundle import key_members
from meshca.spiffe.id import SpiffeId, TrustDomain

ANY = Address("127.0.0.1", 0)
JWT = {"use": "jwt-svid", "kid": "k1", **key_members(ec.generate_private_key(ec.SECP256R1()).public_key())}
SERVER = SpiffeId.parse("spiffe://e.test/bundles")
Answer = Callable[[bytes], bytes]


def _ok(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


@asynccontextmanager
async def _serving(pem: bytes, answer: Answer) -> AsyncIterator[str]:
    """Answer https on a port of our own; ``answer`` makes the bytes of the head of a request."""
    split = pem.index(b"-----BEGIN PRIVATE")

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            writer.write(answer(await reader.readuntil(b"\r\n\r\n")))
            await writer.drain()
            await reader.read()
        writer.close()

    started = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=bundle_context(pem[:split], pem[split:]))
    try:
        yield f"https://127.0.0.1:{started.sockets[0].getsockname()[1]}/"
    finally:
        started.close()


@pytest.fixture
def stranger() -> Stranger:
    return Stranger("e.test")


def _meeting(stranger: Stranger) -> bundle_client.Meeting:
    return spiffe_meeting(SERVER, stranger.root.public_bytes(Encoding.PEM))


# ---- the client


async def test_a_bundle_is_fetched_from_the_server_that_was_meant(stranger: Stranger) -> None:
    asked: list[bytes] = []

    def answer(head: bytes) -> bytes:
        asked.append(head)
        return _ok(stranger.bundle)

    async with _serving(stranger.minted(str(SERVER)), answer) as url:
        assert await bundle_client.fetch(url, _meeting(stranger)) == stranger.bundle
    assert asked[0].startswith(b"GET / HTTP/1.1\r\n")


@pytest.mark.parametrize("who", ["spiffe://e.test/other", "spiffe://m.test/bundles", "spiffe://e.test"])
async def test_another_server_is_told_and_asked_nothing(stranger: Stranger, who: str) -> None:
    asked: list[bytes] = []

    def answer(head: bytes) -> bytes:
        asked.append(head)
        return b""

    async with _serving(stranger.minted(who), answer) as url:
        with pytest.raises(MeshcaError):
            await bundle_client.fetch(url, _meeting(stranger))
    assert not asked


async def test_two_names_in_one_certificate_are_no_identity(stranger: Stranger) -> None:
    async with _serving(stranger.minted(str(SERVER), "spiffe://e.test/b"), lambda _: _ok(b"{}")) as url:
        with pytest.raises(MeshcaError):
            await bundle_client.fetch(url, _meeting(stranger))


async def test_a_server_of_another_ca_is_not_believed(stranger: Stranger) -> None:
    async with _serving(Stranger("e.test").minted(str(SERVER)), lambda _: _ok(b"{}")) as url:
        with pytest.raises(UnauthenticatedError, match="not trusted"):
            await bundle_client.fetch(url, _meeting(stranger))


async def test_the_web_knows_servers_by_host_name(
    stranger: Stranger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    roots = tmp_path / "roots.pem"
    roots.write_bytes(stranger.root.public_bytes(Encoding.PEM))
    monkeypatch.setenv("SSL_CERT_FILE", str(roots))
    async with _serving(stranger.minted(dns=["localhost"]), lambda _: _ok(b"{}")) as url:
        named = url.replace("127.0.0.1", "localhost")
        assert await bundle_client.fetch(named, bundle_client.web_meeting()) == b"{}"
        with pytest.raises(UnauthenticatedError, match="not trusted"):
            await bundle_client.fetch(url, bundle_client.web_meeting())


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2097152\r\n\r\n" + b" " * 2097152, "more than 1048576 bytes"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"10000\r\n" + b" " * 65536 + b"\r\n", "no whole"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: " + b"y" * 100_000, "no answer of HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort", "no whole answer within"),
        (b"rubbish\r\n\r\n", "no answer of HTTP"),
        (b"", "no whole answer within"),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "status 404"),
        (b"HTTP/1.1 301 Moved\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n", "status 301"),
        (b"HTTP/1.1 302 Found\r\nLocation: https://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n", "another server"),
        (b"HTTP/1.1 302 Found\r\nLocation: http:/x\r\nContent-Length: 0\r\n\r\n", "another server"),
        (b"HTTP/1.1 307 Again\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n", "more than 3 redirects"),
    ],
)
async def test_a_hostile_answer_ends_in_time_and_in_words(stranger: Stranger, answer: bytes, error: str) -> None:
    async with _serving(stranger.minted(str(SERVER)), lambda _: answer) as url:
        with pytest.raises((RefusedError, UnavailableError), match=error):
            await bundle_client.fetch(url, _meeting(stranger), patience=2.0)


async def test_a_temporary_redirect_on_the_same_server_is_followed(stranger: Stranger) -> None:
    def answer(head: bytes) -> bytes:
        if head.startswith(b"GET /b?c=1 "):
            return _ok(b"{}")
        return b"HTTP/1.1 302 Found\r\nLocation: /b?c=1\r\nContent-Length: 0\r\n\r\n"

    async with _serving(stranger.minted(str(SERVER)), answer) as url:
        assert await bundle_client.fetch(url, _meeting(stranger)) == b"{}"


# ---- a whole server


@pytest.mark.parametrize("told", [
    {"url": "http://127.0.0.1/"}, {"url": "https://u@127.0.0.1/"}, {"url": "https:///"}, {"url": "https://h/#x"},
    {"url": "https://h\n/"}, {"profile": "ftp"}, {"endpoint_id": "spiffe://e.test"}, {"trust_domain": "E.test"},
    {"trust_domain": "shop.test"}, {"bundle": b"{}"}, {"bundle": Stranger("m.test").bundle}, {"bundle": b""},
    {"profile": "https_web", "endpoint_id": "spiffe://e.test/x"},
])  # fmt: skip
async def test_a_wrong_wish_is_refused_and_audited(stranger: Stranger, told: dict[str, Any]) -> None:
    wish = {"trust_domain": "e.test", "url": "https://127.0.0.1:1/", "bundle": stranger.bundle, **told}
    with temporary_home() as home:
        async with server(home) as (_, admin):
            with pytest.raises(InvalidInputError):
                await admin.federate(Federating(**wish))
            assert await admin.federations() == []
            rows = await admin.audit_tail(5)
            assert [row.outcome for row in rows if row.action == "federate"] == ["refused"]


async def test_a_bundle_is_kept_up_to_date_and_never_goes_back(stranger: Stranger) -> None:
    served = stranger.bundle
    async with _serving(stranger.minted(str(SERVER)), lambda _: _ok(served)) as url:
        with temporary_home() as home:
            async with server(home) as (parts, admin):
                wish = Federating("e.test", url, "https_spiffe", str(SERVER), stranger.bundle)
                first = await admin.federate(wish)
                assert (first.roots, first.sequence, first.failure) == (1, 1, "")

                new = Stranger("e.test", sequence=5)
                document = json.loads(new.bundle)
                document["keys"] += json.loads(stranger.bundle)["keys"]
                served = json.dumps(document).encode()
                assert (await admin.refresh_federation("e.test")).roots == 2
                assert len(parts.state.snapshot.federated[TrustDomain("e.test")].roots) == 2

                served = stranger.bundle  # the old one again: a replay
                back = await admin.refresh_federation("e.test")
                assert (back.roots, back.sequence) == (2, 5)
                assert "went back" in back.failure
                assert any("e.test" in warning for warning in (await admin.status()).warnings)

                served = b"{}"
                assert "not a list" in (await admin.refresh_federation("e.test")).failure
                rows = await admin.audit_tail(20)
                outcomes = [row.outcome for row in reversed(rows) if row.action == "fetch-bundle"]
                assert outcomes.count("ok") == 1
                assert outcomes.count("refused") == 2

                served = stranger.bundle
                again = await admin.federate(wish)  # an administrator who brings a bundle sets it back
                assert (again.roots, again.sequence, again.failure) == (1, 1, "")


async def test_what_is_due_is_fetched_by_itself(stranger: Stranger) -> None:
    asked: list[bytes] = []

    def answer(head: bytes) -> bytes:
        asked.append(head)
        return _ok(stranger.bundle)

    async with _serving(stranger.minted(str(SERVER)), answer) as url:
        with temporary_home() as home:
            async with server(home) as (parts, admin):
                await admin.federate(Federating("e.test", url, "", str(SERVER), stranger.bundle))
                await parts.federator.tick()
                assert len(asked) == 1, "not due yet"
                (known,) = parts.house.federations.list()
                assert parts.house.federations.claim(known, parts.house.clock.now())
                assert not parts.house.federations.claim(known, parts.house.clock.now()), "claimed by one alone"
                await parts.federator.tick()
                assert len(asked) == 2


async def test_two_servers_know_each_other_by_their_endpoints(stranger: Stranger) -> None:
    with temporary_home() as home:
        async with server(home, federation=ANY) as (parts, admin):
            at = (await admin.status()).federation
            trust = parts.state.snapshot.trust.bundle_pem
            endpoint_id = SpiffeId.parse("spiffe://shop.test/meshca/server/federation")
            raw = await bundle_client.fetch(f"https://{at}/", spiffe_meeting(endpoint_id, trust))
            assert json.loads(raw) == json.loads(await admin.bundle("spiffe"))

            context = ssl.create_default_context(cadata=trust.decode())
            context.check_hostname = False
            asked = {b"POST / HTTP/1.1": b"405", b"GET /keys HTTP/1.1": b"404", b"GET /bundle HTTP/1.1": b"200"}
            for request, status in asked.items():
                host, _, port = str(at).rpartition(":")
                reader, writer = await asyncio.open_connection(host, int(port), ssl=context)
                writer.write(request + b"\r\nHost: x\r\n\r\n")
                assert (await reader.read()).split()[1] == status
                writer.close()


async def test_a_web_certificate_is_read_again_when_it_changes(stranger: Stranger, tmp_path: Path) -> None:
    def put(name: str) -> None:
        pem = stranger.minted(dns=[name])
        split = pem.index(b"-----BEGIN PRIVATE")
        (tmp_path / "cert").write_bytes(pem[:split])
        (tmp_path / "key").write_bytes(pem[split:])

    async def shown(at: str) -> str:
        context = ssl.create_default_context(cadata=stranger.root.public_bytes(Encoding.PEM).decode())
        context.check_hostname = False
        host, _, port = at.rpartition(":")
        _, writer = await asyncio.open_connection(host, int(port), ssl=context)
        found: Any = writer.get_extra_info("peercert")
        writer.close()
        return str(found["subjectAltName"][0][1])

    put("one.test")
    with temporary_home() as home:
        files = (tmp_path / "cert", tmp_path / "key")
        async with server(home, federation=ANY, federation_files=files) as (_, admin):
            at = str((await admin.status()).federation)
            assert await shown(at) == "one.test"
            (tmp_path / "key").write_bytes(b"torn")
            assert await shown(at) == "one.test"
            put("two.test")
            assert await shown(at) == "two.test"


async def test_only_registrations_that_federate_may_have_a_bundle(stranger: Stranger) -> None:
    wish = Federating("e.test", "https://127.0.0.1:1/", "https_web", "", stranger.bundle)
    with temporary_home() as home:
        async with server(home) as (_, admin):
            await shop_with(admin, "back")
            await admin.federate(wish)
            async with Envoy(home.mesh_socket, BACK) as envoy:
                await envoy.ask("spiffe://e.test")
                ended = await envoy.until_ended()
                assert "spiffe://e.test" in str(ended)
            async with Envoy(home.mesh_socket, BACK) as envoy:
                await envoy.ask("ALL")
                before = (await envoy.secrets())["ALL"]
                assert b"e.test" not in before.SerializeToString()

                (entry,) = await admin.registrations()
                await admin.register("back", [f"unix:gid:{os.getgid()}"], federates_with=["e.test"])
                after = (await envoy.secrets())["ALL"]
                assert b"e.test" in after.SerializeToString()
                await admin.unregister(entry.id)
            async with Envoy(home.mesh_socket, BACK) as envoy:
                await envoy.ask("spiffe://e.test")
                theirs = (await envoy.secrets())["spiffe://e.test"].validation_context
                assert not theirs.trusted_ca.inline_bytes, "by the validator, which knows trust domains"
                await admin.unfederate("e.test")
                nobody = (await envoy.secrets())["spiffe://e.test"].validation_context
                assert [san.matcher.exact for san in nobody.match_typed_subject_alt_names] == [
                    "spiffe://shop.test/meshca/nobody"
                ]
            with pytest.raises(NotFoundError):
                await admin.unfederate("e.test")


async def test_the_workload_api_gives_federated_bundles_to_those_registrations(stranger: Stranger) -> None:
    root = stranger.root.public_bytes(Encoding.DER)
    with temporary_home() as home:
        async with server(home) as (_, admin):
            await shop_with(admin, "back")
            document = json.loads(stranger.bundle)
            document["keys"].append(JWT)
            bundle = json.dumps(document).encode()
            await admin.federate(Federating("e.test", "https://127.0.0.1:1/", "https_web", "", bundle))
            async with Workload(home.mesh_socket) as workload:
                svids, bundles, tokens = workload.x509(), workload.bundles(), workload.jwt_bundles()
                assert not (await svids.next()).federated_bundles
                assert set((await bundles.next()).bundles) == {"spiffe://shop.test"}
                assert set((await tokens.next()).bundles) == {"spiffe://shop.test"}

                await admin.register("front", [f"unix:uid:{os.getuid()}"], federates_with=["e.test"])
                assert dict((await svids.next()).federated_bundles) == {"spiffe://e.test": root}
                assert (await bundles.next()).bundles["spiffe://e.test"] == root
                assert b"k1" in (await tokens.next()).bundles["spiffe://e.test"]

                await admin.unfederate("e.test")
                assert not (await svids.next()).federated_bundles
                assert set((await bundles.next()).bundles) == {"spiffe://shop.test"}
                assert set((await tokens.next()).bundles) == {"spiffe://shop.test"}
                for stream in (svids, bundles, tokens):
                    stream.hang_up()
