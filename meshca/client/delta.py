"""One incremental ADS stream, asynchronous: what goes up and comes down as values, resources as bytes.

Rules: nothing is acknowledged here, whoever reads decides when and how; every failure is one of our errors.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
from envoy.config.core.v3 import base_pb2
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf import json_format

from meshca.errors import MeshcaError, UnavailableError

_METHOD = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
_REJECTED = 13  # google.rpc.Code.INTERNAL, as Envoy says it


@dataclass(frozen=True, slots=True)
class DeltaResource:
    """One resource of a response."""

    name: str
    version: str
    body: bytes


@dataclass(frozen=True, slots=True)
class DeltaResponse:
    """One response."""

    type_url: str
    nonce: str
    resources: tuple[DeltaResource, ...]
    removed: frozenset[str]


class DeltaStream:
    """A stream on behalf of one node."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        node_id: str,
        metadata: Mapping[str, object],
        error_of: Callable[[grpc.aio.AioRpcError], MeshcaError],
    ) -> None:
        self._node = base_pb2.Node(id=node_id, user_agent_name="meshca agent")
        json_format.ParseDict(dict(metadata), self._node.metadata)
        self._error_of = error_of
        self._first = True
        self._call: Any = channel.stream_stream(
            _METHOD,
            request_serializer=discovery_pb2.DeltaDiscoveryRequest.SerializeToString,
            response_deserializer=discovery_pb2.DeltaDiscoveryResponse.FromString,
        )()

    async def ask(
        self,
        type_url: str,
        names: Collection[str],
        held: Mapping[str, str] | None = None,
        given_up: Collection[str] = (),
    ) -> None:
        """Subscribe; ``held`` are the versions there are already, where this is the first request of a type."""
        await self._write(
            discovery_pb2.DeltaDiscoveryRequest(
                type_url=type_url,
                resource_names_subscribe=sorted(names),
                resource_names_unsubscribe=sorted(given_up),
                initial_resource_versions=held or {},
            )
        )

    async def answer(self, type_url: str, nonce: str, error: str | None = None) -> None:
        """Acknowledge a response, or reject it."""
        request = discovery_pb2.DeltaDiscoveryRequest(type_url=type_url, response_nonce=nonce)
        if error is not None:
            request.error_detail.code = _REJECTED
            request.error_detail.message = error
        await self._write(request)

    async def read(self) -> DeltaResponse:
        """Return the next response.

        Raises:
            MeshcaError: The stream has ended.
        """
        try:
            response = await self._call.read()
        except grpc.aio.AioRpcError as error:
            raise self._error_of(error) from error
        if response is grpc.aio.EOF:
            raise UnavailableError("the server has ended the stream")
        resources = tuple(DeltaResource(r.name, r.version, r.resource.value) for r in response.resources)
        return DeltaResponse(response.type_url, response.nonce, resources, frozenset(response.removed_resources))

    def close(self) -> None:
        """End the stream."""
        self._call.cancel()

    async def _write(self, request: Any) -> None:
        if self._first:
            self._first = False
            request.node.CopyFrom(self._node)
        try:
            await self._call.write(request)
        except grpc.aio.AioRpcError as error:
            raise self._error_of(error) from error
        except grpc.aio.UsageError as error:
            raise UnavailableError("the server has ended the stream") from error
