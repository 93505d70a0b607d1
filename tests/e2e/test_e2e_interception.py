"""What an Envoy does with traffic that the kernel sends it (15000 and 15001), on the real Envoy.

No test machine needs to be allowed to redirect traffic for this: the filter that asks the kernel where a connection was
going (original_dst) is exchanged for the one that reads it from the connection's first line (PROXY protocol, v1). All
else is as rendered.
"""

from __future__ import annotations

import contextlib
import json
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from envoy_binary import envoy_binary, free_port, running
from harness.stage import HttpApp

from meshca.envoy.documents import Bootstrap, static
from meshca.envoy.generator import generate
from meshca.envoy.placement import Placement
from meshca.envoy.snapshot import Snapshot
from meshca.mesh.forest import MeshSet
from meshca.mesh.identity import identities
from meshca.mesh.model import CLASSES, SPECS, VIRTUAL_NODE, MeshObject, ObjectKey
from meshca.policy.admission import Policy
from meshca.spiffe.id import TrustDomain

if TYPE_CHECKING:
    from collections.abc import Iterator

_PROXY = "type.googleapis.com/envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol"


def _snapshot(*objects: tuple[str, str, dict[str, Any]]) -> Snapshot:
    made: list[MeshObject] = []
    for kind, name, spec in objects:
        shape: Any = CLASSES[kind]
        made.append(shape("m", name, SPECS[kind].model_validate(spec), ""))
    mesh_set, domain = MeshSet(made), TrustDomain("m.test")
    known = identities(mesh_set, domain)
    return Snapshot(mesh_set, Policy.of(mesh_set, known, domain), known, {}, frozenset())


class Sidecar:
    """A node's Envoy, its own application on two ports, a backend, and a stranger that is no backend."""

    def __init__(self, egress_filter: str) -> None:
        self.ports = {name: free_port() for name in ("one", "two", "backend", "stranger")}
        self.apps = {name: HttpApp(name, port) for name, port in self.ports.items()}
        self._filter = egress_filter

    def document(self) -> dict[str, Any]:
        def http(name: str) -> dict[str, Any]:
            return {"portMapping": {"port": self.ports[name], "protocol": "http"}}

        found = {"serviceDiscovery": {"dns": {"hostname": "127.0.0.1"}}}
        backends = [{"virtualService": {"virtualServiceName": "backend.local"}}]
        snapshot = _snapshot(
            ("mesh", "m", {"egressFilter": {"type": self._filter}}),
            ("virtualNode", "own", {"listeners": [http("one"), http("two")], "backends": backends}),
            ("virtualNode", "backend", {"listeners": [http("backend")], **found}),
            ("virtualService", "backend.local", {"provider": {"virtualNode": {"virtualNodeName": "backend"}}}),
        )
        place = Placement(intercepted=True)
        resources = generate(ObjectKey("m", VIRTUAL_NODE, "", "own"), snapshot, place)
        document = static(resources, Bootstrap("mesh/m/virtualNode/own", "/none", place))
        for listener in document["static_resources"]["listeners"]:
            port = listener["address"]["socket_address"]
            self.ports[f"to-{port['port_value']}"] = port["port_value"] = free_port()
            listener["listener_filters"] = [
                {"name": "p", "typed_config": {"@type": _PROXY}} if one["name"].endswith("original_dst") else one
                for one in listener["listener_filters"]
            ]
        return document

    def ask(self, entrance: int, to: str, host: str, address: str = "127.0.0.1") -> str:
        """Return which application answers a connection that was going ``to`` a port; nothing where none does."""
        with socket.create_connection((address, self.ports[f"to-{entrance}"]), 5) as connection:
            connection.settimeout(5)
            proxied = f"PROXY TCP4 127.0.0.1 127.0.0.1 4321 {self.ports[to]}\r\n"
            connection.sendall(f"{proxied}GET / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n".encode())
            with contextlib.suppress(ConnectionResetError):
                answer = b"".join(iter(lambda: connection.recv(65536), b""))
                if answer.startswith(b"HTTP/1.1 200"):
                    return str(json.loads(answer.partition(b"\r\n\r\n")[2])["app"])
        return ""


@pytest.fixture(params=["DROP_ALL", "ALLOW_ALL"])
def sidecar(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Sidecar]:
    envoy_binary()
    made = Sidecar(request.param)
    with running(made.document(), tmp_path):
        yield made
    for app in made.apps.values():
        app.close()


def test_traffic_goes_where_it_was_going_if_the_filter_lets_it(
    sidecar: Sidecar, request: pytest.FixtureRequest
) -> None:
    assert sidecar.ask(15000, "one", "any") == "one"
    assert sidecar.ask(15000, "two", "any") == "two"
    assert sidecar.ask(15000, "stranger", "any") == ""

    assert sidecar.ask(15001, "backend", "backend.local") == "backend"
    open_to_all = "ALLOW_ALL" in request.node.name
    # To another host on a backend's port, and to another port.
    assert sidecar.ask(15001, "backend", "other.local") == ("backend" if open_to_all else "")
    assert sidecar.ask(15001, "stranger", "other.local") == ("stranger" if open_to_all else "")
