"""Callers over TCP: identities of whatever kind, and ways to a server with them."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import grpc.aio
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from fakes.server_world import Admin

from meshca.attest.join import parse_token
from meshca.client.remote import remote_admin
from meshca.client.target import unix_target
from meshca.client.tunnel import Identity, Meeting, Tunnel, meeting
from meshca.keys.requesting import new_request
from meshca.server.issuance import Order
from meshca.spiffe.id import SpiffeId, TrustDomain
from meshca.v1 import agent_pb2, agent_pb2_grpc

if TYPE_CHECKING:
    from meshca.authority.requests import Kind
    from meshca.server.parts import Parts

TD = TrustDomain("shop.test")


def address(parts: Parts) -> tuple[str, int]:
    """Return where the server listens."""
    return parts.tcp.address.host, parts.tcp.address.port


async def admin_identity(admin: Admin, name: str, role: str, ttl: timedelta | None = None) -> Identity:
    """Add an administrator."""
    key, csr = new_request()
    made = await admin.add_admin(name, role, csr, ttl)
    return Identity(made.issued.chain, key)


async def identity_of(parts: Parts, spiffe_id: str, kind: Kind, ttl: timedelta | None = None) -> Identity:
    """Issue whatever identity, past all rules of who may have it."""
    key, csr = new_request()
    order = Order(SpiffeId.parse(spiffe_id), "issue", kind, "test", csr=csr, ttl=ttl)
    leaf = await parts.issuance.one(order)
    return Identity(leaf.chain_pem, key)


def met(parts: Parts, identity: Identity | None) -> Meeting:
    """Return how to meet this server."""
    return meeting(TD, parts.state.snapshot.trust.bundle_pem, identity)


def csr_for(uri: str) -> bytes:
    """Return a CSR that names somebody."""
    key = ec.generate_private_key(ec.SECP256R1())
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)])
    builder = x509.CertificateSigningRequestBuilder(x509.Name([])).add_extension(names, critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


@asynccontextmanager
async def caller(parts: Parts, identity: Identity | None) -> AsyncIterator[Admin]:
    """Lend the admin API over TCP, as somebody."""
    lent = remote_admin(address(parts), lambda: met(parts, identity))
    client = await asyncio.to_thread(lent.__enter__)
    try:
        yield Admin(client)
    finally:
        await asyncio.to_thread(lent.__exit__, None, None, None)


async def handshake(parts: Parts, context: ssl.SSLContext) -> str | None:
    """Shake hands with the server and say which version of TLS that gave."""
    host, port = address(parts)
    reader, writer = await asyncio.open_connection(host, port, ssl=context)
    try:
        version: str | None = writer.get_extra_info("ssl_object").version()
        # TLS 1.3: the server judges a client's certificate after the client believes that all is done.
        if not await asyncio.wait_for(reader.read(1), 5):
            raise ConnectionResetError("the server has ended the connection")
        return version
    finally:
        writer.close()


@asynccontextmanager
async def agent_stub(parts: Parts, identity: Identity | None) -> AsyncIterator[tuple[Any, grpc.aio.Channel]]:
    """Lend the agents' API over TCP, as somebody."""
    tunnel = Tunnel(address(parts), lambda: met(parts, identity))
    await tunnel.start()
    channel = grpc.aio.insecure_channel(unix_target(tunnel.path), options=[("grpc.use_local_subchannel_pool", 1)])
    try:
        yield agent_pb2_grpc.AgentStub(channel), channel
    finally:
        await channel.close()
        await tunnel.close()


async def join(parts: Parts, token: str, key_and_csr: tuple[bytes, bytes] | None = None) -> Identity:
    """Attest with a join token, as an agent does."""
    key, csr = key_and_csr or new_request()
    async with agent_stub(parts, None) as (stub, _):
        secret = parse_token(token).secret
        made = await stub.Attest(agent_pb2.AttestRequest(method="join_token", payload=secret, csr=csr))
    return Identity(made.chain, key)


async def joined(parts: Parts, admin: Admin, name: str = "host1") -> Identity:
    """Let an agent join."""
    return await join(parts, (await admin.create_token(name)).text)
