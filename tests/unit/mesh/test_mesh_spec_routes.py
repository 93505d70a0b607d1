"""Bounds, enums and unions of routes and gateway routes (appmesh.md §1), from both sides."""

from __future__ import annotations

from typing import Any

import pytest
from unit.mesh.mesh_objects import create_input, made, parsed, spec_refusal

from meshca.mesh.model import GatewayRoute, Route

ACTION: dict[str, Any] = {"weightedTargets": [{"virtualNode": "n", "weight": 1}]}
TO_SERVICE: dict[str, Any] = {"target": {"virtualService": {"virtualServiceName": "s"}}}
SECOND = {"unit": "s", "value": 1}
RETRY: dict[str, Any] = {"maxRetries": 0, "perRetryTimeout": SECOND}


def http(match: dict[str, Any] | None = None, kind: str = "httpRoute", **fields: Any) -> dict[str, Any]:
    return {kind: {"match": {"prefix": "/"} if match is None else match, "action": ACTION, **fields}}


def grpc(match: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    return {"grpcRoute": {"match": match or {}, "action": ACTION, **fields}}


def targets(*entries: dict[str, Any]) -> dict[str, Any]:
    return {"tcpRoute": {"action": {"weightedTargets": list(entries)}}}


def header(match: dict[str, Any] | None = None, name: str = "h", **fields: Any) -> dict[str, Any]:
    entry = {"name": name, **fields} if match is None else {"name": name, "match": match, **fields}
    return http({"prefix": "/", "headers": [entry]})


def entrance(
    match: dict[str, Any] | None = None, rewrite: dict[str, Any] | None = None, kind: str = "httpRoute"
) -> Any:
    action = TO_SERVICE if rewrite is None else {**TO_SERVICE, "rewrite": rewrite}
    return {kind: {"match": {"prefix": "/x"} if match is None else match, "action": action}}


ROUTES: list[Any] = [
    *(pytest.param(http(kind=kind), id=kind) for kind in ("httpRoute", "http2Route")),
    pytest.param({**http(), "priority": 0}, id="priority-0"),
    pytest.param({**http(), "priority": 1000}, id="priority-1000"),
    pytest.param(http({"port": 80}), id="port-alone"),
    pytest.param(http({"path": {"exact": "/x" * 127}}), id="path"),
    pytest.param(http({"path": {"regex": "r" * 255}}), id="regex"),
    *(
        pytest.param(http({"prefix": "/", "method": method, "scheme": "https"}), id=method)
        for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH")
    ),
    pytest.param(header(), id="presence"),
    pytest.param(header(name="h" * 50, invert=True), id="absence"),
    *(pytest.param(header({way: "v" * 255}), id=way) for way in ("exact", "prefix", "suffix", "regex")),
    pytest.param(header({"range": {"start": -5, "end": -4}}), id="range"),
    pytest.param(http({"prefix": "/", "headers": [{"name": "h"}] * 10}), id="ten-headers"),
    pytest.param(http({"prefix": "/", "queryParameters": [{"name": "q", "match": {"exact": ""}}] * 10}),
                 id="ten-queries"),
    pytest.param(http(retryPolicy={**RETRY, "httpRetryEvents": ["server-error"] * 25}), id="25-events"),
    pytest.param(http(retryPolicy={**RETRY, "tcpRetryEvents": ["connection-error"]}), id="tcp-event"),
    pytest.param(http(timeout={"perRequest": SECOND, "idle": SECOND}), id="timeouts"),
    pytest.param(grpc(), id="any-call"),
    pytest.param(grpc({"serviceName": "s", "methodName": "m" * 50, "port": 1}), id="method"),
    pytest.param(grpc({"metadata": [{"name": "m", "match": {"exact": "v"}}]}), id="metadata"),
    pytest.param(grpc(retryPolicy={**RETRY, "grpcRetryEvents": ["cancelled", "deadline-exceeded", "internal",
                                                              "resource-exhausted", "unavailable"]}), id="grpc-events"),
    pytest.param({"tcpRoute": {"match": {"port": 1}, "action": ACTION, "timeout": {"idle": SECOND}}}, id="tcp"),
    pytest.param(targets(*({"virtualNode": f"n{number}", "weight": 0} for number in range(10))), id="ten-targets"),
    pytest.param(targets({"virtualNode": "n" * 255, "weight": 100, "port": 65535}), id="weight-100"),
]  # fmt: skip

ENTRANCES: list[Any] = [
    *(pytest.param(entrance(kind=kind), id=kind) for kind in ("httpRoute", "http2Route")),
    pytest.param(entrance({"hostname": {"exact": "h" * 253}}), id="host"),
    pytest.param(entrance({"hostname": {"suffix": ".example.com"}, "port": 80}), id="suffix"),
    pytest.param(entrance({"path": {"exact": "/"}}, {"path": {"exact": "/y"}}), id="path"),
    pytest.param(entrance({"prefix": "/aws"}), id="not-reserved"),
    pytest.param(entrance(rewrite={"prefix": {"defaultPrefix": "DISABLED"}}), id="keep-prefix"),
    pytest.param(entrance(rewrite={"prefix": {"value": "/"}}), id="root"),
    pytest.param(entrance(rewrite={"prefix": {"value": "/a/b/"}}), id="prefix"),
    pytest.param(entrance(rewrite={"hostname": {"defaultTargetHostname": "DISABLED"}}), id="keep-host"),
    pytest.param(entrance({"serviceName": "s"}, kind="grpcRoute"), id="grpc"),
    pytest.param(entrance({"hostname": {"exact": "h"}}, {"hostname": {}}, "grpcRoute"), id="grpc-host"),
]


@pytest.mark.parametrize("spec", ROUTES)
def test_what_a_route_may_say_is_taken_and_written_back_as_it_was(spec: dict[str, Any]) -> None:
    found = parsed(create_input("route", "it", spec, "p"))
    assert found.objects[0].spec.plain() == spec
    assert found.findings == ()


@pytest.mark.parametrize("spec", ENTRANCES)
def test_what_a_gateway_route_may_say_is_taken_and_written_back_as_it_was(spec: dict[str, Any]) -> None:
    found = parsed(create_input("gatewayRoute", "it", spec, "p"))
    assert found.objects[0].spec.plain() == spec
    assert found.findings == ()


MATCH, ACT = "spec.httpRoute.match", "spec.httpRoute.action"
BAD_ROUTES: list[Any] = [
    pytest.param({}, "spec", "exactly one of httpRoute", id="no-kind"),
    pytest.param({**http(), **grpc()}, "spec", "exactly one of httpRoute", id="two-kinds"),
    pytest.param({"priority": 1}, "spec", "exactly one of httpRoute", id="priority-alone"),
    pytest.param({**http(), "priority": -1}, "spec.priority", "at least 0", id="priority-negative"),
    pytest.param({**http(), "priority": 1001}, "spec.priority", "at most 1000", id="priority-1001"),
    pytest.param(http({}), MATCH, "one of prefix, path and port", id="match-nothing"),
    pytest.param(http({"method": "GET"}), MATCH, "one of prefix, path and port", id="method-alone"),
    pytest.param(http({"prefix": "/", "path": {"exact": "/"}}), MATCH, "exclude each other", id="prefix-and-path"),
    pytest.param(http({"prefix": ""}), f"{MATCH}.prefix", "must match", id="prefix-empty"),
    pytest.param(http({"prefix": "x/"}), f"{MATCH}.prefix", "must match", id="prefix-without-slash"),
    pytest.param(http({"path": {}}), f"{MATCH}.path", "none is there", id="path-none"),
    pytest.param(http({"path": {"exact": "/", "regex": "/"}}), f"{MATCH}.path", "exact and regex is there",
                 id="path-two"),
    pytest.param(http({"path": {"exact": "p" * 256}}), f"{MATCH}.path.exact", "at most 255", id="path-long"),
    pytest.param(http({"prefix": "/", "method": "get"}), f"{MATCH}.method", "'GET'", id="method"),
    pytest.param(http({"prefix": "/", "scheme": "ftp"}), f"{MATCH}.scheme", "'http' or 'https'", id="scheme"),
    pytest.param(http({"prefix": "/", "port": 0}), f"{MATCH}.port", "at least 1", id="port"),
    pytest.param(http({"prefix": "/", "headers": []}), f"{MATCH}.headers", "at least 1 entries", id="no-headers"),
    pytest.param(http({"prefix": "/", "headers": [{"name": "h"}] * 11}), f"{MATCH}.headers", "at most 10",
                 id="11-headers"),
    pytest.param(http({"prefix": "/", "queryParameters": [{"name": "q"}] * 11}), f"{MATCH}.queryParameters",
                 "at most 10", id="11-queries"),
    pytest.param(header(name="h" * 51), f"{MATCH}.headers[0].name", "at most 50", id="header-long"),
    pytest.param(header({}), f"{MATCH}.headers[0].match", "none is there", id="header-match-none"),
    pytest.param(header({"exact": "a", "prefix": "b"}), f"{MATCH}.headers[0].match", "exact and prefix is there",
                 id="header-match-two"),
    pytest.param(header({"suffix": "v" * 256}), f"{MATCH}.headers[0].match.suffix", "at most 255", id="suffix-long"),
    pytest.param(header({"range": {"start": 5, "end": 5}}), f"{MATCH}.headers[0].match.range", "5-5 holds nothing",
                 id="range-empty"),
    pytest.param(http(retryPolicy={**RETRY, "maxRetries": -1}), "spec.httpRoute.retryPolicy.maxRetries", "at least 0",
                 id="retries"),
    pytest.param(http(retryPolicy={"maxRetries": 1}), "spec.httpRoute.retryPolicy.perRetryTimeout", "required",
                 id="retry-timeout"),
    pytest.param(http(retryPolicy={**RETRY, "httpRetryEvents": ["teapot"]}),
                 "spec.httpRoute.retryPolicy.httpRetryEvents[0]", "'server-error'", id="event"),
    pytest.param(http(retryPolicy={**RETRY, "httpRetryEvents": ["server-error"] * 26}),
                 "spec.httpRoute.retryPolicy.httpRetryEvents", "at most 25", id="26-events"),
    pytest.param(http(retryPolicy={**RETRY, "tcpRetryEvents": []}), "spec.httpRoute.retryPolicy.tcpRetryEvents",
                 "at least 1 entries", id="no-tcp-events"),
    pytest.param(grpc({"methodName": "m"}), "spec.grpcRoute.match", "methodName needs serviceName", id="method-only"),
    pytest.param(grpc({"serviceName": "s", "methodName": "m" * 51}), "spec.grpcRoute.match.methodName", "at most 50",
                 id="method-long"),
    pytest.param(grpc({"metadata": []}), "spec.grpcRoute.match.metadata", "at least 1 entries", id="no-metadata"),
    pytest.param(grpc(retryPolicy={**RETRY, "grpcRetryEvents": ["unknown"]}),
                 "spec.grpcRoute.retryPolicy.grpcRetryEvents[0]", "'cancelled'", id="grpc-event"),
    pytest.param(targets(), "spec.tcpRoute.action.weightedTargets", "at least 1 entries", id="no-targets"),
    pytest.param(targets(*[{"virtualNode": "n", "weight": 1}] * 11), "spec.tcpRoute.action.weightedTargets",
                 "at most 10", id="11-targets"),
    pytest.param(targets({"virtualNode": "n", "weight": 101}), "spec.tcpRoute.action.weightedTargets[0].weight",
                 "at most 100", id="weight-101"),
    pytest.param(targets({"virtualNode": "n", "weight": -1}), "spec.tcpRoute.action.weightedTargets[0].weight",
                 "at least 0", id="weight-negative"),
    pytest.param(targets({"virtualNode": "n"}), "spec.tcpRoute.action.weightedTargets[0].weight", "required",
                 id="weight"),
    pytest.param(targets({"virtualNode": "n" * 256, "weight": 1}),
                 "spec.tcpRoute.action.weightedTargets[0].virtualNode",
                 "at most 255", id="node-long"),
]  # fmt: skip

BAD_ENTRANCES: list[Any] = [
    pytest.param({}, "spec", "exactly one of httpRoute", id="no-kind"),
    pytest.param(entrance({}), MATCH, "one of prefix, path and hostname", id="match-nothing"),
    pytest.param(entrance({"port": 80}), MATCH, "one of prefix, path and hostname", id="port-alone"),
    pytest.param(entrance({"prefix": "/", "path": {"exact": "/"}}), MATCH, "exclude each other", id="prefix-and-path"),
    pytest.param(entrance({"prefix": "/aws-appmesh"}), MATCH, "are reserved", id="reserved"),
    pytest.param(entrance({"prefix": "/aws-app-mesh/x"}), MATCH, "are reserved", id="reserved-too"),
    pytest.param(entrance({"hostname": {}}), f"{MATCH}.hostname", "none is there", id="host-none"),
    pytest.param(entrance({"hostname": {"exact": "a", "suffix": "b"}}), f"{MATCH}.hostname",
                 "exact and suffix is there", id="host-two"),
    pytest.param(entrance({"hostname": {"exact": "h" * 254}}), f"{MATCH}.hostname.exact", "at most 253",
                 id="host-long"),
    pytest.param(entrance(rewrite={"prefix": {"value": "/"}, "path": {"exact": "/"}}), f"{ACT}.rewrite",
                 "exclude each other", id="rewrite-two"),
    pytest.param(entrance(rewrite={"path": {"exact": "/a\r\nx: y"}}), f"{ACT}.rewrite.path.exact",
                 "no control character", id="rewrite-lines"),
    pytest.param(entrance(rewrite={"prefix": {"value": "/a\r/"}}), f"{ACT}.rewrite.prefix.value",
                 "no control character", id="rewrite-prefix-lines"),
    pytest.param(entrance(rewrite={"prefix": {}}), f"{ACT}.rewrite.prefix", "none is there", id="rewrite-none"),
    pytest.param(entrance(rewrite={"prefix": {"value": "/a"}}), f"{ACT}.rewrite.prefix.value", "must match",
                 id="no-slash-at-the-end"),
    pytest.param(entrance(rewrite={"prefix": {"value": "a/"}}), f"{ACT}.rewrite.prefix.value", "must match",
                 id="no-slash-at-the-start"),
    pytest.param(entrance(rewrite={"prefix": {"defaultPrefix": "OFF"}}), f"{ACT}.rewrite.prefix.defaultPrefix",
                 "'ENABLED' or 'DISABLED'", id="switch"),
    pytest.param(entrance({}, kind="grpcRoute"), "spec.grpcRoute.match", "serviceName or hostname", id="grpc-nothing"),
    pytest.param(entrance({"serviceName": "aws.appmesh.x"}, kind="grpcRoute"), "spec.grpcRoute.match", "are reserved",
                 id="grpc-reserved"),
    pytest.param(entrance({"serviceName": "/aws.app-mesh"}, kind="grpcRoute"), "spec.grpcRoute.match", "are reserved",
                 id="grpc-reserved-too"),
    pytest.param({"httpRoute": {"match": {"prefix": "/"}, "action": {}}}, f"{ACT}.target", "required", id="no-target"),
    pytest.param({**entrance(), "priority": 1001}, "spec.priority", "at most 1000", id="priority"),
]  # fmt: skip


@pytest.mark.parametrize(("spec", "field", "rule"), BAD_ROUTES)
def test_each_bound_of_a_route_refuses_what_is_beyond_it(spec: dict[str, Any], field: str, rule: str) -> None:
    error = spec_refusal("route", spec, "p")
    assert (error.field, rule in error.rule) == (field, True), error


@pytest.mark.parametrize(("spec", "field", "rule"), BAD_ENTRANCES)
def test_each_bound_of_a_gateway_route_refuses_what_is_beyond_it(spec: dict[str, Any], field: str, rule: str) -> None:
    error = spec_refusal("gatewayRoute", spec, "p")
    assert (error.field, rule in error.rule) == (field, True), error


def test_a_gateway_has_no_tcp_routes() -> None:
    (warning,) = parsed(create_input("gatewayRoute", "it", {**entrance(), "tcpRoute": {}}, "p")).findings
    assert warning.field == "spec.tcpRoute"


@pytest.mark.parametrize(
    ("spec", "protocol", "port"),
    [(http({"port": 80}), "http", 80), (http(kind="http2Route"), "http2", None), (grpc({"port": 81}), "grpc", 81),
     ({"tcpRoute": {"match": {"port": 82}, "action": ACTION}}, "tcp", 82),
     ({"tcpRoute": {"action": ACTION}}, "tcp", None)],
)  # fmt: skip
def test_a_route_knows_its_protocol_port_and_targets(spec: dict[str, Any], protocol: str, port: int | None) -> None:
    route = made("route", "r", spec, "p")
    assert isinstance(route, Route)
    assert (route.spec.protocol, route.spec.port) == (protocol, port)
    assert [weighted.virtual_node for weighted in route.spec.targets] == ["n"]


@pytest.mark.parametrize("kind", ["httpRoute", "http2Route", "grpcRoute"])
def test_a_gateway_route_knows_its_protocol_and_target(kind: str) -> None:
    match = {"serviceName": "s"} if kind == "grpcRoute" else None
    route = made("gatewayRoute", "r", entrance(match, kind=kind), "p")
    assert isinstance(route, GatewayRoute)
    assert route.spec.protocol == kind.removesuffix("Route")
    assert route.spec.target.virtual_service.virtual_service_name == "s"
