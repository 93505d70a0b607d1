"""How a call of the admin API becomes a method, and how an error becomes a status: each in one place.

Rules: a stranger reads the words of our own errors and ``internal error`` of all others; who calls is known from the
kernel, never from the message.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from types import SimpleNamespace
from typing import Any, NoReturn

import grpc
import structlog

from meshca.client.status import OURS, code_of
from meshca.delivery.ports import Attestor
from meshca.errors import MeshcaError, UnauthenticatedError

_log = structlog.get_logger(__name__)

Unary = Callable[[Any, str], Awaitable[Any]]
Streaming = Callable[[Any, str], AsyncIterator[Any]]


def to_status(error: Exception) -> tuple[grpc.StatusCode, str]:
    """Turn an error into what a caller may see: ours in words, the rest as INTERNAL."""
    if isinstance(error, MeshcaError):
        return code_of(error), str(error)
    return grpc.StatusCode.INTERNAL, "internal error"


def servicer(attestor: Attestor, unary: Mapping[str, Unary], streaming: Mapping[str, Streaming]) -> Any:
    """Return an object that grpc takes as a servicer."""
    calls: dict[str, object] = {name: _unary(name, attestor, method) for name, method in unary.items()}
    calls |= {name: _streaming(name, attestor, method) for name, method in streaming.items()}
    return SimpleNamespace(**calls)


def _unary(name: str, attestor: Attestor, method: Unary) -> Callable[[Any, Any], Awaitable[Any]]:
    async def call(request: Any, context: Any) -> Any:
        try:
            return await method(request, _actor(attestor, context))
        except Exception as error:  # the one place where an error becomes a status
            await _abort(name, context, error)

    return call


def _streaming(name: str, attestor: Attestor, method: Streaming) -> Callable[[Any, Any], AsyncIterator[Any]]:
    async def call(request: Any, context: Any) -> AsyncIterator[Any]:
        try:
            async for message in method(request, _actor(attestor, context)):
                yield message
        except Exception as error:  # the one place where an error becomes a status
            await _abort(name, context, error)

    return call


def _actor(attestor: Attestor, context: Any) -> str:
    process = attestor.lookup(context.peer())
    if process is None:
        raise UnauthenticatedError("nobody vouches for this connection")
    return f"uid:{process.uid}"


async def _abort(name: str, context: Any, error: Exception) -> NoReturn:
    code, text = to_status(error)
    if code is grpc.StatusCode.INTERNAL:
        _log.error("call failed", call=name, exc_info=error)
    await context.abort(code, text, trailing_metadata=((OURS, "1"),))
    raise AssertionError("abort raises")
