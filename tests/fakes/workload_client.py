"""A workload: one process's calls of the Workload API, spoken with our messages, or by the public client."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc.aio
from cryptography import x509
from spiffe import WorkloadApiClient

from meshca.v1 import workload_pb2 as pb

HEADER = (("workload.spiffe.io", "true"),)


class Workload:
    """A connection to the Workload API."""

    def __init__(self, socket: Path) -> None:
        self._channel = grpc.aio.insecure_channel(f"unix:{socket}")

    async def __aenter__(self) -> Workload:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._channel.close()

    def x509(self, header: Sequence[tuple[str, str]] = HEADER) -> Following:
        """Open FetchX509SVID."""
        return self._following("FetchX509SVID", pb.X509SVIDRequest(), pb.X509SVIDResponse, header)

    def bundles(self, header: Sequence[tuple[str, str]] = HEADER) -> Following:
        """Open FetchX509Bundles."""
        return self._following("FetchX509Bundles", pb.X509BundlesRequest(), pb.X509BundlesResponse, header)

    def jwt_bundles(self, header: Sequence[tuple[str, str]] = HEADER) -> Following:
        """Open FetchJWTBundles."""
        return self._following("FetchJWTBundles", pb.JWTBundlesRequest(), pb.JWTBundlesResponse, header)

    async def tokens(
        self, *audience: str, spiffe_id: str = "", header: Sequence[tuple[str, str]] = HEADER
    ) -> list[Any]:
        """Call FetchJWTSVID."""
        request = pb.JWTSVIDRequest(audience=audience, spiffe_id=spiffe_id)
        return list((await self._call("FetchJWTSVID", request, pb.JWTSVIDResponse, header)).svids)

    async def validate(self, token: str, audience: str, header: Sequence[tuple[str, str]] = HEADER) -> Any:
        """Call ValidateJWTSVID."""
        request = pb.ValidateJWTSVIDRequest(audience=audience, svid=token)
        return await self._call("ValidateJWTSVID", request, pb.ValidateJWTSVIDResponse, header)

    async def _call(self, name: str, request: Any, response: Any, header: Sequence[tuple[str, str]]) -> Any:
        method = self._channel.unary_unary(
            f"/SpiffeWorkloadAPI/{name}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=response.FromString,
        )
        return await method(request, metadata=header, timeout=10)

    def _following(self, name: str, request: Any, response: Any, header: Sequence[tuple[str, str]]) -> Following:
        method = self._channel.unary_stream(
            f"/SpiffeWorkloadAPI/{name}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=response.FromString,
        )
        return Following(method(request, metadata=header))


class Following:
    """A stream that is being followed."""

    def __init__(self, call: Any) -> None:
        self._call = call

    async def next(self) -> Any:
        """Return the next message, or raise what the stream ended with."""
        message = await asyncio.wait_for(self._call.read(), 10)
        assert message is not grpc.aio.EOF
        return message

    async def end(self) -> tuple[grpc.StatusCode, str]:
        """Read to the end, and return how it came."""
        try:
            while await asyncio.wait_for(self._call.read(), 10) is not grpc.aio.EOF:
                pass
        except grpc.aio.AioRpcError as error:
            return error.code(), error.details() or ""
        return await self._call.code(), await self._call.details()

    def hang_up(self) -> None:
        """End the stream."""
        self._call.cancel()


def public_client(socket: Path) -> WorkloadApiClient:
    """Return the public Python client, as a user of it would make it."""
    return WorkloadApiClient(socket_path=f"unix://{socket}", default_timeout=10)


def certificates(concatenated: bytes) -> list[x509.Certificate]:
    """Return the certificates that stand one after the other in DER."""
    found = []
    while concatenated:
        assert concatenated[:2] == b"\x30\x82"
        size = 4 + int.from_bytes(concatenated[2:4], "big")
        found.append(x509.load_der_x509_certificate(concatenated[:size]))
        concatenated = concatenated[size:]
    return found
