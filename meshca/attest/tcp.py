"""The gate for callers over TCP: TLS ends here, and each connection has a caller whose key the handshake proved.

It is the Unix gate's counterpart: it accepts, learns who is there, and connects onward from a socket bound to a random
abstract name, which the server behind it sees as ``context.peer()``. grpc's own TLS offers neither a version floor nor
certificates that are asked for but not required, and could not end a single connection (design §7).

Rules this module keeps:
- TLS 1.2 at least, no resumption; a certificate that is sent must lead to a root of ours, or the handshake fails.
- Who sends none is a stranger: connected, known as such, and for whoever serves to refuse.
- The name is in the map before the onward connection exists, and leaves it before that is closed.
- A handshake has a few seconds, a stranger half a minute and a quarter of a MiB, and connections have an upper bound:
  of all, and of those who have proved nothing.
- Who is refused fills no log: at most one line a second.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import ssl
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from meshca.errors import MeshcaError
from meshca.hardening import memory_file
from meshca.junction import End, join
from meshca.spiffe.id import SpiffeId
from meshca.x509.presented import read_leaf

_log = logging.getLogger(__name__)

_PEER_PREFIX = "unix-abstract:"
_NAME_BYTES = 16
_ACCEPTS_A_TURN = 64
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_PAUSE = 0.25
_LINE_PAUSE = 1.0
_HANDSHAKE = 5.0
_SHUTDOWN = 1.0
# More than attesting takes, in time and bytes; who has an identity then comes again with it.
_STRANGERS_STAY, _STRANGERS_SEND = 30.0, 256 * 1024
_KEEPALIVE = ((socket.TCP_KEEPIDLE, 30), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 3))


@dataclass(frozen=True, slots=True)
class Remote:
    """Who has proved to hold the key of this certificate; whether it still counts is the ledger's to say."""

    spiffe_id: SpiffeId
    serial: str
    not_after: datetime
    certificate: bytes = field(repr=False)
    address: str = ""


@dataclass(frozen=True, slots=True)
class Stranger:
    """Who has shown no certificate."""

    address: str


Caller = Remote | Stranger
Context = Callable[[], Awaitable[ssl.SSLContext]]


@dataclass(frozen=True, slots=True)
class Limits:
    """How many connections there may be at a time, in all and of strangers."""

    in_all: int = 4096
    strangers: int = 256


def server_context(chain_pem: bytes, key_pem: bytes, roots_pem: bytes) -> ssl.SSLContext:
    """Return how this server answers a handshake: with this leaf, asking for a certificate under these roots."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0
    context.set_alpn_protocols(["h2"])
    with memory_file(chain_pem + key_pem) as path:
        context.load_cert_chain(path)
    context.load_verify_locations(cadata=roots_pem.decode("ascii"))
    context.verify_mode = ssl.CERT_OPTIONAL
    return context


class TcpGate:
    """Accepts on a TCP socket, forwards to ``inner_path``, and knows the caller behind every connection."""

    def __init__(
        self,
        inner_path: Path,
        context: Context,
        limits: Limits = Limits(),
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> None:
        """Prepare a gate; ``context`` returns how to answer the next handshake, or raises a MeshcaError."""
        self.inner = inner_path
        self._context = context
        self._limits = limits
        self._entropy = entropy
        self._listener: socket.socket | None = None
        self._paused: asyncio.TimerHandle | None = None
        self._callers: dict[str, Caller] = {}
        self._outer: dict[str, End] = {}
        self._greeting: set[asyncio.Task[None]] = set()
        self._silent_until = 0.0
        self.refused = 0

    def __len__(self) -> int:
        return len(self._callers)

    def lookup(self, peer: str) -> Caller | None:
        """Return who is behind ``context.peer()``, or None for somebody who did not come through this gate."""
        return self._callers.get(peer.removeprefix(_PEER_PREFIX)) if peer.startswith(_PEER_PREFIX) else None

    def remotes(self) -> frozenset[Remote]:
        """Return those who are connected and have proved who they are."""
        return frozenset(caller for caller in self._callers.values() if isinstance(caller, Remote))

    def start(self, listener: socket.socket) -> None:
        """Accept from a listening socket, which the gate owns from here on."""
        listener.setblocking(False)
        self._listener = listener
        self._watch()

    def close(self) -> None:
        """Stop listening and end every connection."""
        if self._paused is not None:
            self._paused.cancel()
            self._paused = None
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None
        for task in tuple(self._greeting):
            task.cancel()
        for end in tuple(self._outer.values()):
            end.close()

    def end(self, serials: Collection[str]) -> None:
        """End the connections of whoever came with one of these certificates."""
        for name, caller in tuple(self._callers.items()):
            if isinstance(caller, Remote) and caller.serial in serials:
                self._outer[name].close()

    # ---- accepting

    def _watch(self) -> None:
        self._paused = None
        if self._listener is not None:
            asyncio.get_running_loop().add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        for _ in range(_ACCEPTS_A_TURN):
            if self._listener is None or self._paused is not None:
                return
            try:
                connection, address = self._listener.accept()
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._pause(error)
                return
            self._greet_soon(connection, str(address[0]))

    def _pause(self, error: OSError) -> None:
        # Accepting goes on later; until then connections wait in the kernel. Watching on would spin.
        _log.error("cannot take connections for %s s: %s", _PAUSE, error)
        if self._listener is not None:
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._listener)
            self._paused = loop.call_later(_PAUSE, self._watch)

    def _greet_soon(self, connection: socket.socket, address: str) -> None:
        strangers = len(self._greeting) + sum(isinstance(caller, Stranger) for caller in self._callers.values())
        if strangers >= self._limits.strangers or len(self) >= self._limits.in_all:
            connection.close()
            self._tell(f"{address}: there are as many connections as this server takes")
            return
        task = asyncio.create_task(self._greet(connection, address))
        self._greeting.add(task)
        task.add_done_callback(self._greeting.discard)

    async def _greet(self, connection: socket.socket, address: str) -> None:
        outer = End()
        try:
            await self._handshake(connection, outer)
            await self._let_in(outer, address)
        except (MeshcaError, OSError, asyncio.CancelledError) as error:
            # TimeoutError and ssl.SSLError are OSErrors: a handshake that did not come about.
            outer.close()
            if isinstance(error, asyncio.CancelledError):
                raise
            self._tell(f"{address}: {error}")
        finally:
            if outer.transport is None:
                connection.close()

    async def _handshake(self, connection: socket.socket, outer: End) -> None:
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEPALIVE:
            connection.setsockopt(socket.IPPROTO_TCP, option, value)
        await asyncio.get_running_loop().connect_accepted_socket(
            lambda: outer,
            connection,
            ssl=await self._context(),
            ssl_handshake_timeout=_HANDSHAKE,
            ssl_shutdown_timeout=_SHUTDOWN,
        )

    async def _let_in(self, outer: End, address: str) -> None:
        if outer.transport is None:
            return
        caller = _caller(outer.transport.get_extra_info("ssl_object").getpeercert(binary_form=True), address)
        name = self._entropy(_NAME_BYTES).hex()
        onward = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        inner = End()
        self._callers[name], self._outer[name] = caller, outer
        try:
            onward.setblocking(False)
            onward.bind(b"\0" + name.encode())
            loop = asyncio.get_running_loop()
            await loop.sock_connect(onward, os.fsencode(self.inner))
            await loop.create_unix_connection(lambda: inner, sock=onward)
        except BaseException:
            self._forget(name)
            onward.close()
            raise
        if isinstance(caller, Stranger):
            outer.allowance = _STRANGERS_SEND
        join(outer, inner, lambda: self._forget(name))
        if isinstance(caller, Stranger):
            loop.call_later(_STRANGERS_STAY, outer.close)

    def _forget(self, name: str) -> None:
        self._callers.pop(name, None)
        self._outer.pop(name, None)

    def _tell(self, reason: str) -> None:
        self.refused += 1
        now = asyncio.get_running_loop().time()
        if now >= self._silent_until:
            self._silent_until = now + _LINE_PAUSE
            _log.warning("TCP connection refused, number %s since the start: %s", self.refused, reason)


def _caller(certificate: bytes | None, address: str) -> Caller:
    if not certificate:
        return Stranger(address)
    leaf = read_leaf(certificate)
    return Remote(leaf.spiffe_id, leaf.serial, leaf.not_after, certificate, address)
