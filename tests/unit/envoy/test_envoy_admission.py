"""The generated listener in a real Envoy: who gets in, under which SNI. Secrets come from files here."""

from __future__ import annotations

import json
import socket
import socketserver
import ssl
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from envoy_binary import free_port, running
from envoy_meshes import client, mutual, node_id, node_key, server, service, snapshot
from envoy_pki import Pki

from meshca.envoy import names, secrets
from meshca.envoy.documents import Bootstrap, decode, static
from meshca.envoy.generator import generate
from meshca.envoy.placement import Placement
from meshca.envoy.resources import SECRET
from meshca.envoy.snapshot import Snapshot

SERVED = "200"
FORBIDDEN = "403"
REFUSED = "refused"

FRONT, OTHER, SUSPENDED, INTRUDER = "front", "other", "suspended", "intruder"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("envoy")


@pytest.fixture(scope="module")
def pki() -> Pki:
    return Pki(datetime.now(UTC).replace(microsecond=0))


class _Application(socketserver.BaseRequestHandler):
    """Answer whatever arrives, once."""

    def handle(self) -> None:
        if self.request.recv(4096):
            self.request.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")


@pytest.fixture(scope="module")
def application() -> Iterator[int]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Application) as running_server:
        thread = threading.Thread(target=running_server.serve_forever)
        thread.start()
        yield running_server.server_address[1]
        running_server.shutdown()
        thread.join()


def _mesh(protocol: str, port: int) -> Snapshot:
    callers = [client(name, "color") for name in (FRONT, OTHER, SUSPENDED)]
    return snapshot(
        server("blue", protocol, port, mutual()), service("color", node="blue"), *callers, suspended=(SUSPENDED,)
    )


def _write_secrets(pki: Pki, folder: Path, port: int) -> dict[str, Path]:
    """Write each secret of the server as a file. The suspended client's contexts still admit it: RBAC stands alone."""
    now, crls = datetime.now(UTC), pki.crls
    contexts = {names.client_name(node_id(name)): [name] for name in (FRONT, OTHER, SUSPENDED)}
    contexts[names.clients_name(port)] = [FRONT, OTHER, SUSPENDED]
    made = {
        name: secrets.validation_context(
            name, secrets.Anchors(pki.bundle, crls), [str(node_id(one)) for one in admitted], now=now
        )
        for name, admitted in contexts.items()
    }
    made["default"] = secrets.tls_certificate("default", *pki.svid(str(node_id("blue"))), now=now)
    paths = {}
    for index, (name, body) in enumerate(made.items()):
        paths[name] = folder / f"secret{index}.json"
        document = decode(SECRET, body, reveal=True)
        paths[name].write_text(json.dumps({"resources": [{"@type": SECRET, **document}]}))
    return paths


def _from_files(part: Any, paths: dict[str, Path]) -> None:
    if isinstance(part, dict):
        if "sds_config" in part:
            part["sds_config"] = {"path_config_source": {"path": str(paths[part["name"]])}}
        part = list(part.values())
    if isinstance(part, list):
        for inner in part:
            _from_files(inner, paths)


def _credentials(pki: Pki, folder: Path) -> None:
    for name in (FRONT, OTHER, SUSPENDED, INTRUDER):
        chain, key = pki.svid(str(node_id(name)))
        (folder / f"{name}.pem").write_bytes(chain + key)
    (folder / "bundle.pem").write_bytes(pki.bundle)


@pytest.fixture(scope="module", params=["http", "tcp"])
def port(request: pytest.FixtureRequest, pki: Pki, folder: Path, application: int) -> Iterator[tuple[str, int]]:
    free = free_port()
    state = _mesh(request.param, application)
    generated = generate(node_key("blue"), state, Placement.parse(ingress=f"127.0.0.1:{free}"))
    document = static(generated, Bootstrap("mesh/demo/virtualNode/blue", "/none"))
    _from_files(document["static_resources"]["listeners"], _write_secrets(pki, folder, application))
    _credentials(pki, folder)
    with running(document, folder):
        yield request.param, free


def _call(folder: Path, port: int, who: str | None, sni: str | None) -> str:
    """Call as somebody under some SNI; return the status, or that the connection was refused."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(folder / "bundle.pem")
    if who is not None:
        context.load_cert_chain(folder / f"{who}.pem")
    try:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
            context.wrap_socket(plain, server_hostname=sni) as secure,
        ):
            secure.sendall(b"GET / HTTP/1.1\r\nHost: color\r\nConnection: close\r\n\r\n")
            answer = secure.recv(4096).split(b" ")
    except (ssl.SSLError, ConnectionError):
        return REFUSED
    return answer[1].decode() if len(answer) > 1 else REFUSED


def _sni(name: str) -> str:
    return names.sni_for(node_id(name))


@pytest.mark.parametrize(
    ("who", "sni", "answer"),
    [
        pytest.param(FRONT, _sni(FRONT), SERVED, id="own-sni"),
        pytest.param(FRONT, None, SERVED, id="no-sni"),
        pytest.param(FRONT, "color.apps.local", SERVED, id="any-other-host-name"),
        pytest.param(FRONT, _sni(OTHER), REFUSED, id="another-clients-sni"),
        pytest.param(FRONT, _sni(SUSPENDED), REFUSED, id="a-suspended-clients-sni"),
        pytest.param(INTRUDER, _sni(FRONT), REFUSED, id="intruder-under-an-admitted-sni"),
        pytest.param(INTRUDER, None, REFUSED, id="intruder-without-sni"),
        pytest.param(None, _sni(FRONT), REFUSED, id="no-certificate"),
        pytest.param(SUSPENDED, _sni(SUSPENDED), FORBIDDEN, id="suspended-under-its-own-sni"),
        pytest.param(SUSPENDED, None, FORBIDDEN, id="suspended-without-sni"),
    ],
)
def test_a_false_sni_gains_nothing(
    port: tuple[str, int], folder: Path, who: str | None, sni: str | None, answer: str
) -> None:
    protocol, number = port
    refused = {FORBIDDEN: REFUSED} if protocol == "tcp" else {}  # TCP knows no 403, its RBAC closes the connection
    assert _call(folder, number, who, sni) == refused.get(answer, answer)
