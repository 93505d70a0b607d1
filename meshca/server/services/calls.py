"""How a call of the admin API becomes a method, and how an error becomes a status: each in one place.

Rules: a stranger reads the words of our own errors and ``internal error`` of all others; whether a call may come in,
and who calls, is the door's to say (``server/door.py``), never the message's; a stream ends when the door says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from types import SimpleNamespace
from typing import Any, NoReturn

import grpc
import structlog

from meshca.client.status import OURS, code_of
from meshca.errors import MeshcaError
from meshca.server.door import Call, Door

_log = structlog.get_logger(__name__)

_NO_MORE = object()

Unary = Callable[[Any, Any], Awaitable[Any]]
Streaming = Callable[[Any, Any], AsyncIterator[Any]]
Who = Callable[[Call], Any]


def to_status(error: Exception) -> tuple[grpc.StatusCode, str]:
    """Turn an error into what a caller may see: ours in words, the rest as INTERNAL."""
    if isinstance(error, MeshcaError):
        return code_of(error), str(error)
    return grpc.StatusCode.INTERNAL, "internal error"


def _actor(call: Call) -> str:
    return call.actor


def servicer(door: Door, unary: Mapping[str, Unary], streaming: Mapping[str, Streaming], who: Who = _actor) -> Any:
    """Return an object that grpc takes as a servicer; methods are given the request, and ``who`` of the call."""
    calls: dict[str, object] = {name: _unary(name, door, method, who) for name, method in unary.items()}
    calls |= {name: _streaming(name, door, method, who) for name, method in streaming.items()}
    return SimpleNamespace(**calls)


def _unary(name: str, door: Door, method: Unary, who: Who) -> Callable[[Any, Any], Awaitable[Any]]:
    async def call(request: Any, context: Any) -> Any:
        try:
            async with door.admitted(name, context.peer()) as admitted:
                return await method(request, who(admitted))
        except Exception as error:  # the one place where an error becomes a status
            await _abort(name, context, error)

    return call


def _streaming(name: str, door: Door, method: Streaming, who: Who) -> Callable[[Any, Any], AsyncIterator[Any]]:
    async def call(request: Any, context: Any) -> AsyncIterator[Any]:
        try:
            async with door.admitted(name, context.peer()) as admitted:
                async for message in _until_ended(method(request, who(admitted)), admitted.ended):
                    yield message
        except Exception as error:  # the one place where an error becomes a status
            await _abort(name, context, error)

    return call


async def _until_ended(messages: Any, ended: asyncio.Future[None]) -> AsyncIterator[Any]:
    """Yield messages until there are no more, or ``ended`` raises."""
    async with aclosing(messages):
        while True:
            step: asyncio.Future[Any] = asyncio.ensure_future(anext(messages, _NO_MORE))
            try:
                await asyncio.wait({step, ended}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                if not step.done():
                    step.cancel()
                    await asyncio.gather(step, return_exceptions=True)
            if ended.done():
                ended.result()
            if (message := step.result()) is _NO_MORE:
                return
            yield message


async def _abort(name: str, context: Any, error: Exception) -> NoReturn:
    code, text = to_status(error)
    if code is grpc.StatusCode.INTERNAL:
        _log.error("call failed", call=name, exc_info=error)
    await context.abort(code, text, trailing_metadata=((OURS, "1"),))
    raise AssertionError("abort raises")
