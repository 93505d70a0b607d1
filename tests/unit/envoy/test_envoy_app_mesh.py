"""The tables of docs/app-mesh.md: who decides TLS, and whom a listener lets in; each row is a test."""

from __future__ import annotations

import contextlib
import json
import socket
import socketserver
import ssl
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from envoy.extensions.transport_sockets.tls.v3 import tls_pb2
from envoy_binary import free_port, running
from envoy_meshes import client, entry, made, messages, mutual, node_id, node_key, service, snapshot, unpacked
from envoy_pki import Pki

from meshca.envoy import names, secrets
from meshca.envoy.documents import Bootstrap, decode, static
from meshca.envoy.generator import generate
from meshca.envoy.placement import Placement
from meshca.envoy.resources import SECRET

DOCUMENT = Path(__file__).parents[3] / "docs/app-mesh.md"


def _table(heading: str) -> list[list[str]]:
    """Return the rows of the table under a heading."""
    section = DOCUMENT.read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


# -- who decides TLS (the client's side)

ENFORCED, UNENFORCED, ABSENT = "matches the port, `enforce: true`", "matches the port, `enforce: false`", (
    "none, or `ports` without this port"
)  # fmt: skip
SOURCES = {
    "acm": {"acm": {"certificateArn": "arn:aws:acm:eu-west-1:123456789012:certificate/1"}},
    "file": {"file": {"certificateChain": "/c.pem", "privateKey": "/k.pem"}},
    "sds": {"sds": {"secretName": "default"}},
}
VALIDATED, PLAINTEXT = "TLS, validated", "plaintext"


class Choice(NamedTuple):
    policy: str
    server: str
    app_mesh: str
    ours: str
    policies: tuple[dict[str, Any] | None, ...]
    sources: tuple[str, ...]
    modes: tuple[str | None, ...]


def _policy(**tls: Any) -> dict[str, Any]:
    return {"clientPolicy": {"tls": {"validation": {"trust": {"sds": {"secretName": "ROOTCA"}}}, **tls}}}


_ENFORCED, _UNENFORCED = (_policy(), _policy(ports=[9080])), (_policy(enforce=False),)
_ABSENT = (None, _policy(ports=[1]))
_TLS, _NONE = ("STRICT", "PERMISSIVE"), ("DISABLED", None)
_ALL = tuple(SOURCES)
_NO_TLS = "none, DISABLED"
CHOICES = [
    Choice(ENFORCED, "STRICT, PERMISSIVE", "TLS, validated by the policy", VALIDATED, _ENFORCED, _ALL, _TLS),
    Choice(ENFORCED, _NO_TLS, "TLS is attempted and fails", "TLS is attempted and fails", _ENFORCED, _ALL, _NONE),
    Choice(UNENFORCED, "STRICT, PERMISSIVE", "TLS, validated by the policy; wildcard names allowed",
           f"{VALIDATED}; a wildcard matches nobody", _UNENFORCED, _ALL, _TLS),
    Choice(UNENFORCED, _NO_TLS, PLAINTEXT, PLAINTEXT, _UNENFORCED, _ALL, _NONE),
    Choice(ABSENT, _NO_TLS, PLAINTEXT, PLAINTEXT, _ABSENT, _ALL, _NONE),
    Choice(ABSENT, "STRICT, PERMISSIVE; certificate from `acm`",
           "TLS, validated against the root of that certificate", VALIDATED, _ABSENT, ("acm",), _TLS),
    Choice(ABSENT, "STRICT, PERMISSIVE; certificate from `file`", "TLS, **the server is not validated**", VALIDATED,
           _ABSENT, ("file",), _TLS),
    Choice(ABSENT, "STRICT, PERMISSIVE; certificate from `sds`",
           "TLS, not validated, no client certificate (the guide is silent)", VALIDATED, _ABSENT, ("sds",), _TLS),
]  # fmt: skip


def test_the_document_has_these_rows_of_who_decides_tls() -> None:
    assert _table("Who decides TLS") == [[one.policy, one.server, one.app_mesh, one.ours] for one in CHOICES]


@pytest.mark.parametrize("choice", CHOICES, ids=lambda one: f"{one.policy} / {one.server}")
def test_who_decides_tls(choice: Choice) -> None:
    for policy in choice.policies:
        for source in choice.sources:
            for mode in choice.modes:
                _require(choice, policy, source, mode)


def _require(choice: Choice, policy: dict[str, Any] | None, source: str, mode: str | None) -> None:
    tls: dict[str, Any] = {"tls": {"mode": mode, "certificate": SOURCES[source]}} if mode else {}
    spec = {"listeners": [entry(9080, **tls)], "serviceDiscovery": {"dns": {"hostname": "blue.local"}}}
    front = client("front", "color", **({} if policy is None else {"backendDefaults": policy}))
    state = snapshot(made("virtualNode", "blue", spec), service("color", node="blue"), front)
    cluster = messages(state, "front")["cds_egress_demo_blue_http_9080"]
    assert cluster.HasField("transport_socket") == choice.ours.startswith("TLS")
    if cluster.HasField("transport_socket"):
        common = unpacked(cluster.transport_socket.typed_config, tls_pb2.UpstreamTlsContext).common_tls_context
        assert common.validation_context_sds_secret_config.name == "servers:color"
        assert [one.name for one in common.tls_certificate_sds_secret_configs] == ["default"]
        assert state.policy.admitted_servers(node_key("front"), "color") == {node_id("blue")}


def test_a_wildcard_matches_nobody() -> None:
    validation = {
        "trust": {"sds": {"secretName": "ROOTCA"}},
        "subjectAlternativeNames": {"match": {"exact": ["*.local"]}},
    }
    front = client("front", "color", backendDefaults=_policy(enforce=False, validation=validation))
    blue = made("virtualNode", "blue", {"listeners": [entry(9080, tls=mutual())]})
    state = snapshot(blue, service("color", node="blue"), front)
    assert state.policy.admitted_servers(node_key("front"), "color") == frozenset()


# -- whom a listener lets in (the server's side), on a real Envoy

SERVED, REFUSED = "served", "refused"
LISTENERS = {
    "STRICT, `validation` with names": mutual(names=(str(node_id("front")),)),
    "STRICT, `validation` without names": mutual(),
    "STRICT, no `validation`": mutual(names=None),
    "PERMISSIVE, `validation` with names": mutual("PERMISSIVE", (str(node_id("front")),)),
}
CALLERS: dict[str, str | None] = {
    "no certificate": None,
    "another node's certificate": "other",
    "the named node's certificate": "front",
    "plaintext": "",
}


class Application(socketserver.BaseRequestHandler):
    """Answers whatever arrives, once."""

    def handle(self) -> None:
        if self.request.recv(4096):
            self.request.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("app-mesh")


@pytest.fixture(scope="module")
def ports(folder: Path) -> Iterator[dict[str, int]]:
    """One Envoy with each listener, on 127.0.0.2; the application is behind each on 127.0.0.1."""
    found: dict[str, int] = {}
    while len(set(found.values())) < len(LISTENERS):
        found = {name: free_port() for name in LISTENERS}
    blue = made("virtualNode", "blue", {"listeners": [entry(found[name], tls=tls) for name, tls in LISTENERS.items()]})
    state = snapshot(blue, service("color", node="blue"), client("front", "color"), client("other"))
    generated = generate(node_key("blue"), state, Placement.parse("127.0.0.2"))
    document = static(generated, Bootstrap("mesh/demo/virtualNode/blue", "/none"))
    _read_from(document["static_resources"]["listeners"], _secrets(folder, found))
    with contextlib.ExitStack() as stack:
        for port in found.values():
            application = stack.enter_context(socketserver.ThreadingTCPServer(("127.0.0.1", port), Application))
            threading.Thread(target=application.serve_forever, daemon=True).start()
            stack.callback(application.shutdown)
        stack.enter_context(running(document, folder))
        yield found


def _secrets(folder: Path, found: dict[str, int]) -> dict[str, Path]:
    """Write what SDS would send; whom the contexts admit is what the policy says."""
    now = datetime.now(UTC).replace(microsecond=0)
    pki = Pki(now)
    anchors, front = secrets.Anchors(pki.bundle, pki.crls), [str(node_id("front"))]
    contexts = [names.client_name(node_id("front")), *map(names.clients_name, found.values())]
    made_ = {name: secrets.validation_context(name, anchors, front, now=now) for name in contexts}
    made_["default"] = secrets.tls_certificate("default", *pki.svid(str(node_id("blue"))), now=now)
    for name in ("front", "other"):
        chain, key = pki.svid(str(node_id(name)))
        (folder / f"{name}.pem").write_bytes(chain + key)
    paths = {name: folder / f"secret{index}.json" for index, name in enumerate(made_)}
    for name, body in made_.items():
        document = {"@type": SECRET, **decode(SECRET, body, reveal=True)}
        paths[name].write_text(json.dumps({"resources": [document]}))
    return paths


def _read_from(part: Any, paths: dict[str, Path]) -> None:
    if isinstance(part, dict):
        if "sds_config" in part:
            part["sds_config"] = {"path_config_source": {"path": str(paths[part["name"]])}}
        part = list(part.values())
    if isinstance(part, list):
        for inner in part:
            _read_from(inner, paths)


def _call(folder: Path, port: int, who: str | None) -> str:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if who:
        context.load_cert_chain(folder / f"{who}.pem")
    try:
        with contextlib.ExitStack() as stack:
            connection = stack.enter_context(socket.create_connection(("127.0.0.2", port), timeout=10))
            if who != "":
                connection = stack.enter_context(context.wrap_socket(connection))
            connection.sendall(b"GET / HTTP/1.1\r\nHost: color\r\nConnection: close\r\n\r\n")
            return SERVED if connection.recv(4096).startswith(b"HTTP/1.1 200") else REFUSED
    except (ssl.SSLError, ConnectionError):
        return REFUSED


ROWS = _table("Whom a listener lets in")


def test_the_document_knows_every_listener_and_caller() -> None:
    assert {row[0] for row in ROWS} == set(LISTENERS)
    assert {row[1] for row in ROWS} == set(CALLERS)
    assert len(ROWS) == 12


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[0]} / {row[1]}")
def test_whom_a_listener_lets_in(row: list[str], ports: dict[str, int], folder: Path) -> None:
    listener, caller, app_mesh, ours = row
    assert app_mesh.startswith((SERVED, REFUSED))
    assert ours.startswith(_call(folder, ports[listener], CALLERS[caller]))
