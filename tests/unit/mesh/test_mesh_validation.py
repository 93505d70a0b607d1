from __future__ import annotations

from typing import Any

import pytest
from unit.mesh.mesh_objects import (
    backend,
    client_policy,
    create_input,
    key,
    listener,
    mutual,
    parsed,
    refusal,
    refusals,
)

SAN = {"match": {"exact": ["spiffe://m.test/x"]}}


def with_tls(**changes: Any) -> dict[str, Any]:
    return {"listeners": [listener(tls={**mutual(), **changes})]}


def with_policy(**changes: Any) -> dict[str, Any]:
    return {"backends": [backend("s", clientPolicy=client_policy(**changes))]}


@pytest.mark.parametrize(
    ("spec", "field", "remedy"),
    [
        pytest.param(
            with_tls(subjectAlternativeNames=SAN), "spec.listeners[0].tls.subjectAlternativeNames",
            "remove it, or move it to its place", id="names-one-level-too-high",
        ),
        pytest.param(
            with_policy(subjectAlternativeNames=SAN),
            "spec.backends[0].virtualService.clientPolicy.tls.subjectAlternativeNames",
            "remove it, or move it to its place", id="names-of-a-client-one-level-too-high",
        ),
        pytest.param(
            with_policy(mode="STRICT"), "spec.backends[0].virtualService.clientPolicy.tls.mode",
            "remove it, or move it to its place", id="mode-of-a-listener",
        ),
        pytest.param(
            with_tls(validaton={}), "spec.listeners[0].tls.validaton", "did you mean validation?", id="misspelt",
        ),
        pytest.param(
            with_tls(zzz=1), "spec.listeners[0].tls.zzz", "remove it, or move it to its place", id="anything-under-tls",
        ),
        pytest.param(
            with_tls(validation={**mutual()["validation"], "x": 1}), "spec.listeners[0].tls.validation.x",
            "remove it, or move it to its place", id="anything-under-validation",
        ),
        pytest.param({"listeners": [listener(TLS=mutual())]}, "spec.listeners[0].TLS", "",
                     id="cloudformation-spelling"),
        pytest.param({"tls": mutual()}, "spec.tls", "", id="tls-of-no-listener"),
        pytest.param({"backendDefault": {}}, "spec.backendDefault", "did you mean backendDefaults?", id="defaults"),
        pytest.param(
            {"backends": [backend("s", clientpolicy={})]}, "spec.backends[0].virtualService.clientpolicy", "",
            id="policy-in-lower-case",
        ),
        pytest.param({"enforce": True}, "spec.enforce", "", id="enforce"),
    ],
)  # fmt: skip
def test_a_slip_that_would_weaken_tls_is_refused(spec: dict[str, Any], field: str, remedy: str) -> None:
    error = refusal(create_input("virtualNode", "n", spec))
    assert "App Mesh knows no key" in error.rule
    assert repr(field.rpartition(".")[2]) in error.rule
    assert (error.object, error.field) == (str(key("n")), field)
    assert error.remedy
    assert remedy in error.remedy


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"hostName": "x"}, "spec.hostName"),
        ({"listeners": [listener(nickname="x")]}, "spec.listeners[0].nickname"),
        ({"x" * 65: 1}, f"spec.{'x' * 65}"),
        ({"": 1}, "spec."),
        ({"serviceDiscovery": {"dns": {"hostname": "h", "portName": 1}}}, "spec.serviceDiscovery.dns.portName"),
    ],
)
def test_any_other_unknown_key_is_ignored_with_a_warning(spec: dict[str, Any], field: str) -> None:
    found = parsed(create_input("virtualNode", "n", spec))
    (warning,) = found.findings
    assert (warning.severity, warning.field) == ("warning", field)
    assert "it is ignored" in warning.rule
    assert warning.remedy
    assert field.rpartition(".")[2] not in _keys(found.objects[0].spec.plain())


def _keys(plain: Any) -> set[str]:
    if isinstance(plain, list):
        return set().union(*map(_keys, plain))
    return set(plain).union(*map(_keys, plain.values())) if isinstance(plain, dict) else set()


def test_a_fault_in_the_only_member_of_a_list_is_one_finding() -> None:
    gateway = refusal(create_input("virtualGateway", "g", {"listeners": [listener(0)]}))
    assert gateway.field == "spec.listeners[0].portMapping.port"
    targets = {"tcpRoute": {"action": {"weightedTargets": [{"virtualNode": "n", "weight": 101}]}}}
    assert refusal(create_input("route", "r", targets, "p")).rule == "at most 100 is allowed"


def test_unknown_keys_do_not_hide_the_rest() -> None:
    spec = {"hostName": "x", "listeners": [listener(0, tls={**mutual(), "x": 1, "mode": "strict"}, nick="y")]}
    errors = refusals(create_input("virtualNode", "n", spec))
    assert [error.field for error in errors] == [
        "spec.listeners[0].tls.x",
        "spec.listeners[0].portMapping.port",
        "spec.listeners[0].tls.mode",
    ]


def test_an_unknown_key_inside_an_unknown_key_is_one_finding() -> None:
    assert len(parsed(create_input("virtualNode", "n", {"a": {"tls": {"b": 1}}})).findings) == 1


HEALTH = {"protocol": "http", "healthyThreshold": 2, "unhealthyThreshold": 2, "intervalMillis": 5000,
          "timeoutMillis": 2000}  # fmt: skip


@pytest.mark.parametrize(
    ("spec", "field", "rule", "value", "remedy"),
    [
        pytest.param(
            {"listeners": [listener(protocol="udp")]}, "spec.listeners[0].portMapping.protocol",
            "one of 'http', 'http2', 'grpc' or 'tcp' is needed", "udp", "", id="enum",
        ),
        pytest.param(
            {"listeners": [{"portMapping": {"port": "80", "protocol": "http"}}]},
            "spec.listeners[0].portMapping.port", "a whole number is needed", "80",
            "write the number without quotes", id="number-in-quotes",
        ),
        pytest.param(
            {"listeners": [{"portMapping": {"port": True, "protocol": "http"}}]},
            "spec.listeners[0].portMapping.port", "a whole number is needed", "True", "", id="switch-as-number",
        ),
        pytest.param(
            {"listeners": [{"portMapping": {"port": 80.0, "protocol": "http"}}]},
            "spec.listeners[0].portMapping.port", "a whole number is needed", "80.0", "", id="float",
        ),
        pytest.param(
            {"listeners": [{"portMapping": {"protocol": "http"}}]}, "spec.listeners[0].portMapping.port",
            "this key is required", "", "", id="missing",
        ),
        pytest.param({"listeners": [5]}, "spec.listeners[0]", "a mapping is needed", "5", "", id="no-mapping"),
        pytest.param({"listeners": {}}, "spec.listeners", "a list is needed", "", "", id="no-list"),
        pytest.param({"listeners": "http"}, "spec.listeners", "a list is needed", "http", "", id="text-as-list"),
        pytest.param({"listeners": None}, "spec.listeners", "a list is needed", "", "", id="null-as-list"),
        pytest.param(
            with_policy(enforce="no"), "spec.backends[0].virtualService.clientPolicy.tls.enforce",
            "true or false is needed", "no", "", id="no-switch",
        ),
        pytest.param(
            with_policy(enforce=0), "spec.backends[0].virtualService.clientPolicy.tls.enforce",
            "true or false is needed", "0", "", id="number-as-switch",
        ),
        pytest.param(
            {"serviceDiscovery": {"dns": {"hostname": 5}}}, "spec.serviceDiscovery.dns.hostname", "text is needed", "5",
            "", id="number-as-text",
        ),
        pytest.param(
            {"serviceDiscovery": {"dns": {"hostname": ""}}}, "spec.serviceDiscovery.dns.hostname",
            "at least 1 characters are needed", "", "", id="empty",
        ),
        pytest.param(
            {"serviceDiscovery": {}}, "spec.serviceDiscovery",
            "exactly one of dns, awsCloudMap is needed, none is there", "", "", id="empty-union",
        ),
        pytest.param(
            {"listeners": [listener(healthCheck={**HEALTH, "port": 81})]}, "spec.listeners[0]",
            "healthCheck.port must equal portMapping.port 80", "", "", id="rule-of-a-whole",
        ),
        pytest.param(
            {"listeners": [listener(), listener()]}, "spec", "the same listener port twice: 80", "", "", id="root",
        ),
        pytest.param([], "spec", "a mapping is needed", "", "", id="list-as-spec"),
    ],
)  # fmt: skip
def test_a_broken_rule_names_field_value_and_remedy(spec: Any, field: str, rule: str, value: str, remedy: str) -> None:
    error = refusal(create_input("virtualNode", "n", spec))
    assert (error.field, error.rule, error.value, error.remedy) == (field, rule, value, remedy)
    assert error.object == str(key("n"))
    assert error.file == "a.json"
