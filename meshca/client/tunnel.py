"""A way to a server over TCP: a Unix socket of this process alone, whose connections go on as mutual TLS.

Why not grpc's own TLS: it insists on comparing DNS names, and a server of ours has a SPIFFE ID and no name (design §2).

Rules this module keeps:
- The server is what its certificate says: it leads to a root of ours, and its one identity is
  ``/meshca/server/…`` of the trust domain. That is checked before a byte of ours is sent.
- The socket lies in a folder that only this user may enter, and takes connections of this very process only.
- Keys come and go as values, so that a renewed identity is used from the next connection on.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import ssl
import struct
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from meshca.errors import InvalidInputError, MeshcaError, UnauthenticatedError, UnavailableError
from meshca.hardening import memory_file
from meshca.junction import End, join
from meshca.spiffe.id import TrustDomain
from meshca.spiffe.reserved import is_server
from meshca.x509.presented import read_leaf

_UCRED = struct.Struct("iII")
_HANDSHAKE = 5.0
_BACKLOG = 128
_TURNS = 5  # of the loop, until transports that were aborted are closed
_LARGEST_PORT = 65535


@dataclass(frozen=True, slots=True)
class Identity:
    """A certificate chain (PEM, leaf first) and its key."""

    chain_pem: bytes = field(repr=False)
    key_pem: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Meeting:
    """How to meet the server: what to show, and what it has to be."""

    context: ssl.SSLContext
    require: Callable[[bytes], None]  # raises unless this (DER) is the server's certificate


def meeting(trust_domain: TrustDomain, roots_pem: bytes, identity: Identity | None) -> Meeting:
    """Return how to meet a server of this trust domain.

    Raises:
        InvalidInputError: Certificate, key or roots cannot be used.
    """
    context = _context(identity)
    try:
        context.load_verify_locations(cadata=roots_pem.decode("ascii"))
    except (ssl.SSLError, ValueError) as error:
        raise InvalidInputError("no root certificates can be read", field="bundle") from error
    context.verify_mode = ssl.CERT_REQUIRED

    def require(certificate: bytes) -> None:
        found = read_leaf(certificate).spiffe_id
        if found.trust_domain != trust_domain or not is_server(found):
            raise UnauthenticatedError(
                f"not a server of {trust_domain}", field="server certificate", value=str(found), remedy="check --server"
            )

    return Meeting(context, require)


def unverified_meeting() -> Meeting:
    """Return how to meet whoever is there, to be asked for what everybody may know, and told nothing."""
    context = _context(None)
    context.verify_mode = ssl.CERT_NONE
    return Meeting(context, lambda _: None)


def _context(identity: Identity | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False
    context.set_alpn_protocols(["h2"])
    if identity is not None:
        try:
            with memory_file(identity.chain_pem + identity.key_pem) as path:
                context.load_cert_chain(path)
        except ssl.SSLError as error:
            raise InvalidInputError("certificate and key cannot be read, or do not match", field="identity") from error
    return context


def parse_server(text: str) -> tuple[str, int]:
    """Read ``host:port``; an IPv6 host stands in brackets.

    Raises:
        InvalidInputError: It is not that.
    """
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        host = ""
    if not (colon and host and port.isascii() and port.isdigit() and 0 < int(port) <= _LARGEST_PORT):
        raise InvalidInputError(
            "not an address", field="--server", value=text, remedy="write host:port, such as ca.example:8443"
        )
    return host, int(port)


class Tunnel:
    """The socket and its connections. Lives on one event loop."""

    def __init__(self, address: tuple[str, int], meet: Callable[[], Meeting]) -> None:
        self._address = address
        self._meet = meet
        self._folder = Path(tempfile.mkdtemp(prefix="meshca-"))
        self.path = self._folder / "s"
        self._server: asyncio.AbstractServer | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._ends: set[End] = set()
        self.trouble: MeshcaError | None = None
        """Why the last connection did not come about."""

    async def start(self) -> None:
        """Take connections."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(lambda: _Near(self._go), self.path, backlog=_BACKLOG)

    def reset(self) -> None:
        """End every connection, so that the next one is met anew."""
        for end in tuple(self._ends):
            end.close()

    async def close(self) -> None:
        """Take no more connections, and end those there are."""
        if self._server is not None:
            self._server.close()
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.reset()
        shutil.rmtree(self._folder, ignore_errors=True)
        for _ in range(_TURNS):
            await asyncio.sleep(0)

    def _go(self, near: End) -> None:
        self._ends.add(near)  # from here on: a task that is cancelled before it begins closes nothing
        task = asyncio.get_running_loop().create_task(self._connect(near))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, near: End) -> None:
        far = End()
        try:
            _require_own(near)
            await self._dial(far)
        except (MeshcaError, OSError) as error:
            self.trouble = error if isinstance(error, MeshcaError) else self._unreachable(error)
            far.close()
            near.close()
            self._ends.discard(near)
            return
        except BaseException:
            far.close()
            near.close()
            raise
        self.trouble = None
        join(near, far, lambda: self._ends.discard(near))

    async def _dial(self, far: End) -> None:
        met = self._meet()
        host, port = self._address
        async with asyncio.timeout(_HANDSHAKE):
            transport, _ = await asyncio.get_running_loop().create_connection(
                lambda: far, host, port, ssl=met.context, ssl_handshake_timeout=_HANDSHAKE
            )
        shown = transport.get_extra_info("ssl_object").getpeercert(binary_form=True)
        met.require(shown or b"")

    def _unreachable(self, error: OSError) -> MeshcaError:
        host, port = self._address
        if isinstance(error, ssl.SSLCertVerificationError):
            return UnauthenticatedError(
                f"the certificate of {host}:{port} is not trusted: {error.verify_message}",
                remedy="is --server the right one, and the bundle of its trust domain?",
            )
        reason = error.strerror or str(error) or "no answer in time"
        return UnavailableError(f"no server answers at {host}:{port}: {reason}", remedy="check --server")


class _Near(End):
    """Our own process's side."""

    def __init__(self, go: Callable[[End], None]) -> None:
        super().__init__()
        self._go = go

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to connect onward."""
        super().connection_made(transport)
        self._go(self)


def _require_own(near: End) -> None:
    if near.transport is None:
        raise UnavailableError("the connection ended")
    connection = near.transport.get_extra_info("socket")
    pid, _, _ = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    if pid != os.getpid():
        raise UnauthenticatedError("another process has opened this process's way to the server")
