"""The two applications of the demo: one that says who called it, and one that is called for ever.

They speak plain HTTP on loopback, as applications beside a sidecar do; all TLS is Envoy's.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from typing import TYPE_CHECKING

import uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request

_BEAT = 0.05


class App:
    """An HTTP application on a port of its own, in a thread of its own."""

    def __init__(self, name: str, host: str, port: int) -> None:
        self.name = name
        # With its protocol named, since asyncio switches Nagle's algorithm off only then.
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind((host, port))
        routes = [Route("/stream", self._stream), Route("/{path:path}", self._answer)]
        config = uvicorn.Config(
            Starlette(routes=routes), log_level="critical", lifespan="off", timeout_graceful_shutdown=1
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, args=([self._socket],), name=f"app-{name}", daemon=True
        )

    def __enter__(self) -> App:
        self._socket.listen()  # now: a connection that comes before the server does waits for it
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(5)
        self._socket.close()

    async def _answer(self, request: Request) -> JSONResponse:
        return JSONResponse({"service": self.name, "xfcc": request.headers.get("x-forwarded-client-cert", "")})

    async def _stream(self, _: Request) -> StreamingResponse:
        async def beats() -> AsyncIterator[bytes]:
            while True:
                yield b"."
                await asyncio.sleep(_BEAT)

        return StreamingResponse(beats())


def free_port(host: str) -> int:
    """Return a port that is free on ``host`` at this moment."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])
