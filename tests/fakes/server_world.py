"""A whole server in a temporary home, and an Envoy's side of SDS, for tests of the server."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Self

import grpc.aio
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2
from envoy.service.discovery.v3 import discovery_pb2

from meshca.authority.lifetimes import Lifetimes
from meshca.client.admin import AdminClient
from meshca.client.values import SigningRequest
from meshca.keys.passphrase import Passphrase
from meshca.server.config import Address, Config
from meshca.server.home import Home
from meshca.server.init import InitOptions, initialise
from meshca.server.parts import Parts
from meshca.server.run import running
from meshca.spiffe.id import TrustDomain

PASSPHRASE = b"correct horse"
ANY = Address("127.0.0.1", 0)
SDS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
LDS = "type.googleapis.com/envoy.config.listener.v3.Listener"
CDS = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
STREAM_SECRETS = "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets"
STREAM_ADS = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources"
FRONT, BACK = "mesh/shop/virtualNode/front", "mesh/shop/virtualNode/back"
FRONT_ID, BACK_ID = f"spiffe://shop.test/{FRONT}", f"spiffe://shop.test/{BACK}"
NOBODY = "spiffe://shop.test/meshca/nobody"


def shop() -> list[dict[str, Any]]:
    """Return a mesh of two nodes: front calls back over mutual TLS."""
    tls = {
        "mode": "STRICT",
        "certificate": {"sds": {"secretName": BACK_ID}},
        "validation": {"trust": {"sds": {"secretName": "spiffe://shop.test"}}},
    }
    client = {"tls": {"validation": {"trust": {"sds": {"secretName": "spiffe://shop.test"}}}}}
    back = {
        "listeners": [{"portMapping": {"port": 8080, "protocol": "http"}, "tls": tls}],
        "serviceDiscovery": {"dns": {"hostname": "127.0.0.1"}},
    }
    front = {
        "listeners": [{"portMapping": {"port": 8080, "protocol": "http"}}],
        "serviceDiscovery": {"dns": {"hostname": "127.0.0.1"}},
        "backends": [{"virtualService": {"virtualServiceName": "back.shop", "clientPolicy": client}}],
    }
    service = {"provider": {"virtualNode": {"virtualNodeName": "back"}}}
    return [
        {"kind": "mesh", "meshName": "shop", "spec": {}},
        {"kind": "virtualNode", "meshName": "shop", "virtualNodeName": "back", "spec": back},
        {"kind": "virtualService", "meshName": "shop", "virtualServiceName": "back.shop", "spec": service},
        {"kind": "virtualNode", "meshName": "shop", "virtualNodeName": "front", "spec": front},
    ]


@contextmanager
def temporary_home(lifetimes: Lifetimes | None = None, **options: Any) -> Iterator[Home]:
    """Lend an initialised home, made with these options; its path is short, for the sake of sockets."""
    folder = Path(tempfile.mkdtemp(prefix="mca", dir="/tmp"))
    try:
        home = Home.at(folder / "home")
        initialise(
            home,
            InitOptions(
                trust_domain=TrustDomain("shop.test"),
                passphrase=lambda _: Passphrase(PASSPHRASE, "test"),
                lifetimes=lifetimes or Lifetimes(),
                **options,
            ),
        )
        yield home
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@asynccontextmanager
async def server(home: Home, passphrase: bytes = PASSPHRASE, **settings: Any) -> AsyncIterator[tuple[Parts, Admin]]:
    """Run a server on a home, with a client of its admin API."""
    home.secure()
    async with running(home, Config(http=ANY, grpc=ANY, **settings), passphrase) as parts:
        client = AdminClient(home.admin_socket, deadline=20.0)
        try:
            yield parts, Admin(client)
        finally:
            client.close()


class Admin:
    """AdminClient's methods, awaited."""

    def __init__(self, client: AdminClient) -> None:
        self.client = client

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.client, name)

        async def call(*arguments: Any, **named: Any) -> Any:
            return await asyncio.to_thread(method, *arguments, **named)

        return call


async def shop_with(admin: Admin, *nodes: str) -> None:
    """Apply the shop and entitle this process to nodes."""
    await admin.apply(shop())
    for node in nodes:
        await admin.register(node, [f"unix:uid:{os.getuid()}"])


class Envoy:
    """One discovery stream, as an Envoy would speak it."""

    def __init__(self, socket: Path, node_id: str, method: str = STREAM_SECRETS) -> None:
        self._channel = grpc.aio.insecure_channel(f"unix:{socket}")
        self._call = self._channel.stream_stream(
            method,
            request_serializer=discovery_pb2.DiscoveryRequest.SerializeToString,
            response_deserializer=discovery_pb2.DiscoveryResponse.FromString,
        )()
        self._node_id = node_id
        self._names: dict[str, list[str]] = {}
        self._last: dict[str, tuple[str, str]] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._call.cancel()
        await self._channel.close()

    async def ask(self, *names: str, type_url: str = SDS) -> None:
        """Subscribe."""
        self._names[type_url] = list(names)
        version, nonce = self._last.get(type_url, ("", ""))
        request = discovery_pb2.DiscoveryRequest(
            type_url=type_url, resource_names=names, version_info=version, response_nonce=nonce
        )
        request.node.id = self._node_id
        await self._call.write(request)

    async def read(self) -> Any:
        """Return the next response, acknowledged."""
        try:
            response: Any = await asyncio.wait_for(self._call.read(), 10)
        except grpc.aio.AioRpcError as error:
            raise EndedError(error.code(), error.details() or "") from error
        assert response is not grpc.aio.EOF
        self._last[response.type_url] = (response.version_info, response.nonce)
        await self._call.write(
            discovery_pb2.DiscoveryRequest(
                type_url=response.type_url,
                resource_names=self._names[response.type_url],
                version_info=response.version_info,
                response_nonce=response.nonce,
            )
        )
        return response

    async def reject(self, why: str) -> None:
        """Read the next response and reject it."""
        response: Any = await asyncio.wait_for(self._call.read(), 10)
        request = discovery_pb2.DiscoveryRequest(
            type_url=response.type_url, resource_names=self._names[response.type_url], response_nonce=response.nonce
        )
        request.error_detail.code = 13
        request.error_detail.message = why
        await self._call.write(request)

    def named(self, response: Any) -> dict[str, Any]:
        """Return the secrets of a response by name; nothing for other types."""
        if response.type_url != SDS:
            return {}
        found = [secret_pb2.Secret.FromString(resource.value) for resource in response.resources]
        return {secret.name: secret for secret in found}

    async def until_ended(self) -> EndedError:
        """Read until the server ends the stream, and say how it did."""
        while True:
            try:
                await self.read()
            except EndedError as ended:
                return ended

    async def secrets(self) -> dict[str, Any]:
        """Return the secrets of the next response by name."""
        response = await self.read()
        assert response.type_url == SDS
        return self.named(response)


class DeltaEnvoy:
    """One incremental SDS stream."""

    def __init__(self, socket: Path, node_id: str) -> None:
        self._channel = grpc.aio.insecure_channel(f"unix:{socket}")
        self._call = self._channel.stream_stream(
            "/envoy.service.secret.v3.SecretDiscoveryService/DeltaSecrets",
            request_serializer=discovery_pb2.DeltaDiscoveryRequest.SerializeToString,
            response_deserializer=discovery_pb2.DeltaDiscoveryResponse.FromString,
        )()
        self._node_id = node_id

    async def __aenter__(self) -> DeltaEnvoy:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._call.cancel()
        await self._channel.close()

    async def ask(self, names: list[str], held: dict[str, str]) -> None:
        """Subscribe, naming the versions held."""
        request = discovery_pb2.DeltaDiscoveryRequest(
            type_url=SDS, resource_names_subscribe=names, initial_resource_versions=held
        )
        request.node.id = self._node_id
        await self._call.write(request)

    async def read(self) -> dict[str, str]:
        """Return names and versions of the next response, acknowledged."""
        response: Any = await asyncio.wait_for(self._call.read(), 10)
        await self._call.write(discovery_pb2.DeltaDiscoveryRequest(type_url=SDS, response_nonce=response.nonce))
        return {resource.name: resource.version for resource in response.resources}


def signing_request(node: str, *names: x509.GeneralName, curve: ec.EllipticCurve | None = None) -> SigningRequest:
    """Return a wish for a certificate with a new key; ``names`` are those in the CSR."""
    key = ec.generate_private_key(curve or ec.SECP256R1())
    builder = x509.CertificateSigningRequestBuilder(x509.Name([]))
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return SigningRequest(node, builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER))


class EndedError(Exception):
    """The server ended the stream."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        self.code = code
        super().__init__(f"{code}: {details}")


def sans(secret: Any) -> list[str]:
    """Return the SANs that a context admits."""
    context = secret.validation_context
    return [matcher.matcher.exact for matcher in context.match_typed_subject_alt_names]


def leaf_of(secret: Any) -> bytes:
    """Return the certificate chain of an SVID."""
    return bytes(secret.tls_certificate.certificate_chain.inline_bytes)
