"""What `apply` says about parts of a spec that are served otherwise (notes), and not yet (not generated)."""

from __future__ import annotations

from typing import Any

import pytest
from unit.mesh.mesh_objects import (
    ARN,
    backend,
    client_policy,
    gateway,
    gateway_route,
    listener,
    made,
    mutual,
    node,
    route,
    router,
    service,
    target,
)

from meshca.mesh.model import MeshObject
from meshca.mesh.notes import notes
from meshca.mesh.notgenerated import not_generated

FILE = {"file": {"certificateChain": "/keys/chain.pem", "privateKey": "/keys/key.pem"}}
TRUST = {"trust": {"file": {"certificateChain": "/keys/ca.pem"}}}
TLS = "spec.listeners[0].tls"
POLICY = "spec.backendDefaults.clientPolicy.tls"


def serving(**tls: Any) -> MeshObject:
    return node("n", listeners=(listener(tls={**mutual(), **tls}),))


def calling(**tls: Any) -> MeshObject:
    return node("n", backendDefaults={"clientPolicy": client_policy(**tls)})


@pytest.mark.parametrize(
    ("item", "field", "value", "served"),
    [
        pytest.param(serving(certificate=FILE), f"{TLS}.certificate.file", "/keys/chain.pem", "own certificate",
                     id="certificate-file"),
        pytest.param(serving(certificate={"acm": {"certificateArn": f"{ARN}:c"}}), f"{TLS}.certificate.acm", f"{ARN}:c",
                     "own certificate", id="certificate-acm"),
        pytest.param(serving(validation=TRUST), f"{TLS}.validation.trust.file", "/keys/ca.pem", "trust bundle",
                     id="trust-file"),
        pytest.param(calling(certificate=FILE), f"{POLICY}.certificate.file", "/keys/chain.pem", "own certificate",
                     id="client-certificate-file"),
        pytest.param(calling(validation=TRUST), f"{POLICY}.validation.trust.file", "/keys/ca.pem", "trust bundle",
                     id="client-trust-file"),
        pytest.param(
            calling(validation={"trust": {"acm": {"certificateAuthorityArns": [f"{ARN}:a", f"{ARN}:b"]}}}),
            f"{POLICY}.validation.trust.acm", f"{ARN}:a, {ARN}:b", "trust bundle", id="client-trust-acm",
        ),
        pytest.param(
            node("n", backends=[backend("s", clientPolicy=client_policy(certificate=FILE))]),
            "spec.backends[0].virtualService.clientPolicy.tls.certificate.file", "/keys/chain.pem", "own certificate",
            id="backend",
        ),
        pytest.param(gateway("n", listener(443, tls={**mutual(), "certificate": FILE})), f"{TLS}.certificate.file",
                     "/keys/chain.pem", "own certificate", id="gateway"),
    ],
)  # fmt: skip
def test_what_is_not_read_is_noted(item: MeshObject, field: str, value: str, served: str) -> None:
    (note,) = notes(item)
    assert (note.severity, note.object, note.field, note.value) == ("note", str(item.key), field, value)
    assert "is not read" in note.rule
    assert served in note.rule


def test_what_is_served_as_it_says_needs_no_note() -> None:
    objects = (serving(), calling(certificate={"sds": {"secretName": "default"}}), node("n"), service("s"), router("r"))
    assert [notes(item) for item in objects] == [()] * 5
    assert notes(node("n", backendDefaults={}, backends=[backend("s", clientPolicy={})])) == ()
    assert notes(serving(mode="PERMISSIVE", validation=None)) == ()


def test_a_permissive_listener_with_validation_is_warned_of() -> None:
    (warning,) = notes(serving(mode="PERMISSIVE"))
    assert (warning.severity, warning.field) == ("warning", f"{TLS}.mode")
    assert "lets anybody in" in warning.rule
    assert warning.remedy


HEADERS = {"headers": [{"name": "h"}]}


@pytest.mark.parametrize(
    ("item", "fields"),
    [
        pytest.param(made("mesh", "m", {"egressFilter": {"type": "ALLOW_ALL"}}),
                     {"spec.egressFilter.type": "ALLOW_ALL"},
                     id="allow-all"),
        pytest.param(made("virtualNode", "n", {"serviceDiscovery": {"awsCloudMap": {"namespaceName": "x",
                                                                                   "serviceName": "y"}}}),
                     {"spec.serviceDiscovery.awsCloudMap": "y"}, id="cloud-map"),
        pytest.param(node("n", listeners=(listener(80), listener(81, tls=mutual(mode="PERMISSIVE")))),
                     {"spec.listeners": "2 listeners", "spec.listeners[1].tls.mode": "PERMISSIVE"}, id="node"),
        pytest.param(router("r", listener(80), listener(81)), {"spec.listeners": "2 listeners"}, id="router"),
        pytest.param(route("r", "x", target("n"), match={"method": "GET", "scheme": "http", **HEADERS}),
                     {"spec.httpRoute.match.method": "", "spec.httpRoute.match.scheme": "",
                      "spec.httpRoute.match.headers": ""}, id="http"),
        pytest.param(route("r", "x", target("n"), kind="http2Route", match={"queryParameters": [{"name": "q"}]}),
                     {"spec.http2Route.match.queryParameters": ""}, id="http2"),
        pytest.param(made("route", "x", {"httpRoute": {"match": {"path": {"exact": "/"}},
                                                       "action": {"weightedTargets": [target("n")]},
                                                       "retryPolicy": {"maxRetries": 1,
                                                                       "perRetryTimeout": {"unit": "s", "value": 1}}}},
                          "r"), {"spec.httpRoute.match.path": "", "spec.httpRoute.retryPolicy": ""}, id="path"),
        pytest.param(route("r", "x", target("n"), kind="grpcRoute",
                           match={"serviceName": "s", "methodName": "m", "metadata": [{"name": "h"}]}),
                     {"spec.grpcRoute.match.serviceName": "", "spec.grpcRoute.match.methodName": "",
                      "spec.grpcRoute.match.metadata": ""}, id="grpc"),
        pytest.param(gateway(), {"spec": "virtualGateway"}, id="gateway"),
        pytest.param(gateway_route("x", "s"), {"spec": "gatewayRoute"}, id="gateway-route"),
    ],
)  # fmt: skip
def test_what_is_not_generated_is_said_field_by_field(item: MeshObject, fields: dict[str, str]) -> None:
    found = not_generated(item)
    assert {finding.field: finding.value for finding in found} == fields
    assert {(finding.severity, finding.object) for finding in found} == {("warning", str(item.key))}
    assert all("not generated yet" in finding.rule for finding in found)


@pytest.mark.parametrize(
    "item",
    [made("mesh", "m"), node("n"), node("n", listeners=(listener(tls=mutual()),)), router("r"), service("s", node="n"),
     route("r", "x", target("n")), route("r", "x", target("n"), kind="grpcRoute"),
     route("r", "x", target("n"), kind="tcpRoute"), node("n", listeners=())],
)  # fmt: skip
def test_what_is_generated_needs_no_word(item: MeshObject) -> None:
    assert not_generated(item) == ()
