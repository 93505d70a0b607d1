"""Fetches the bundle of another trust domain over https.

Rules kept here (SPIFFE Federation §5.2):
- TLS 1.2 at least. ``https_web``: the web's CAs and the host name. ``https_spiffe``: the chain leads to a root of the
  bundle that we hold, and the leaf is that of the SPIFFE ID that was configured; nothing is asked before that is known.
- All of it in 15 s, 1 MiB and 16 KiB of headers at most, whatever the other side does.
- Temporary redirects only, on the same host and port, and three of them at most.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit

import h11

from meshca.errors import InvalidInputError, RefusedError, UnauthenticatedError, UnavailableError
from meshca.spiffe.foreign import MAX_BUNDLE_BYTES
from meshca.spiffe.id import SpiffeId
from meshca.x509.presented import read_leaf

_PATIENCE = 15.0
_HEADERS = 16 << 10
_CHUNK = 64 << 10
_REDIRECTS = 3
_TEMPORARY = frozenset({302, 303, 307})
_HTTPS = 443


@dataclass(frozen=True, slots=True)
class Meeting:
    """How to meet the server: the TLS context, and what its certificate (DER) has to be."""

    context: ssl.SSLContext
    require: Callable[[bytes], None]


def web_meeting() -> Meeting:
    """Return how to meet a server of the web (``https_web``)."""
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return Meeting(context, lambda _: None)


def spiffe_meeting(endpoint_id: SpiffeId, roots_pem: bytes) -> Meeting:
    """Return how to meet a server that is known by its SPIFFE ID (``https_spiffe``).

    Raises:
        InvalidInputError: The roots cannot be read.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False
    # A bundle may hold CAs that others have signed: each of them is an anchor (X509-SVID §5.1).
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        context.load_verify_locations(cadata=roots_pem.decode("ascii"))
    except (ssl.SSLError, ValueError) as error:
        raise InvalidInputError("no root certificates can be read", field="bundle") from error

    def require(certificate: bytes) -> None:
        found = read_leaf(certificate).spiffe_id
        if found != endpoint_id:
            raise UnauthenticatedError(
                "the server at the bundle endpoint is another",
                field="SPIFFE ID",
                value=str(found),
                remedy=f"expected {endpoint_id}: check --endpoint-id",
            )

    return Meeting(context, require)


async def fetch(url: str, meeting: Meeting, patience: float = _PATIENCE) -> bytes:
    """Return what stands at a URL.

    Raises:
        MeshcaError: Nothing that may be believed.
    """
    try:
        async with asyncio.timeout(patience):
            return await _follow(url, meeting)
    except TimeoutError:
        raise UnavailableError(f"no whole answer within {patience:g} s", field="url", value=url) from None
    except ssl.SSLCertVerificationError as error:
        raise UnauthenticatedError(
            f"the server's certificate is not trusted: {error.verify_message}",
            field="url",
            value=url,
            remedy="is the bundle that we hold the right one? bring a newer one with --bundle FILE",
        ) from error
    except (OSError, UnicodeError) as error:
        raise UnavailableError(f"no answer: {error}", field="url", value=url) from error
    except h11.RemoteProtocolError as error:
        raise RefusedError(f"no answer of HTTP/1.1: {error}", field="url", value=url) from error


async def _follow(url: str, meeting: Meeting) -> bytes:
    at = url
    for _ in range(_REDIRECTS + 1):
        status, location, body = await _get(at, meeting)
        if status == 200:
            return body
        if status not in _TEMPORARY or not location:
            raise UnavailableError(f"answered with status {status}", field="url", value=at)
        at = _redirected(at, location)
    raise RefusedError(f"more than {_REDIRECTS} redirects", field="url", value=url)


def _redirected(url: str, location: str) -> str:
    """Return where a redirect leads; only to the same server (SPIFFE Federation §5.2 asks for as much trust in it)."""
    try:
        target = urljoin(url, location)
        same = _authority(target) == _authority(url)
    except ValueError:
        same = False
    if not same:
        raise RefusedError("redirects to another server", field="url", value=url)
    return target


def _authority(url: str) -> tuple[str, str, int]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or _HTTPS


async def _get(url: str, meeting: Meeting) -> tuple[int, str, bytes]:
    parts = urlsplit(url)
    host = parts.hostname or ""
    reader, writer = await asyncio.open_connection(
        host, parts.port or _HTTPS, ssl=meeting.context, server_hostname=host, limit=_CHUNK
    )
    try:
        shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        meeting.require(shown or b"")
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=_HEADERS)
        headers = [("host", parts.netloc), ("accept", "application/json"), ("connection", "close")]
        asked = connection.send(h11.Request(method="GET", target=target, headers=headers))
        writer.write((asked or b"") + (connection.send(h11.EndOfMessage()) or b""))
        await writer.drain()
        return await _answer(connection, reader)
    finally:
        writer.transport.abort()


async def _answer(connection: h11.Connection, reader: asyncio.StreamReader) -> tuple[int, str, bytes]:
    status, location, body = 0, "", bytearray()
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(_CHUNK))
        elif isinstance(event, h11.Response):
            status = event.status_code
            location = next((value.decode("latin-1") for name, value in event.headers if name == b"location"), "")
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > MAX_BUNDLE_BYTES:
                raise RefusedError(f"an answer of more than {MAX_BUNDLE_BYTES} bytes", field="bundle")
        elif isinstance(event, h11.EndOfMessage):
            return status, location, bytes(body)
        elif isinstance(event, h11.ConnectionClosed):
            raise UnavailableError("the connection ended before the answer did")
