"""One mesh with every feature of a spec, on four real Envoys: two servers, a client and a gateway.

What an application does is said by the request's headers (`x-id`, `x-fail`, `x-sleep`), so that tests share everything.
"""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections import Counter
from concurrent import futures
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self

import grpc
from harness.features import HTTP_APPS, PORTS, feature_mesh
from harness.world import FIRST_UID, World, free_port

if TYPE_CHECKING:
    from meshca.cli.demo.envoy import EnvoyProcess

Address = tuple[str, int]
_NODES = ("a", "b", "front", "gw")


@dataclass(frozen=True)
class Answer:
    """What came of a request."""

    status: int
    headers: dict[str, str]
    body: str
    took: float

    @property
    def echo(self) -> dict[str, Any]:
        """What the application saw."""
        found: dict[str, Any] = json.loads(self.body)
        return found

    @property
    def app(self) -> str:
        """Which application answered; nothing where none did."""
        return str(self.echo["app"]) if self.status == 200 else ""


def ask(at: Address, path: str = "/", *, host: str, method: str = "GET", **headers: str) -> Answer:
    """Make one request on a connection of its own."""
    began = time.monotonic()
    connection = http.client.HTTPConnection(*at, timeout=20)  # longer than Envoy's own 15 s
    try:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, headers={"host": host, **named})
        answer = connection.getresponse()
        body = answer.read().decode()
        found = {name.lower(): value for name, value in answer.getheaders()}
        return Answer(answer.status, found, body, time.monotonic() - began)
    except (OSError, http.client.HTTPException):
        return Answer(0, {}, "", time.monotonic() - began)
    finally:
        connection.close()


class HttpApp:
    """Echoes what it saw, fails as often as it is told (`x-fail: 500*2`), and sleeps (`x-sleep`)."""

    def __init__(self, name: str, port: int) -> None:
        self.hits: Counter[str] = Counter()
        app = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                asked = self.headers.get("x-id", "")
                app.hits[asked] += 1
                time.sleep(float(self.headers.get("x-sleep", "0")))
                status, _, times = self.headers.get("x-fail", "200*0").partition("*")
                failing = app.hits[asked] <= int(times)
                headers = {key.lower(): value for key, value in self.headers.items()}
                body = json.dumps({"app": name, "path": self.path, "host": headers["host"], "headers": headers})
                self.send_response(int(status) if failing else 200)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body.encode())

            do_DELETE = do_POST = do_GET  # noqa: N815 - the library's names

            def log_message(self, *_: object) -> None:
                pass

        ThreadingHTTPServer.daemon_threads = True
        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()


class GrpcApp:
    """`test.Echo`: says who it is; unavailable as often as metadata `x-fail` says."""

    def __init__(self, name: str, port: int) -> None:
        self.hits: Counter[str] = Counter()

        def unary(request: bytes, context: grpc.ServicerContext) -> bytes:
            told = {key: str(value) for key, value in context.invocation_metadata()}
            asked = told.get("x-id", "")
            self.hits[asked] += 1
            if self.hits[asked] <= int(told.get("x-fail", "0")):
                context.abort(grpc.StatusCode.UNAVAILABLE, "as told")
            return name.encode()

        methods: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
            method: grpc.unary_unary_rpc_method_handler(unary) for method in ("One", "Two")
        }
        self._server = grpc.server(futures.ThreadPoolExecutor(4))
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", methods),))
        self._server.add_insecure_port(f"127.0.0.1:{port}")
        self._server.start()

    def close(self) -> None:
        """Stop answering."""
        self._server.stop(0)


@dataclass
class Stage:
    """The mesh, what runs on it, and where to find it."""

    world: World
    ports: dict[str, int] = field(default_factory=dict)
    hosts: dict[str, str] = field(default_factory=dict)
    envoys: dict[str, EnvoyProcess] = field(default_factory=dict)
    apps: dict[str, HttpApp] = field(default_factory=dict)
    grpc_apps: dict[str, GrpcApp] = field(default_factory=dict)

    @classmethod
    def start(cls, world: World) -> Self:
        """Apply the mesh and start everything."""
        stage = cls(world)
        stage.hosts = {name: world.host() for name in _NODES}
        while len(set(stage.ports.values())) < len(PORTS):
            stage.ports = {name: free_port("0.0.0.0") for name in PORTS}
        world.apply(*stage.objects())
        for index, name in enumerate(_NODES):
            world.register(name, FIRST_UID + index)
        for name in HTTP_APPS:
            stage.apps[name] = HttpApp(name, stage.ports[name])
        for name in ("rpc-a", "rpc-b"):
            stage.grpc_apps[name] = GrpcApp(name, stage.ports[name])
        for index, name in enumerate(_NODES):
            host = stage.hosts[name]
            stage.envoys[name] = world.envoy(name, uid=FIRST_UID + index, ingress=host, egress=host, live=False)
        for envoy in stage.envoys.values():
            envoy.wait_live(30)
        return stage

    def close(self) -> None:
        """Stop the applications; the world stops the Envoys."""
        for app in self.apps.values():
            app.close()
        for rpc in self.grpc_apps.values():
            rpc.close()

    # --- asking

    def call(self, service: str, path: str = "/", port: str = "color", **more: str) -> Answer:
        """Make one request as the client's application does."""
        return ask((self.hosts["front"], self.ports[port]), path, host=service, **more)

    def enter(self, path: str, host: str = "outside.test", **more: str) -> Answer:
        """Make one request from outside, at the gateway."""
        return ask((self.hosts["gw"], self.ports["gw"]), path, host=host, **more)

    def rpc(self, method: str, *metadata: tuple[str, str]) -> str:
        """Make one gRPC call as the client's application does, and return its answer or its status."""
        target, options = f"{self.hosts['front']}:{self.ports['calls']}", [("grpc.default_authority", "rpc.local")]
        with grpc.insecure_channel(target, options) as channel:
            call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(f"/{method}")
            try:
                return call(b"", metadata=metadata, timeout=5).decode()
            except grpc.RpcError as error:
                return str(error.code().name)

    def objects(self, *, open_mode: str = "PERMISSIVE") -> list[dict[str, Any]]:
        """Return the mesh; ``open`` is the listener whose TLS mode the tests change."""
        return feature_mesh(self.ports, self.hosts, open_mode)
