"""deploy/interception: what the script makes of its variables. What that does to traffic, the kernel says (e2e)."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

_SCRIPT = Path(__file__).parents[3] / "deploy/interception/meshca-intercept"


def _rules(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [_SCRIPT, *(arguments or ("rules",))], capture_output=True, text=True, check=False, timeout=10,
        env={"PATH": os.environ["PATH"], **environment}, cwd="/",
    )  # fmt: skip


def test_app_mesh_defaults() -> None:
    rules = _rules(APPMESH_IGNORE_UID="1337", APPMESH_APP_PORTS="9080").stdout
    assert "tcp dport { 9080 } redirect to :15000" in rules
    assert "redirect to :15001" in rules
    assert "tcp dport { 22 } accept" in rules
    assert "169.254.169.254" in rules
    assert "169.254.170.2," in rules, "the credentials of ECS tasks"


@pytest.mark.parametrize("none", ["", "0", " "])
def test_no_application_ports(none: str) -> None:
    assert "redirect to :15000" not in _rules(APPMESH_IGNORE_UID="1337", APPMESH_APP_PORTS=none).stdout


def test_lists_as_people_write_them() -> None:
    rules = _rules(APPMESH_IGNORE_UID="1337, envoy,", APPMESH_EGRESS_IGNORED_PORTS=" 443,,8443 ").stdout
    assert "meta skuid { 1337,envoy } accept" in rules
    assert "tcp dport { 22,443,8443 } accept" in rules


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("APPMESH_IGNORE_UID", ""),
        ("APPMESH_IGNORE_UID", "1337 }; accept; #"),
        ("APPMESH_IGNORE_UID", "1337\n1338"),
        ("APPMESH_IGNORE_GID", "-1"),
        ("APPMESH_APP_PORTS", "0,8080"),
        ("APPMESH_APP_PORTS", "65536"),
        ("APPMESH_APP_PORTS", "8080-8090"),
        ("APPMESH_APP_PORTS", "08080"),
        ("APPMESH_APP_PORTS", "*"),
        ("APPMESH_ENVOY_INGRESS_PORT", "http"),
        ("APPMESH_ENVOY_EGRESS_PORT", "15001 accept"),
        ("APPMESH_EGRESS_IGNORED_PORTS", "22;flush ruleset"),
        ("APPMESH_EGRESS_IGNORED_IP", "example.com"),
        ("APPMESH_EGRESS_IGNORED_IP", "10.0.0.0/8 } accept #"),
        ("APPMESH_EGRESS_IGNORED_IP", "10.0.0.1\nflush ruleset"),
        ("APPMESH_ENABLE_IPV6", "yes"),
    ],
)
def test_a_value_that_is_none_is_named_and_nothing_is_done(variable: str, value: str) -> None:
    done = _rules(**{"APPMESH_IGNORE_UID": "1337", variable: value})
    assert done.returncode == 2
    assert done.stdout == ""
    assert variable in done.stderr


@pytest.mark.parametrize("arguments", [("on",), ("enable", "now"), ("",)])
def test_unknown_commands(arguments: tuple[str, ...]) -> None:
    assert _rules(*arguments, APPMESH_IGNORE_UID="1337").returncode == 2


def test_an_init_container_that_was_not_told_to_start_fails() -> None:
    done = subprocess.run([_SCRIPT], capture_output=True, text=True, check=False, env={"PATH": os.environ["PATH"]})
    assert done.returncode == 2
    assert "APPMESH_START_ENABLED" in done.stderr
