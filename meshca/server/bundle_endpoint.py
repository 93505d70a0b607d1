"""The bundle endpoint: our SPIFFE bundle over https, for trust domains that federate with us (SPIFFE Federation §5.2).

Rules kept here:
- ``https_spiffe`` shows an SVID of ours, the same identity on every replica; ``https_web`` a certificate from files,
  read again when they change; what cannot be read leaves the one before in force.
- TLS 1.2 at least with forward secrecy and AEAD ciphers (Mozilla's intermediate); nobody is asked for a certificate.
- GET and nothing else; one answer a connection; a handshake has 5 s, all of it 15 s, and connections an upper bound.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path

import h11
import structlog

from meshca.errors import InvalidInputError, MeshcaError
from meshca.hardening import memory_file
from meshca.server.config import Address
from meshca.server.own import OwnSvid

_log = structlog.get_logger(__name__)

_MOST_CONNECTIONS = 256
_HANDSHAKE, _PATIENCE, _SHUTDOWN = 5.0, 15.0, 1.0
_PAUSE = 0.25
_HEADERS = 16 << 10
_CHUNK = 16 << 10
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
_PATHS = frozenset({b"/", b"/bundle"})

Context = Callable[[], Awaitable[ssl.SSLContext]]


def bundle_context(chain_pem: bytes, key_pem: bytes, _: bytes = b"") -> ssl.SSLContext:
    """Return how the endpoint answers a handshake with this certificate.

    Raises:
        InvalidInputError: Certificate and key cannot be read, or do not match.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    context.set_alpn_protocols(["http/1.1"])
    try:
        with memory_file(chain_pem + b"\n" + key_pem) as path:
            context.load_cert_chain(path)
    except ssl.SSLError as error:
        raise InvalidInputError(
            "certificate and key cannot be read, or do not match", field="[federation] certificate"
        ) from error
    return context


class WebCertificate:
    """Certificate and key of web PKI, out of two files."""

    def __init__(self, certificate: Path, key: Path) -> None:
        """Read them.

        Raises:
            InvalidInputError: They cannot be used.
        """
        self._files = (certificate, key)
        self._seen = self._state()
        self._made = self._read()

    async def context(self) -> ssl.SSLContext:
        """Return how to answer the next handshake."""
        if (state := self._state()) != self._seen:
            self._seen = state
            try:
                self._made = self._read()
            except MeshcaError as error:
                _log.error("the bundle endpoint goes on with the certificate that it has", reason=str(error))
        return self._made

    def _state(self) -> tuple[object, ...]:
        with contextlib.suppress(OSError):
            return tuple((found.st_mtime_ns, found.st_ino, found.st_size) for found in (f.stat() for f in self._files))
        return ()

    def _read(self) -> ssl.SSLContext:
        try:
            chain, key = (file.read_bytes() for file in self._files)
        except OSError as error:
            raise InvalidInputError(
                f"cannot be read: {error.strerror}", field="[federation] certificate", value=str(error.filename)
            ) from error
        return bundle_context(chain, key)


class BundleEndpoint:
    """Serves the bundle until it is closed. Lives on one event loop."""

    def __init__(self, context: Context, bundle: Callable[[], bytes], max_age: int, own: OwnSvid | None = None) -> None:
        self._context = context
        self._bundle = bundle
        self._max_age = max_age
        self._own = own
        self._accepting: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener: socket.socket | None = None

    @property
    def address(self) -> Address | None:
        """Return where it really listens."""
        if self._listener is None:
            return None
        host, port = self._listener.getsockname()[:2]
        return Address(host, port)

    def start(self, listener: socket.socket) -> None:
        """Accept from a listening socket, which the endpoint owns from here on."""
        listener.setblocking(False)
        self._listener = listener
        self._accepting = asyncio.create_task(self._accept(listener))

    async def close(self) -> None:
        """Stop, and end every connection."""
        tasks = [*self._tasks, *([self._accepting] if self._accepting else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    async def tick(self) -> None:
        """Renew the SVID in time."""
        if self._own is not None:
            await self._own.tick()

    def revoked(self, serials: Collection[str]) -> None:
        """Show another SVID from now on, if it is among these."""
        if self._own is not None:
            self._own.revoked(serials)

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(listener)
            except OSError as error:
                _log.error("the bundle endpoint cannot take connections for a moment", reason=str(error))
                await asyncio.sleep(_PAUSE)
                continue
            if len(self._tasks) >= _MOST_CONNECTIONS:
                connection.close()
                continue
            task = asyncio.create_task(self._serve(connection))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _serve(self, connection: socket.socket) -> None:
        loop, reader = asyncio.get_running_loop(), asyncio.StreamReader(_CHUNK)
        protocol = asyncio.StreamReaderProtocol(reader)
        transport: asyncio.Transport | None = None
        try:
            async with asyncio.timeout(_PATIENCE):
                transport, _ = await loop.connect_accepted_socket(
                    lambda: protocol,
                    connection,
                    ssl=await self._context(),
                    ssl_handshake_timeout=_HANDSHAKE,
                    ssl_shutdown_timeout=_SHUTDOWN,
                )
                await self._answer(reader, asyncio.StreamWriter(transport, protocol, reader, loop))
        except (MeshcaError, OSError, h11.RemoteProtocolError) as error:
            _log.debug("bundle endpoint", reason=str(error))  # strangers fill no log
        finally:
            if transport is None:
                connection.close()
            else:
                transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        http = h11.Connection(h11.SERVER, max_incomplete_event_size=_HEADERS)
        while (event := http.next_event()) is h11.NEED_DATA:
            http.receive_data(await reader.read(_CHUNK))
        if not isinstance(event, h11.Request):
            return
        status, body = self._found(event)
        headers = [
            ("content-type", "application/json" if status == 200 else "text/plain; charset=utf-8"),
            ("content-length", str(len(body))),
            ("cache-control", f"max-age={self._max_age}" if status == 200 else "no-store"),
            ("connection", "close"),
            *([("allow", "GET")] if status == 405 else []),
        ]
        writer.write(http.send(h11.Response(status_code=status, headers=headers)) or b"")
        writer.write((http.send(h11.Data(data=body)) or b"") + (http.send(h11.EndOfMessage()) or b""))
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    def _found(self, request: h11.Request) -> tuple[int, bytes]:
        if request.method != b"GET":
            return 405, b"GET only\n"
        if request.target.partition(b"?")[0] not in _PATHS:
            return 404, b"the bundle is at /\n"
        return 200, self._bundle()
