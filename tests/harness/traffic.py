"""Every kind of traffic that a revocation must end, and the applications that answer it.

A probe runs until its connection ends or until it is stopped; it knows what it sent, what failed and when it ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import grpc

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Awaitable, Callable

    Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

_BEAT = 0.02
_ANSWER = 3.0
_LIMIT = 90.0

_SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\r\n"

Address = tuple[str, int]


# --- applications --------------------------------------------------------------------------------------------------


@dataclass
class Apps:
    """HTTP with WebSocket, gRPC and TCP echo, each on a loopback port of its own."""

    name: str
    _closers: list[contextlib.AsyncExitStack] = field(default_factory=list)
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)

    async def http(self, address: Address) -> None:
        """Answer HTTP/1.1 with who was called and by whom; echo after an upgrade."""
        await self._listen(address, self._http)

    async def tcp(self, address: Address) -> None:
        """Echo bytes."""
        await self._listen(address, _echo)

    async def grpc(self, address: Address) -> None:
        """Echo unary calls and streams of the service `test.Echo`."""
        server = grpc.aio.server()
        handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
            "Unary": grpc.unary_unary_rpc_method_handler(_unary),
            "Stream": grpc.stream_stream_rpc_method_handler(_stream),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", handlers),))
        server.add_insecure_port(f"{address[0]}:{address[1]}")
        await server.start()
        stack = contextlib.AsyncExitStack()
        stack.push_async_callback(server.stop, 0)
        self._closers.append(stack)

    async def close(self) -> None:
        """Stop all of them."""
        for stack in self._closers:
            await stack.aclose()
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.sleep(0)  # the transports close their sockets in the next turn of the loop

    async def _listen(self, address: Address, handler: Handler) -> None:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self._writers.add(writer)
            await handler(reader, writer)

        server = await asyncio.start_server(handle, *address)
        stack = contextlib.AsyncExitStack()
        stack.callback(server.close)
        self._closers.append(stack)

    async def _http(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            while head := (await reader.readuntil(b"\r\n\r\n")).decode():
                pairs = (line.split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
                headers = {name.lower(): value for name, value in pairs}
                if headers.get("upgrade") == "websocket":
                    writer.write(
                        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\r\n"
                    )
                    await _echo(reader, writer)
                    return
                await reader.readexactly(int(headers.get("content-length", 0)))
                xfcc = headers.get("x-forwarded-client-cert", "")
                body = json.dumps({"service": self.name, "xfcc": xfcc}).encode()
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))
                await writer.drain()
        writer.close()


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(4096):
            writer.write(data)
            await writer.drain()
    writer.close()


async def _unary(request: bytes, _: object) -> bytes:
    return request


async def _stream(requests: AsyncIterator[bytes], _: object) -> AsyncIterator[bytes]:
    async for request in requests:
        yield request


# --- probes --------------------------------------------------------------------------------------------------------


@dataclass
class Probe:
    """One connection, or one pooled channel, that is used until it ends."""

    address: Address
    host: str
    tls: ssl.SSLContext | None = None
    sni: str | None = None
    sent: int = 0
    failed: int = 0
    ended: float | None = None
    why: str = ""
    working: asyncio.Event = field(default_factory=asyncio.Event)
    _task: asyncio.Task[None] | None = None

    async def start(self) -> Probe:
        """Begin, and return once the first exchange has worked."""
        self._task = asyncio.create_task(self._guarded())
        waiter = asyncio.create_task(self.working.wait())
        await asyncio.wait({waiter, self._task}, timeout=10, return_when=asyncio.FIRST_COMPLETED)
        waiter.cancel()
        assert self.working.is_set(), f"{type(self).__name__} to {self.address}: {self.why or 'no answer in 10 s'}"
        return self

    async def end(self, seconds: float) -> float | None:
        """Wait until it has ended; None where it has not within ``seconds``."""
        assert self._task is not None
        await asyncio.wait({self._task}, timeout=seconds)
        return self.ended

    async def stop(self) -> None:
        """Stop using it."""
        assert self._task is not None
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def _guarded(self) -> None:
        try:
            async with asyncio.timeout(_LIMIT):
                await self._run()
        except (
            OSError,
            asyncio.IncompleteReadError,
            asyncio.InvalidStateError,  # what grpc.aio says when it writes to a stream that has ended
            grpc.aio.AioRpcError,
        ) as error:
            self.why = f"{type(error).__name__}: {error}"
        self.ended = time.monotonic()

    async def _run(self) -> None:
        raise NotImplementedError

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(*self.address, ssl=self.tls, server_hostname=self.sni)

    def _worked(self) -> None:
        self.sent += 1
        self.working.set()


async def exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str) -> tuple[int, bytes]:
    """Send one GET on an open connection and return status and body."""
    writer.write(f"GET / HTTP/1.1\r\nhost: {host}\r\n\r\n".encode())
    async with asyncio.timeout(_ANSWER):
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.split("content-length: ")[1].split("\r\n")[0]) if "content-length: " in head else 0
        return int(head.split()[1]), await reader.readexactly(length)


class H1Active(Probe):
    """HTTP/1.1 requests on a kept connection; ends with the first that is refused."""

    async def _run(self) -> None:
        reader, writer = await self._open()
        with contextlib.closing(writer):
            while True:
                status, body = await exchange(reader, writer, self.host)
                if status != 200:
                    self.failed += 1
                    self.why = f"{status} {body[:80]!r}"
                    return
                self._worked()
                await asyncio.sleep(_BEAT)


class H1Idle(Probe):
    """One HTTP/1.1 request, then silence; ends when the other side closes."""

    async def _run(self) -> None:
        reader, writer = await self._open()
        with contextlib.closing(writer):
            status, body = await exchange(reader, writer, self.host)
            if status != 200:
                self.why = f"{status} {body[:80]!r}"
                return
            self._worked()
            await reader.read(1)


class Tcp(Probe):
    """Bytes that come back."""

    async def _run(self) -> None:
        reader, writer = await self._open()
        with contextlib.closing(writer):
            await self._greet(reader, writer)
            while True:
                writer.write(b"ping")
                async with asyncio.timeout(_ANSWER):
                    await reader.readexactly(4)
                self._worked()
                await asyncio.sleep(_BEAT)

    async def _greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        pass


class WebSocket(Tcp):
    """Bytes that come back over an upgraded HTTP/1.1 connection."""

    async def _greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(
            f"GET /ws HTTP/1.1\r\nhost: {self.host}\r\nconnection: Upgrade\r\nupgrade: websocket\r\n"
            "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n".encode()
        )
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        if " 101 " not in head.split("\r\n")[0]:
            raise ConnectionRefusedError(head.split("\r\n")[0])


class GrpcUnary(Probe):
    """Unary calls on one channel; ends with the first that fails."""

    async def _run(self) -> None:
        async with _channel(self.address, self.host) as channel:
            call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/test.Echo/Unary")
            while True:
                await call(b"ping", timeout=_ANSWER)
                self._worked()
                await asyncio.sleep(_BEAT)


class GrpcStream(Probe):
    """One bidirectional stream; ends with it."""

    async def _run(self) -> None:
        async with _channel(self.address, self.host) as channel:
            method: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream("/test.Echo/Stream")
            call = method()
            while True:
                await call.write(b"ping")
                async with asyncio.timeout(_ANSWER):
                    if await call.read() is grpc.aio.EOF:
                        self.why = str(await call.code())
                        return
                self._worked()
                await asyncio.sleep(_BEAT)


def _channel(address: Address, host: str) -> grpc.aio.Channel:
    options = [("grpc.default_authority", host), ("grpc.enable_retries", 0)]
    return grpc.aio.insecure_channel(f"{address[0]}:{address[1]}", options)
