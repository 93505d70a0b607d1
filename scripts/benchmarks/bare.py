"""The floor of our transport: a bare grpc.aio server that sends one constant secret, and a changed one when told.

Run as ``python -m benchmarks.bare SOCKET``.
"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any

import grpc
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf import any_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

METHOD = "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets"
PUSH = "/bench.Bare/Push"
_TYPE = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
_PEM = b"-----BEGIN CERTIFICATE-----\n" + b"A" * 700 + b"\n-----END CERTIFICATE-----\n"


class Bare:
    """The same bytes for everybody, and a count of who has acknowledged them."""

    def __init__(self) -> None:
        self.version = 0
        self.streams = 0
        self.acknowledged = 0
        self.changed = asyncio.Condition()
        self.body = b""
        self._make()

    async def stream(self, requests: AsyncIterator[bytes], _: Any) -> AsyncIterator[bytes]:
        """Answer the first request, then each change once the last was acknowledged."""
        self.streams += 1
        await anext(aiter(requests))
        while True:
            sent = self.version
            yield self.body
            await anext(aiter(requests))
            async with self.changed:
                self.acknowledged += 1
                self.changed.notify_all()
                await self.changed.wait_for(lambda sent=sent: self.version > sent)

    async def push(self, _: bytes, __: Any) -> bytes:
        """Change the secret and answer once every stream has acknowledged it."""
        async with self.changed:
            self.acknowledged = 0
            self.version += 1
            self._make()
            self.changed.notify_all()
            await self.changed.wait_for(lambda: self.acknowledged >= self.streams)
        return b""

    def _make(self) -> None:
        secret = secret_pb2.Secret(name="default")
        secret.validation_context.trusted_ca.inline_bytes = _PEM + b"%d\n" % self.version
        resource = any_pb2.Any(type_url=_TYPE, value=secret.SerializeToString())
        message = discovery_pb2.DiscoveryResponse(
            version_info=str(self.version), resources=[resource], type_url=_TYPE, nonce=str(self.version)
        )
        self.body = message.SerializeToString()


async def serve(socket: str) -> None:
    """Serve until killed."""
    bare = Bare()
    server = grpc.aio.server()
    handlers = {"StreamSecrets": grpc.stream_stream_rpc_method_handler(bare.stream)}
    service = METHOD.split("/")[1]
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler(service, handlers),
            grpc.method_handlers_generic_handler(
                "bench.Bare", {"Push": grpc.unary_unary_rpc_method_handler(bare.push)}
            ),
        )
    )
    server.add_insecure_port(f"unix:{socket}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
