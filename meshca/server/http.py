"""HTTP for machines: health, metrics, CRLs in DER, the bundle, and the keys of JWT-SVIDs for OpenID Connect.

Rules: read-only, without secrets and without login, so that it may face the network; nothing here is needed by Envoys;
whoever connects can take no more than this service's own share of descriptors, and not by saying nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol

from meshca.delivery.snapshot import Snapshot
from meshca.errors import ConflictError, NotFoundError
from meshca.server.config import Address
from meshca.server.parts import Parts
from meshca.server.services.trust import REFRESH_HINT, bundle_in, crl_of
from meshca.spiffe import jwks

_BACKLOG = 128
_MOST_CONNECTIONS = 128
_PATIENCE = 10.0
_CACHED = {"Cache-Control": f"max-age={REFRESH_HINT}"}


def application(parts: Parts) -> Starlette:
    """Return the web application of a server."""

    async def healthz(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(_: Request) -> Response:
        problems = [problem.reason for problem in parts.house.authority.problems]
        ready = parts.condition.state == "ready" and not problems
        return JSONResponse({"state": parts.condition.state, "problems": problems}, 200 if ready else 503)

    async def metrics(_: Request) -> Response:
        return Response(parts.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def crl(request: Request) -> Response:
        try:
            der = crl_of(request.path_params["file"], parts.state.snapshot)
        except NotFoundError as error:
            return PlainTextResponse(f"{error}\n", 404)
        return Response(der, media_type="application/pkix-crl", headers=_CACHED)

    async def bundle(_: Request) -> Response:
        return Response(bundle_in("spiffe", parts.state.snapshot), media_type="application/json", headers=_CACHED)

    return Starlette(
        routes=[
            Route("/healthz", healthz),
            Route("/readyz", readyz),
            Route("/metrics", metrics),
            Route("/crl/{file}", crl),
            Route("/bundle", bundle),
            *_openid_connect(parts),
        ]
    )


def _openid_connect(parts: Parts) -> list[Route]:
    async def discovery(_: Request) -> Response:
        if not (issuer := parts.house.config.jwt_issuer):
            return PlainTextResponse("no issuer: set [authority] jwt_issuer in meshca.toml\n", 404)
        return JSONResponse(discovery_document(issuer, parts.state.snapshot), headers=_CACHED)

    async def keys(_: Request) -> Response:
        document = jwks.document(jwks.oidc_members(parts.state.snapshot.jwt.published))
        return Response(document, media_type="application/jwk-set+json", headers=_CACHED)

    return [Route("/.well-known/openid-configuration", discovery), Route("/keys", keys)]


def discovery_document(issuer: str, snapshot: Snapshot) -> dict[str, object]:
    """Return what OpenID Connect Discovery §3 asks for, as far as there is such a thing here: keys, no logins."""
    keys = jwks.oidc_members(snapshot.jwt.published)
    return {
        "issuer": issuer,
        "jwks_uri": f"{issuer}/keys",
        "authorization_endpoint": "",
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": sorted({str(key["alg"]) for key in keys}) or ["ES256"],
    }


def listen(address: Address, field: str = "http") -> socket.socket:
    """Return a bound, listening socket; ``field`` is how an error calls the setting.

    Raises:
        ConflictError: The address is taken or is not ours.
    """
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
    except OSError as error:
        raise _unusable(address, error, field) from error
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(where)
        bound.listen(_BACKLOG)
    except OSError as error:
        bound.close()
        raise _unusable(address, error, field) from error
    bound.setblocking(False)
    return bound


class HttpServer:
    """Serves the application on a socket until it is stopped."""

    def __init__(self, parts: Parts, bound: socket.socket) -> None:
        config = uvicorn.Config(
            application(parts),
            http=_Connection,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            backlog=_BACKLOG,  # as many are accepted in one turn, before any can be closed
            limit_concurrency=_MOST_CONNECTIONS,
            timeout_graceful_shutdown=2,
        )
        self._server = _Server(config)
        self._socket = bound
        self._task: asyncio.Task[None] | None = None

    @property
    def address(self) -> Address:
        """Return where it really listens."""
        host, port = self._socket.getsockname()[:2]
        return Address(host, port)

    def start(self) -> None:
        """Serve in a task."""
        self._task = asyncio.create_task(self._server.serve(sockets=[self._socket]))

    async def stop(self) -> None:
        """Finish what is being answered, then stop."""
        self._server.should_exit = True
        if self._task is not None:
            await self._task
        self._socket.close()


class _Connection(H11Protocol):
    """Uvicorn's, but one too many is closed at once, and one without a whole first request after a while.

    ``limit_concurrency`` counts requests: connections that never make one would hold descriptors without bound.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > _MOST_CONNECTIONS:
            transport.abort()
        else:
            self.loop.call_later(_PATIENCE, self._require_request)

    def _require_request(self) -> None:
        if self.cycle is None and not self.transport.is_closing():
            self.transport.abort()


class _Server(uvicorn.Server):
    """Uvicorn without signal handlers: the server that it is part of has its own."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _unusable(address: Address, error: OSError, field: str) -> ConflictError:
    return ConflictError(
        f"cannot listen on {address}: {error.strerror}",
        field=field,
        remedy=f"choose another with --{field} or in meshca.toml; port 0 takes any",
    )
