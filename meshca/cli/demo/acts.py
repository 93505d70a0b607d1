"""What the demo shows, one function each: it returns the figures that it measured, or raises where it did not hold."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import shlex
import socket
import ssl
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography import x509

from meshca.cli.demo.load import Answer, Load, get
from meshca.cli.demo.stage import GHOST_SERVICE, SERVICE, Stage, node_id, spiffe_id
from meshca.errors import MeshcaError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_REFUSED_WITHIN = 0.5
_ENDED_WITHIN = 1.5  # drain time 1 s, and 0.5 s
_OK = http.client.OK


class NotShownError(MeshcaError):
    """The demo saw something else than it promised."""


@dataclass(frozen=True)
class Act:
    """One thing that the demo shows."""

    title: str
    play: Callable[[Stage, float], str]


def served(stage: Stage, _: float) -> str:
    """A request goes through two Envoys over mTLS, and the application learns who called."""
    answer = stage.ask("front")
    _require(answer.status == _OK, f"front → back answered {answer.status} {answer.error}")
    _require(f"URI={spiffe_id('front')}" in answer.xfcc, f"XFCC says {answer.xfcc!r}")
    return f"200 by {answer.service}; XFCC names {spiffe_id('front')}"


def intruder_refused(stage: Stage, _: float) -> str:
    """A client with a valid certificate that policy does not admit is refused by the server."""
    answer = get(stage.intruder, SERVICE)
    _require(answer.status == http.client.SERVICE_UNAVAILABLE, f"the intruder got {answer.status}")
    refused = sum(_counters(stage, "back", "fail_verify_san"))
    _require(refused > 0, "the server counted no refusal")
    return f"503; the server refused {refused} handshakes by SAN"


def wrong_server_refused(stage: Stage, _: float) -> str:
    """A server that shows another identity than policy expects is refused by the client."""
    answer = stage.ask("front", GHOST_SERVICE)
    _require(answer.status == http.client.SERVICE_UNAVAILABLE, f"front got {answer.status} from a wrong server")
    refused = sum(_counters(stage, "front", "fail_verify_san"))
    _require(refused > 0, "the client counted no refusal")
    return f"503; the client refused {refused} handshakes by SAN"


def rotation(stage: Stage, seconds: float) -> str:
    """Keys and leaves are renewed under load, pooled and with a handshake a request, without a failed request."""
    before = _valid(stage, "front") | _valid(stage, "back")
    with _load(stage, "front") as pooled, Load(lambda: _error(get(stage.fresh, SERVICE))) as fresh:
        end = time.monotonic() + seconds
        for name in itertools.cycle(("front", "back")):
            stage.admin.rotate_leaf(node_id(name))
            time.sleep(0.4)
            if time.monotonic() > end:
                break
    made = len((_valid(stage, "front") | _valid(stage, "back")) - before)
    _require(made > 0, "no leaf was renewed")
    for load in (pooled, fresh):
        _require(load.tally.failed == 0 < load.tally.requests, f"{load.tally.failed} failed: {load.tally.errors}")
    return f"{made} leaves renewed; {pooled.tally.requests} + {fresh.tally.requests} requests, 0 failed"


def policy(stage: Stage, _: float) -> str:
    """`apply` narrows who is admitted and widens it again; no Envoy restarts."""
    started = {name: envoy.pid for name, envoy in stage.envoys.items()}
    stage.apply(admitted=(spiffe_id("bystander"),))
    narrowed = stage.wait(lambda: stage.ask("front").status != _OK, "a refusal")
    _require(stage.ask("bystander").status == _OK, "the bystander lost service")
    stage.apply()
    widened = stage.wait(lambda: stage.ask("front").status == _OK, "service")
    _require({name: envoy.pid for name, envoy in stage.envoys.items()} == started, "an Envoy was restarted")
    return f"refused after {_ms(narrowed)}, served again after {_ms(widened)}, no Envoy restarted"


def files(stage: Stage, _: float) -> str:
    """A program that speaks no SDS is given files, and new ones as soon as its certificate is revoked."""
    folder, told = stage.folder / "files", stage.folder / "told"
    folder.mkdir(mode=0o700)
    stage.drop("files", folder, f"touch {shlex.quote(str(told))}")
    stage.wait(told.exists, "the first drop", 20)
    with _file_server(folder / "current") as address:
        first = _served_serial(address)
        told.unlink()
        stage.admin.revoke(first, reason="keyCompromise")
        took = stage.wait(lambda: told.exists() and _served_serial(address) != first, "a renewed file", 20)
    return f"revoked {first[:12]}…; a new certificate served from files after {_ms(took)}"


def revocation(stage: Stage, _: float) -> str:
    """A suspended node is refused, what it had open ends, and a bystander notices nothing."""
    with _load(stage, "bystander") as bystander, _stream(stage, "front") as stream:
        began = time.monotonic()
        stage.admin.revoke(node=node_id("front"), reason="keyCompromise")
        refused = stage.wait(lambda: get(stage.fresh, SERVICE).status != _OK, "a refusal")
        stage.wait(stream.ended.is_set, "the end of the open stream")
        ended = stream.at - began
    _require(refused <= _REFUSED_WITHIN, f"new connections were refused only after {_ms(refused)}")
    _require(ended <= _ENDED_WITHIN, f"the open stream ended only after {_ms(ended)}")
    tally = bystander.tally
    _require(tally.failed == 0 < tally.requests, f"the bystander lost {tally.failed}: {tally.errors}")
    return (
        f"new connections refused after {_ms(refused)}, the open stream ended after {_ms(ended)}; "
        f"bystander: {tally.requests} requests, 0 failed"
    )


ACTS = (
    Act("mTLS request served, and by whom", served),
    Act("intruder refused by the server", intruder_refused),
    Act("wrong server refused by the client", wrong_server_refused),
    Act("leaf rotation under load", rotation),
    Act("policy changed by apply", policy),
    Act("files for a program without SDS", files),
    Act("revocation and suspension", revocation),
)


# --- what the acts use


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise NotShownError(otherwise)


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms"


def _error(answer: Answer) -> str:
    return "" if answer.status == _OK else f"{answer.status} {answer.error}"


def _counters(stage: Stage, envoy: str, ending: str) -> list[int]:
    rows = (line.rsplit(": ", 1) for line in stage.envoys[envoy].admin("stats").splitlines())
    return [int(row[1]) for row in rows if row[0].endswith(ending)]


def _valid(stage: Stage, name: str) -> set[str]:
    return {row.serial for row in stage.admin.certificates(node=node_id(name), state="valid")}


def _load(stage: Stage, client: str) -> Load:
    connection = stage.connect(client)
    return Load(lambda: _error(stage.ask(client, connection=connection)))


class _Stream:
    """A response that never ends by itself."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.ended = threading.Event()
        self.at = 0.0
        self._response = response
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            while self._response.read(1):
                pass
        self.at = time.monotonic()
        self.ended.set()


@contextlib.contextmanager
def _stream(stage: Stage, client: str) -> Iterator[_Stream]:
    connection = stage.connect(client)
    connection.request("GET", "/stream", headers={"Host": SERVICE})
    response = connection.getresponse()
    _require(response.status == _OK, f"the stream was answered {response.status}")
    try:
        yield _Stream(response)
    finally:
        connection.close()


@contextlib.contextmanager
def _file_server(current: Path) -> Iterator[tuple[str, int]]:
    """Serve TLS from dropped files, as a program that reloads them does."""
    listener = socket.create_server(("127.0.0.1", 0))
    stopped = threading.Event()

    def serve() -> None:
        while not stopped.is_set():
            with contextlib.suppress(OSError):
                connection, _ = listener.accept()
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.load_cert_chain(current / "svid.pem", current / "svid_key.pem")
                with context.wrap_socket(connection, server_side=True):
                    pass

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()
    finally:
        stopped.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)


def _served_serial(address: tuple[str, int]) -> str:
    """Return the serial of the certificate that a port serves."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # Only looked at, never trusted: the demo asks which certificate is served.
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection(address, 5) as plain, context.wrap_socket(plain) as tls:
        der = tls.getpeercert(binary_form=True) or b""
    number = x509.load_der_x509_certificate(der).serial_number
    return f"{number:x}" if len(f"{number:x}") % 2 == 0 else f"0{number:x}"
