"""Bounds that App Mesh leaves open, and Envoy does not."""

from __future__ import annotations

from typing import Any

import pytest
from unit.mesh.mesh_objects import create_input, listener, parsed, spec_refusal

ACTION = {"weightedTargets": [{"virtualNode": "n", "weight": 1}]}
TARGET = {"target": {"virtualService": {"virtualServiceName": "s"}}}


def route(match: Any = None, **fields: Any) -> dict[str, Any]:
    return {"httpRoute": {"match": match or {"prefix": "/"}, "action": ACTION, **fields}}


def retrying(retries: int, unit: str = "s", value: int = 1) -> dict[str, Any]:
    return route(retryPolicy={"maxRetries": retries, "perRetryTimeout": {"unit": unit, "value": value}})


def header(name: str) -> dict[str, Any]:
    return route({"prefix": "/", "headers": [{"name": name}]})


def hosted(**hostname: str) -> dict[str, Any]:
    return {"httpRoute": {"match": {"hostname": hostname}, "action": TARGET}}


def found(**discovery: Any) -> dict[str, Any]:
    return {"serviceDiscovery": discovery}


@pytest.mark.parametrize(
    ("kind", "spec", "field", "rule"),
    [
        ("route", retrying(2**32), "retryPolicy.maxRetries", "at most 4294967295"),
        ("route", retrying(1, value=315_576_000_001), "perRetryTimeout.value", "at most 315576000000"),
        ("route", header("a b"), "headers[0].name", "no name of a header"),
        ("route", header("a\n"), "headers[0].name", "no name of a header"),
        ("virtualNode", {"listeners": [listener(connectionPool={"http": {"maxConnections": 2**32}})]},
         "http.maxConnections", "at most 4294967295"),
        ("virtualNode", found(dns={"hostname": "a b"}), "dns.hostname", "no space, slash or control"),
        ("virtualNode", found(dns={"hostname": "a/b"}), "dns.hostname", "no space, slash or control"),
        ("virtualNode", found(dns={"hostname": "a\x00"[:1] + "\x1f"}), "dns.hostname", "no space, slash or control"),
        ("virtualNode", found(awsCloudMap={"namespaceName": "n", "serviceName": "s\n"}), "awsCloudMap.serviceName",
         "no space, slash or control"),
        ("gatewayRoute", hosted(exact="*.shop.test"), "hostname.exact", "holds no *"),
        ("gatewayRoute", hosted(suffix="*"), "hostname.suffix", "holds no *"),
        ("gatewayRoute", hosted(suffix="x" * 254), "hostname.suffix", "at most 253 characters"),
        ("gatewayRoute", hosted(exact="a\r\nb"), "hostname.exact", "no space, slash or control"),
    ],
)  # fmt: skip
def test_what_envoy_would_refuse_is_refused(kind: str, spec: Any, field: str, rule: str) -> None:
    error = spec_refusal(kind, spec, "p" if kind.lower().endswith("route") else "")
    assert error.field.endswith(field)
    assert rule in error.rule


@pytest.mark.parametrize(
    ("kind", "spec"),
    [
        ("route", retrying(2**32 - 1, value=315_576_000_000)),
        ("route", header(":authority")),
        ("gatewayRoute", hosted(suffix=".shop.test")),
        ("virtualNode", found(dns={"hostname": "web_1.shop.local"})),
    ],
)
def test_what_lies_within_is_taken(kind: str, spec: Any) -> None:
    (item,) = parsed(create_input(kind, "it", spec, "p" if kind.lower().endswith("route") else "")).objects
    assert item.spec.plain() == spec
