"""Envoy's discovery services on grpc.aio: SDS by itself, and everything aggregated (ADS).

Rules this module keeps:
- Bytes in, bytes out: grpc parses and serialises nothing for us.
- An error of ours ends the call in words and with the matching status; any other says "internal error" and is logged.
- A bad request costs its own stream and nothing else.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

import grpc
import grpc.aio

from meshca.errors import (
    ConflictError,
    ExhaustedError,
    InvalidInputError,
    MeshcaError,
    NotFoundError,
    RefusedError,
    UnauthenticatedError,
    UnavailableError,
)
from meshca.xds import wire
from meshca.xds.messages import Response
from meshca.xds.registry import StreamTable
from meshca.xds.resource import SDS
from meshca.xds.source import Source, View
from meshca.xds.stream import RefusedNamesError, Stream, Transport, describe

_log = logging.getLogger(__name__)

SDS_SERVICE = "envoy.service.secret.v3.SecretDiscoveryService"
ADS_SERVICE = "envoy.service.discovery.v3.AggregatedDiscoveryService"

SERVER_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_receive_message_length", wire.MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", -1),
    # An Envoy looks every 10 s whether the server lives (documents.py). By default gRPC ends the connection of whoever
    # does that on an idle stream after three times: every Envoy would connect anew every 42 s (measured).
    ("grpc.http2.min_ping_interval_without_data_ms", 1000),
)
"""What a grpc server that carries these services is to be made with."""

_STATUS: dict[type, grpc.StatusCode] = {
    InvalidInputError: grpc.StatusCode.INVALID_ARGUMENT,
    NotFoundError: grpc.StatusCode.NOT_FOUND,
    ConflictError: grpc.StatusCode.FAILED_PRECONDITION,
    UnauthenticatedError: grpc.StatusCode.UNAUTHENTICATED,
    RefusedError: grpc.StatusCode.PERMISSION_DENIED,
    ExhaustedError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    UnavailableError: grpc.StatusCode.UNAVAILABLE,
}

_NONCE_BYTES = 4
_Context = grpc.aio.ServicerContext[Any, Any]


def handlers(
    source: Source, table: StreamTable, entropy: Callable[[int], bytes] = os.urandom
) -> tuple[grpc.GenericRpcHandler, grpc.GenericRpcHandler]:
    """Return the SDS and ADS services, to be added to a grpc.aio server."""
    service = _Service(source, table, entropy)

    def stream(*, delta: bool, dedicated: bool) -> grpc.RpcMethodHandler[Any, Any]:
        serve = partial(service.stream, Transport(delta=delta, dedicated=dedicated))
        return grpc.stream_stream_rpc_method_handler(serve)

    secret = {
        "StreamSecrets": stream(delta=False, dedicated=True),
        "DeltaSecrets": stream(delta=True, dedicated=True),
        "FetchSecrets": grpc.unary_unary_rpc_method_handler(service.fetch),
    }
    aggregated = {
        "StreamAggregatedResources": stream(delta=False, dedicated=False),
        "DeltaAggregatedResources": stream(delta=True, dedicated=False),
    }
    return (
        grpc.method_handlers_generic_handler(SDS_SERVICE, secret),
        grpc.method_handlers_generic_handler(ADS_SERVICE, aggregated),
    )


def to_status(error: Exception) -> tuple[grpc.StatusCode, str]:
    """Turn an error into what a caller may see: ours in words, the rest as INTERNAL."""
    for kind in type(error).__mro__:
        if code := _STATUS.get(kind):
            return code, str(error)
    return grpc.StatusCode.INTERNAL, "internal error"


class _Service:
    def __init__(self, source: Source, table: StreamTable, entropy: Callable[[int], bytes]) -> None:
        self._source = source
        self._table = table
        self._entropy = entropy

    async def stream(self, transport: Transport, _requests: object, context: _Context) -> None:
        """Serve one stream until the client ends it."""

        async def read() -> bytes | None:
            message = await context.read()
            return None if message is grpc.aio.EOF else message

        try:
            if (raw := await read()) is not None:
                await self._serve(transport, raw, read, context)
        except Exception as error:
            await self._fail(context, error)

    async def fetch(self, raw: bytes, context: _Context) -> bytes:
        """Answer one SDS request without a stream."""
        try:
            return await self._fetch(raw, context.peer())
        except Exception as error:
            await self._fail(context, error)

    async def _serve(self, transport: Transport, raw: bytes, read: Any, context: _Context) -> None:
        request, node = wire.parse(raw, transport.types, delta=transport.delta)
        view = await self._source.open(context.peer(), wire.node_info(node), dedicated=transport.dedicated)
        self._table.counters.streams += 1
        try:
            await Stream(transport, view, self._table, self._nonce_prefix()).run(request, read, context.write)
        finally:
            view.close()

    async def _fetch(self, raw: bytes, peer: str) -> bytes:
        request, node = wire.parse(raw, frozenset({SDS}), delta=False)
        view = await self._source.open(peer, wire.node_info(node), dedicated=True)
        try:
            return await _answer_once(view, request.names - {""} or None)
        finally:
            view.close()

    async def _fail(self, context: _Context, error: Exception) -> NoReturn:
        self._table.counters.failed += 1
        if isinstance(error, MeshcaError):
            _log.info("discovery call ended: %s", error)
        elif not context.cancelled():
            _log.error("discovery call failed", exc_info=error)
        await context.abort(*to_status(error))

    def _nonce_prefix(self) -> str:
        # A client may still carry a nonce of its former stream; ours must not look like it.
        return f"{self._entropy(_NONCE_BYTES).hex()}-"


async def _answer_once(view: View, names: frozenset[str] | None) -> bytes:
    found = await view.fetch(SDS, names, {})
    if found.refused:
        raise RefusedNamesError(describe(found.refused))
    return wire.sotw(SDS, Response("", "", tuple(found.resources[name] for name in sorted(found.resources))))
