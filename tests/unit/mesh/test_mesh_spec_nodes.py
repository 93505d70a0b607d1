"""Bounds, enums and unions of meshes, nodes, gateways, services and routers (appmesh.md §1), from both sides."""

from __future__ import annotations

from typing import Any

import pytest
from unit.mesh.mesh_objects import (
    ARN,
    MESH,
    backend,
    client_policy,
    create_input,
    listener,
    mutual,
    parsed,
    spec_refusal,
)

from meshca.mesh.spec.transport import Duration

CHAIN, KEY = "/keys/chain.pem", "/keys/key.pem"
FILE = {"certificateChain": CHAIN, "privateKey": KEY}
HEALTH: dict[str, Any] = {
    "protocol": "http",
    "healthyThreshold": 2,
    "unhealthyThreshold": 2,
    "intervalMillis": 5000,
    "timeoutMillis": 2000,
}
SECOND = {"unit": "s", "value": 1}
OUTLIER: dict[str, Any] = {
    "maxServerErrors": 1,
    "interval": SECOND,
    "baseEjectionDuration": SECOND,
    "maxEjectionPercent": 50,
}


def of_listener(port: int = 80, protocol: str = "http", **fields: Any) -> dict[str, Any]:
    return {"listeners": [listener(port, protocol, **fields)]}


def health(**changes: Any) -> dict[str, Any]:
    return of_listener(healthCheck={**HEALTH, **changes})


def outlier(**changes: Any) -> dict[str, Any]:
    return of_listener(outlierDetection={**OUTLIER, **changes})


def cloud_map(**changes: Any) -> dict[str, Any]:
    return {"serviceDiscovery": {"awsCloudMap": {"namespaceName": "n", "serviceName": "s", **changes}}}


def log(**file: Any) -> dict[str, Any]:
    return {"logging": {"accessLog": {"file": {"path": "/dev/stdout", **file}}}}


def names(*exact: str) -> dict[str, Any]:
    return of_listener(tls=mutual(*exact))


def certificate(**source: Any) -> dict[str, Any]:
    return of_listener(tls={**mutual(), "certificate": source})


def trust(**source: Any) -> dict[str, Any]:
    return of_listener(tls={**mutual(), "validation": {"trust": source}})


def of_client(**tls: Any) -> dict[str, Any]:
    return {"backendDefaults": {"clientPolicy": client_policy(**tls)}}


def client_trust(**source: Any) -> dict[str, Any]:
    return of_client(validation={"trust": source})


GOOD: list[Any] = [
    pytest.param("mesh", {"egressFilter": {"type": "ALLOW_ALL"}}, id="egress-allow"),
    pytest.param("mesh", {"egressFilter": {"type": "DROP_ALL"}}, id="egress-drop"),
    *(
        pytest.param("mesh", {"serviceDiscovery": {"ipPreference": preference}}, id=preference)
        for preference in ("IPv6_PREFERRED", "IPv4_PREFERRED", "IPv4_ONLY", "IPv6_ONLY")
    ),
    pytest.param("virtualNode", of_listener(1), id="port-1"),
    pytest.param("virtualNode", of_listener(65535), id="port-65535"),
    *(pytest.param("virtualNode", of_listener(protocol=word), id=word) for word in ("http", "http2", "grpc", "tcp")),
    pytest.param("virtualNode", health(healthyThreshold=10, unhealthyThreshold=10), id="thresholds-10"),
    pytest.param("virtualNode", health(intervalMillis=300000, timeoutMillis=60000), id="longest-health-check"),
    pytest.param("virtualNode", health(port=80, path="/ping", protocol="tcp"), id="own-port"),
    *(
        pytest.param("virtualNode", of_listener(protocol=word, timeout={word: {"idle": SECOND}}), id=f"timeout-{word}")
        for word in ("http", "http2", "grpc", "tcp")
    ),
    pytest.param("virtualNode", of_listener(timeout={"http": {"perRequest": {"unit": "ms", "value": 0}}}), id="0-ms"),
    pytest.param("virtualNode", of_listener(connectionPool={"http": {"maxConnections": 1}}), id="http-pool"),
    pytest.param(
        "virtualNode", of_listener(protocol="grpc", connectionPool={"grpc": {"maxRequests": 2**31}}), id="grpc-pool"
    ),
    pytest.param(
        "virtualNode", of_listener(protocol="tcp", connectionPool={"tcp": {"maxConnections": 1}}), id="tcp-pool"
    ),
    pytest.param("virtualNode", outlier(maxEjectionPercent=0), id="eject-none"),
    pytest.param("virtualNode", outlier(maxEjectionPercent=100), id="eject-all"),
    pytest.param("virtualNode", cloud_map(namespaceName="n" * 1024, serviceName="s" * 1024), id="long-cloud-map"),
    pytest.param("virtualNode", cloud_map(attributes=[{"key": "~" * 255, "value": "v" * 1024}]), id="long-attribute"),
    pytest.param(
        "virtualNode",
        {"serviceDiscovery": {"dns": {"hostname": "h", "responseType": "ENDPOINTS", "ipPreference": "IPv4_ONLY"}}},
        id="dns",
    ),
    pytest.param("virtualNode", log(path="/" * 255, format={"text": "t" * 1000}), id="long-text-log"),
    pytest.param("virtualNode", log(format={"json": [{"key": "k" * 100, "value": "v" * 100}]}), id="json-log"),
    *(
        pytest.param("virtualNode", of_listener(tls={**mutual(), "mode": mode}), id=mode)
        for mode in ("STRICT", "PERMISSIVE", "DISABLED")
    ),
    pytest.param("virtualNode", names("n" * 254), id="long-name"),
    pytest.param("virtualNode", certificate(acm={"certificateArn": f"{ARN}:x"}), id="acm"),
    pytest.param("virtualNode", certificate(file={"certificateChain": "/" * 255, "privateKey": KEY}), id="file"),
    pytest.param("virtualNode", trust(file={"certificateChain": CHAIN}), id="file-trust"),
    pytest.param("virtualNode", of_client(ports=[1, 65535], enforce=False), id="client-ports"),
    pytest.param("virtualNode", of_client(certificate={"file": FILE}), id="client-file"),
    pytest.param("virtualNode", of_client(certificate={"sds": {"secretName": "default"}}), id="client-sds"),
    pytest.param("virtualNode", client_trust(acm={"certificateAuthorityArns": [f"{ARN}:x"] * 3}), id="three-cas"),
    pytest.param("virtualNode", client_trust(file={"certificateChain": CHAIN}), id="client-file-trust"),
    pytest.param("virtualNode", {"backends": [backend("a"), backend("b")]}, id="two-backends"),
    pytest.param("virtualGateway", of_listener(protocol="http2", healthCheck=HEALTH), id="gateway"),
    pytest.param("virtualGateway", of_listener(connectionPool={"http": {"maxConnections": 1}}), id="gateway-pool"),
    pytest.param("virtualRouter", {"listeners": [listener(80), listener(81, "tcp")]}, id="router"),
    pytest.param("virtualRouter", {}, id="router-without-listener"),
    pytest.param("virtualService", {}, id="service-without-provider"),
    pytest.param("virtualService", {"provider": {"virtualRouter": {"virtualRouterName": "r" * 255}}}, id="service"),
]


@pytest.mark.parametrize(("kind", "spec"), GOOD)
def test_what_app_mesh_takes_is_taken_and_written_back_as_it_was(kind: str, spec: dict[str, Any]) -> None:
    text = {"meshName": MESH, "spec": spec} if kind == "mesh" else create_input(kind, "it", spec)
    found = parsed(text)
    assert found.objects[0].spec.plain() == spec
    assert found.findings == ()


LISTENER = "spec.listeners[0]"
POLICY = "spec.backendDefaults.clientPolicy.tls"
BAD: list[Any] = [
    pytest.param("virtualNode", of_listener(0), f"{LISTENER}.portMapping.port", "at least 1", id="port-0"),
    pytest.param("virtualNode", of_listener(65536), f"{LISTENER}.portMapping.port", "at most 65535", id="port-65536"),
    pytest.param("virtualNode", of_listener(protocol="HTTP"), f"{LISTENER}.portMapping.protocol", "'http'", id="upper"),
    pytest.param("virtualGateway", of_listener(protocol="tcp"), f"{LISTENER}.portMapping.protocol", "'grpc'",
                 id="gw-tcp"),
    *(
        pytest.param("virtualNode", health(**{field: value}), f"{LISTENER}.healthCheck.{field}", rule,
                     id=f"{field}-{value}")
        for field, value, rule in (
            ("healthyThreshold", 1, "at least 2"),
            ("healthyThreshold", 11, "at most 10"),
            ("unhealthyThreshold", 1, "at least 2"),
            ("unhealthyThreshold", 11, "at most 10"),
            ("intervalMillis", 4999, "at least 5000"),
            ("intervalMillis", 300001, "at most 300000"),
            ("timeoutMillis", 1999, "at least 2000"),
            ("timeoutMillis", 60001, "at most 60000"),
            ("port", 0, "at least 1"),
            ("protocol", "udp", "one of"),
        )
    ),
    pytest.param("virtualNode", health(port=81), LISTENER, "must equal portMapping.port 80", id="another-port"),
    pytest.param("virtualGateway", health(protocol="tcp"), f"{LISTENER}.healthCheck.protocol", "one of",
                 id="gw-health"),
    pytest.param("virtualGateway", health(port=81), LISTENER, "must equal portMapping.port 80", id="gw-another-port"),
    pytest.param("virtualNode", of_listener(timeout={"tcp": {}}), LISTENER, "timeout is for tcp",
                 id="timeout-protocol"),
    pytest.param("virtualNode", of_listener(timeout={}), f"{LISTENER}.timeout", "none is there", id="timeout-none"),
    pytest.param(
        "virtualNode", of_listener(timeout={"http": {}, "http2": {}}), f"{LISTENER}.timeout", "http and http2 is there",
        id="timeout-two",
    ),
    pytest.param(
        "virtualNode", of_listener(timeout={"http": {"idle": {"unit": "m", "value": 1}}}),
        f"{LISTENER}.timeout.http.idle.unit", "'s' or 'ms'", id="minutes",
    ),
    pytest.param(
        "virtualNode", of_listener(timeout={"http": {"idle": {"unit": "s", "value": -1}}}),
        f"{LISTENER}.timeout.http.idle.value", "at least 0", id="negative-duration",
    ),
    pytest.param(
        "virtualNode", of_listener(timeout={"http": {"idle": {"value": 1}}}),
        f"{LISTENER}.timeout.http.idle.unit", "required", id="no-unit",
    ),
    pytest.param(
        "virtualNode", of_listener(connectionPool={"http2": {"maxRequests": 1}}), LISTENER, "Pool is for http2",
        id="pool-protocol",
    ),
    pytest.param(
        "virtualNode", of_listener(connectionPool={"http": {"maxConnections": 0}}),
        f"{LISTENER}.connectionPool.http.maxConnections", "at least 1", id="pool-0",
    ),
    pytest.param(
        "virtualNode", of_listener(connectionPool={"http": {"maxConnections": 1, "maxPendingRequests": 0}}),
        f"{LISTENER}.connectionPool.http.maxPendingRequests", "at least 1", id="pending-0",
    ),
    pytest.param("virtualNode", outlier(maxServerErrors=0), f"{LISTENER}.outlierDetection.maxServerErrors",
                 "at least 1", id="errors-0"),
    pytest.param("virtualNode", outlier(maxEjectionPercent=101), f"{LISTENER}.outlierDetection.maxEjectionPercent",
                 "at most 100", id="percent-101"),
    pytest.param("virtualNode", outlier(maxEjectionPercent=-1), f"{LISTENER}.outlierDetection.maxEjectionPercent",
                 "at least 0", id="percent-negative"),
    pytest.param("virtualNode", cloud_map(serviceName=""), "spec.serviceDiscovery.awsCloudMap.serviceName",
                 "at least 1", id="cloud-map-empty"),
    pytest.param("virtualNode", cloud_map(namespaceName="n" * 1025), "spec.serviceDiscovery.awsCloudMap.namespaceName",
                 "at most 1024", id="cloud-map-long"),
    pytest.param("virtualNode", cloud_map(attributes=[{"key": "a b", "value": "v"}]),
                 "spec.serviceDiscovery.awsCloudMap.attributes[0].key", "must match", id="attribute-space"),
    pytest.param("virtualNode", cloud_map(attributes=[{"key": "k" * 256, "value": "v"}]),
                 "spec.serviceDiscovery.awsCloudMap.attributes[0].key", "at most 255", id="attribute-long"),
    pytest.param("virtualNode", {"serviceDiscovery": {**cloud_map()["serviceDiscovery"], "dns": {"hostname": "h"}}},
                 "spec.serviceDiscovery", "dns and awsCloudMap is there", id="found-twice"),
    pytest.param("virtualNode", {"serviceDiscovery": {"dns": {"hostname": "h", "responseType": "ANY"}}},
                 "spec.serviceDiscovery.dns.responseType", "'LOADBALANCER' or 'ENDPOINTS'", id="response-type"),
    pytest.param("virtualNode", {"serviceDiscovery": {"dns": {"hostname": "h", "ipPreference": "IPV4_ONLY"}}},
                 "spec.serviceDiscovery.dns.ipPreference", "'IPv4_ONLY'", id="ip-preference"),
    pytest.param("virtualNode", log(path=""), "spec.logging.accessLog.file.path", "at least 1", id="log-empty"),
    pytest.param("virtualNode", log(path="/dev/../etc/cron.d/x"), "spec.logging.accessLog.file.path", "no segment",
                 id="log-up"),
    pytest.param("virtualNode", log(path="/tmp/a\nb"), "spec.logging.accessLog.file.path", "no segment", id="log-line"),
    pytest.param("virtualNode", log(format={"text": "100%"}), "spec.logging.accessLog.file.format.text",
                 "a percent sign here", id="log-percent"),
    pytest.param("virtualNode", log(format={"text": "%PROTOCOL% %%PROTOCOL%"}),
                 "spec.logging.accessLog.file.format.text", "a percent sign here", id="log-odd-percent"),
    pytest.param("virtualNode", log(format={"json": [{"key": "k", "value": "%REQ(a)"}]}),
                 "spec.logging.accessLog.file.format.json[0].value", "a percent sign here", id="log-json-percent"),
    pytest.param("virtualNode", log(path="p" * 256), "spec.logging.accessLog.file.path", "at most 255", id="log-long"),
    pytest.param("virtualNode", log(format={"text": "t", "json": []}), "spec.logging.accessLog.file.format",
                 "text and json is there", id="log-two-forms"),
    pytest.param("virtualNode", log(format={"text": "t" * 1001}), "spec.logging.accessLog.file.format.text",
                 "at most 1000", id="log-text-long"),
    pytest.param("virtualNode", log(format={"json": [{"key": "k" * 101, "value": "v"}]}),
                 "spec.logging.accessLog.file.format.json[0].key", "at most 100", id="log-key-long"),
    pytest.param("virtualNode", {"logging": {"accessLog": {}}}, "spec.logging.accessLog", "none is there",
                 id="log-none"),
    pytest.param("virtualNode", of_listener(tls={**mutual(), "mode": "strict"}), f"{LISTENER}.tls.mode", "'STRICT'",
                 id="mode"),
    pytest.param("virtualNode", of_listener(tls={"mode": "STRICT"}), f"{LISTENER}.tls.certificate", "required",
                 id="no-certificate"),
    pytest.param("virtualNode", of_listener(tls={**mutual(), "validation": {}}), f"{LISTENER}.tls.validation.trust",
                 "required", id="no-trust"),
    pytest.param("virtualNode", names(""), f"{LISTENER}.tls.validation.subjectAlternativeNames.match.exact[0]",
                 "at least 1", id="name-empty"),
    pytest.param("virtualNode", names("n" * 255), f"{LISTENER}.tls.validation.subjectAlternativeNames.match.exact[0]",
                 "at most 254", id="name-long"),
    pytest.param("virtualNode", certificate(), f"{LISTENER}.tls.certificate", "none is there", id="certificate-none"),
    pytest.param("virtualNode", certificate(file=FILE, sds={"secretName": "x"}), f"{LISTENER}.tls.certificate",
                 "file and sds is there", id="certificate-two"),
    pytest.param("virtualNode", certificate(acm={"certificateArn": "x"}),
                 f"{LISTENER}.tls.certificate.acm.certificateArn", "must match", id="no-arn"),
    pytest.param("virtualNode", certificate(file={"certificateChain": CHAIN}),
                 f"{LISTENER}.tls.certificate.file.privateKey", "required", id="no-key"),
    pytest.param("virtualNode", certificate(sds={"secretName": ""}), f"{LISTENER}.tls.certificate.sds.secretName",
                 "at least 1", id="secret-empty"),
    pytest.param("virtualNode", trust(), f"{LISTENER}.tls.validation.trust", "none is there", id="trust-none"),
    pytest.param("virtualNode", of_client(ports=[0]), f"{POLICY}.ports[0]", "at least 1", id="client-port"),
    pytest.param("virtualNode", of_client(ports="80"), f"{POLICY}.ports", "a list", id="client-ports-text"),
    pytest.param("virtualNode", {"backendDefaults": {"clientPolicy": {"tls": {}}}}, f"{POLICY}.validation", "required",
                 id="client-no-validation"),
    pytest.param("virtualNode", client_trust(acm={"certificateAuthorityArns": []}),
                 f"{POLICY}.validation.trust.acm.certificateAuthorityArns", "at least 1 entries", id="no-ca"),
    pytest.param("virtualNode", client_trust(acm={"certificateAuthorityArns": [f"{ARN}:x"] * 4}),
                 f"{POLICY}.validation.trust.acm.certificateAuthorityArns", "at most 3 entries", id="four-cas"),
    pytest.param("virtualNode", {"backends": [backend("a.x"), backend("A.X")]}, "spec", "the same backend twice: a.x",
                 id="backend-case"),
    pytest.param("virtualNode", {"backends": [backend("a"), backend("a")]}, "spec", "the same backend twice: a",
                 id="backend-twice"),
    pytest.param("virtualNode", {"backends": [{}]}, "spec.backends[0]", "virtualService is needed", id="backend-none"),
    pytest.param("virtualNode", {"backends": [backend("")]}, "spec.backends[0].virtualService.virtualServiceName",
                 "at least 1", id="backend-empty"),
    pytest.param("virtualNode", {"listeners": [listener(), listener(81), listener(80, "tcp")]}, "spec",
                 "the same listener port twice: 80", id="port-twice"),
    pytest.param("virtualGateway", {"listeners": [listener(), listener()]}, "spec", "the same listener port twice: 80",
                 id="gw-port-twice"),
    pytest.param("virtualRouter", {"listeners": [listener(), listener()]}, "spec", "the same listener port twice: 80",
                 id="router-port-twice"),
    pytest.param("virtualGateway", {"listeners": []}, "spec.listeners", "at least 1 entries", id="gw-no-listener"),
    pytest.param("virtualGateway", {}, "spec.listeners", "required", id="gw-nothing"),
    pytest.param("virtualService", {"provider": {}}, "spec.provider", "none is there", id="provider-none"),
    pytest.param(
        "virtualService",
        {"provider": {"virtualNode": {"virtualNodeName": "n"}, "virtualRouter": {"virtualRouterName": "r"}}},
        "spec.provider", "virtualNode and virtualRouter is there", id="provider-two",
    ),
    pytest.param("virtualService", {"provider": {"virtualNode": {"virtualNodeName": "n" * 256}}},
                 "spec.provider.virtualNode.virtualNodeName", "at most 255", id="provider-long"),
    pytest.param("virtualNode", {"listeners": [listener(port + 1) for port in range(5001)]}, "spec.listeners",
                 "at most 5000 entries", id="5001-listeners"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "spec", "field", "rule"), BAD)
def test_each_bound_refuses_what_is_beyond_it(kind: str, spec: dict[str, Any], field: str, rule: str) -> None:
    error = spec_refusal(kind, spec)
    assert (error.field, rule in error.rule) == (field, True), error


@pytest.mark.parametrize(
    ("kind", "spec", "key"),
    [
        pytest.param("virtualNode", trust(acm={"certificateAuthorityArns": [f"{ARN}:x"]}), "acm", id="listener-trust"),
        pytest.param("virtualNode", of_client(certificate={"acm": {"certificateArn": f"{ARN}:x"}}), "acm",
                     id="client-certificate"),
    ],
)  # fmt: skip
def test_acm_is_refused_where_app_mesh_never_had_it(kind: str, spec: dict[str, Any], key: str) -> None:
    text = create_input(kind, "it", spec)
    with pytest.raises(Exception, match=f"knows no key '{key}'"):
        parsed(text)


@pytest.mark.parametrize("field", ["timeout", "outlierDetection"])
def test_a_gateway_listener_has_no_such_field(field: str) -> None:
    spec = {"listeners": [{**listener(), field: {}}]}
    (finding,) = parsed(create_input("virtualGateway", "g", spec)).findings
    assert (finding.severity, finding.field) == ("warning", f"{LISTENER}.{field}")


@pytest.mark.parametrize("spec", [{"egressFilter": {"type": "ALLOW"}}, {"serviceDiscovery": {"ipPreference": "IPv4"}}])
def test_a_mesh_keeps_its_enums(spec: dict[str, Any]) -> None:
    with pytest.raises(Exception, match="one of"):
        parsed({"meshName": MESH, "spec": spec})


@pytest.mark.parametrize(
    "arn",
    [
        f"{ARN}:mesh/{MESH}/virtualService/pay.local",
        f"{ARN}:mesh/{MESH}@123456789012/virtualService/pay.local",
        f"arn:aws-cn:appmesh:cn-north-1:123456789012:mesh/{MESH}/virtualService/pay.local",
    ],
)
def test_a_backend_named_by_arn_is_kept_by_name(arn: str) -> None:
    (node,) = parsed(create_input("virtualNode", "n", {"backends": [backend(arn)]})).objects
    assert node.spec.plain() == {"backends": [backend("pay.local")]}
    error = spec_refusal("virtualNode", {"backends": [backend(arn), backend("pay.local")]})
    assert error.rule == "the same backend twice: pay.local"


@pytest.mark.parametrize(
    ("arn", "rule"),
    [
        (f"{ARN}:mesh/{MESH}/virtualNode/n", "must name a virtual service"),
        (f"{ARN}:mesh/{MESH}", "must name a virtual service"),
        (f"{ARN}:mesh/{MESH}/virtualService/s/extra", "must name a virtual service"),
        ("arn:aws:iam::123456789012:role/x", "must name a virtual service"),
        (f"{ARN}:mesh/other/virtualService/s", f"of mesh other, the node is of mesh {MESH}"),
    ],
)
def test_a_backends_arn_names_a_service_of_its_own_mesh(arn: str, rule: str) -> None:
    error = spec_refusal("virtualNode", {"backends": [backend(arn)]})
    assert rule in error.rule
    assert (error.field, error.value) == ("spec.backends[0].virtualService.virtualServiceName", arn)


@pytest.mark.parametrize(("unit", "milliseconds"), [("s", 2000), ("ms", 2)])
def test_a_duration_is_known_in_milliseconds(unit: str, milliseconds: int) -> None:
    assert Duration.model_validate({"unit": unit, "value": 2}).milliseconds == milliseconds
