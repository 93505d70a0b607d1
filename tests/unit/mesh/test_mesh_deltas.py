"""The import report: each place where an object is served more strictly than App Mesh served it."""

from __future__ import annotations

from typing import Any

import pytest
from unit.mesh.mesh_objects import backend, client_policy, gateway, listener, made, mutual, node, service

from meshca.mesh import deltas
from meshca.mesh.deltas import security_deltas, summary
from meshca.mesh.model import MeshObject

FILE = {"file": {"certificateChain": "/keys/chain.pem", "privateKey": "/keys/key.pem"}}
TRUST = {"trust": {"file": {"certificateChain": "/keys/ca.pem"}}}
TLS = "spec.listeners[0].tls"


def serving(*names: str, mode: str = "STRICT", **tls: Any) -> MeshObject:
    return node("n", listeners=(listener(tls={**mutual(*names, mode=mode), **tls}),))


ALWAYS = {(TLS, deltas.MODERN_TLS), (f"{TLS}.validation", deltas.CLIENT_CERTIFICATE)}
NO_NAMES = ALWAYS | {(f"{TLS}.validation", deltas.ONLY_CALLERS)}


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        pytest.param(made("mesh", "m"), {("spec.egressFilter.type", deltas.NO_HOLE)}, id="drop-all"),
        pytest.param(made("mesh", "m", {"egressFilter": {"type": "ALLOW_ALL"}}), set(), id="allow-all"),
        pytest.param(service("s", node="n"), set(), id="service"),
        pytest.param(node("n"), set(), id="no-tls"),
        pytest.param(serving(mode="DISABLED"), set(), id="disabled"),
        pytest.param(serving(), NO_NAMES, id="mutual"),
        pytest.param(serving("spiffe://m.test/x"),
                     ALWAYS | {(f"{TLS}.validation.subjectAlternativeNames", deltas.TYPED_NAMES)}, id="names"),
        pytest.param(serving(mode="PERMISSIVE"), NO_NAMES | {(f"{TLS}.mode", deltas.OPEN_TO_PLAINTEXT)},
                     id="permissive"),
        pytest.param(serving(certificate=FILE, validation=TRUST),
                     NO_NAMES | {(f"{TLS}.certificate.file", deltas.FILES_OVER_SDS),
                                 (f"{TLS}.validation.trust.file", deltas.FILES_OVER_SDS)}, id="files"),
        pytest.param(node("n", "s", "t"), {(f"spec.backends[{i}].virtualService", deltas.SERVERS_VALIDATED)
                                           for i in (0, 1)}, id="no-policy"),
        pytest.param(node("n", "s", backendDefaults={"clientPolicy": client_policy()}),
                     {("spec.backendDefaults.clientPolicy.tls", deltas.MODERN_TLS)}, id="defaults"),
        pytest.param(
            node("n", backends=[backend("s", clientPolicy=client_policy("spiffe://m.test/x", certificate=FILE))]),
            {("spec.backends[0].virtualService.clientPolicy.tls" + rest, rule) for rest, rule in (
                ("", deltas.MODERN_TLS), (".certificate.file", deltas.FILES_OVER_SDS),
                (".validation.subjectAlternativeNames", deltas.TYPED_NAMES))}, id="backend"),
        pytest.param(gateway("g"), {("spec.backendDefaults", deltas.SERVERS_VALIDATED)}, id="gateway"),
    ],
)  # fmt: skip
def test_each_delta_is_a_note_with_its_place(item: MeshObject, expected: set[tuple[str, str]]) -> None:
    found = security_deltas(item)
    assert {(one.field, one.rule) for one in found} == expected
    assert {(one.severity, one.object) for one in found} <= {("note", str(item.key))}


def test_people_read_one_line_a_rule() -> None:
    nodes = [node(name, "s") for name in "abcde"]
    (line,) = summary(found for item in nodes for found in security_deltas(item))
    assert line == (
        f"stricter than App Mesh: {deltas.SERVERS_VALIDATED} "
        "(mesh/shop/virtualNode/a, mesh/shop/virtualNode/b, mesh/shop/virtualNode/c and 2 more)"
    )
