"""deploy/interception on the real kernel: who is redirected where, and what does not pass by.

Two hosts of the test's own on one wire. What listens on 15000 and 15001 says where a connection was going, which is
what Envoy's original_dst filter asks the kernel.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from harness.network import REFUSED, Host, wire

if TYPE_CHECKING:
    from collections.abc import Iterator

_SCRIPT = Path(__file__).parents[2] / "deploy/interception/meshca-intercept"
_ENVOY, _AGENT, _SOMEBODY = 1337, 1338, 2000
_USUAL = {"APPMESH_IGNORE_UID": str(_ENVOY), "APPMESH_APP_PORTS": "8080,8081"}


class Pair:
    """A host with an application behind interception, and a neighbour."""

    def __init__(self, app: Host, neighbour: Host) -> None:
        self.app, self.neighbour = app, neighbour
        self.elsewhere = neighbour.address.rpartition(".")[0] + ".99"

    def intercept(self, command: str = "enable", **environment: str) -> int:
        return self.app.run(_SCRIPT, command, **environment).returncode

    def out(self, port: int = 9090, *, to: str = "", uid: int = _SOMEBODY, gid: int = 0) -> str:
        return self.app.call(to or self.neighbour.address, port, uid=uid, gid=gid)

    def enter(self, port: int, *, to: str = "") -> str:
        return self.neighbour.call(to or self.app.address, port)


@pytest.fixture(scope="module")
def hosts() -> Iterator[Pair]:
    with wire() as (app, neighbour), contextlib.ExitStack() as closing:
        pair = Pair(app, neighbour)
        assert neighbour.run("ip", "address", "add", f"{pair.elsewhere}/24", "dev", "eth0").returncode == 0
        listeners = [app.listen(port, str(port), intercepts=True) for port in (15000, 15001)]
        listeners += [app.listen(port, "app") for port in (8080, 8081, 8099)]
        listeners += [neighbour.listen(port, "neighbour") for port in (9090, 9091, 22)]
        for listener in listeners:
            closing.callback(listener.close)
        yield pair


@pytest.fixture
def pair(hosts: Pair) -> Iterator[Pair]:
    yield hosts
    hosts.intercept("disable")


def test_without_rules_everything_goes_where_it_was_going(pair: Pair) -> None:
    assert pair.out() == "neighbour"
    assert pair.enter(8080) == "app"
    assert pair.intercept("status") == 1


def test_calls_go_to_envoy_and_come_from_envoy(pair: Pair) -> None:
    assert pair.intercept(**_USUAL) == 0
    assert pair.intercept("status") == 0

    assert pair.out(9090) == f"15001 for {pair.neighbour.address} 9090"
    assert pair.enter(8080) == f"15000 for {pair.app.address} 8080"
    assert pair.enter(8081) == f"15000 for {pair.app.address} 8081"
    # Envoy itself, SSH, what stays on this host, and ports on which no application listens.
    assert pair.out(9090, uid=_ENVOY) == "neighbour"
    assert pair.out(22) == "neighbour"
    assert pair.out(8080, to=pair.app.address) == "app"
    assert pair.out(8080, to="127.0.0.1") == "app"
    assert pair.enter(8099) == "app"


def test_nobody_reaches_the_egress_port_from_outside(pair: Pair) -> None:
    assert pair.enter(15001).startswith("15001")
    assert pair.intercept(**_USUAL) == 0
    assert pair.enter(15001) == REFUSED
    assert pair.enter(15001, to=pair.app.address6) == REFUSED


def test_ports_addresses_users_and_groups_are_ignored_as_told(pair: Pair) -> None:
    redirected = f"15001 for {pair.neighbour.address} 9090"
    network = pair.elsewhere.rpartition(".")[0]
    told = {
        "APPMESH_IGNORE_UID": f"{_ENVOY}, {_AGENT}",
        "APPMESH_IGNORE_GID": "777",
        "APPMESH_EGRESS_IGNORED_PORTS": "9091",
        "APPMESH_EGRESS_IGNORED_IP": f"169.254.169.254,{network}.96/29",
    }
    assert pair.intercept(**told) == 0

    assert pair.out() == redirected
    assert pair.out(uid=_ENVOY) == pair.out(uid=_AGENT) == pair.out(gid=777) == "neighbour"
    assert pair.out(9091) == pair.out(22) == "neighbour"
    assert pair.out(to=pair.elsewhere) == "neighbour"
    assert pair.enter(8080) == "app", "no APPMESH_APP_PORTS: nothing comes in through Envoy"


def test_ipv6_is_redirected_or_refused_and_never_passes_by(pair: Pair) -> None:
    there, here = pair.neighbour.address6, pair.app.address6
    assert pair.intercept(**_USUAL) == 0
    assert pair.out(to=there) == pair.enter(8080, to=here) == REFUSED
    assert pair.out(to=there, uid=_ENVOY) == pair.out(22, to=there) == "neighbour"
    assert pair.enter(8099, to=here) == "app"

    assert pair.intercept(**_USUAL, APPMESH_ENABLE_IPV6="1") == 0
    assert pair.out(to=there) == f"15001 for {there} 9090"
    assert pair.enter(8080, to=here) == f"15000 for {here} 8080"
    assert pair.out() == f"15001 for {pair.neighbour.address} 9090"


def test_other_ports_for_envoy_and_an_init_container(pair: Pair) -> None:
    ports = {"APPMESH_ENVOY_INGRESS_PORT": "15001", "APPMESH_ENVOY_EGRESS_PORT": "15000"}
    started = pair.app.run(_SCRIPT, **_USUAL, **ports, APPMESH_START_ENABLED="1")
    assert started.returncode == 0, started.stderr
    assert pair.out().startswith("15000")
    assert pair.enter(8080).startswith("15001")


def test_a_refused_change_leaves_the_rules_that_there_are(pair: Pair) -> None:
    assert pair.intercept(**_USUAL) == 0
    for wrong in ({"APPMESH_APP_PORTS": "8080;"}, {"APPMESH_EGRESS_IGNORED_IP": "300.1.1.1"}):
        assert pair.intercept(**{**_USUAL, **wrong}) != 0
    assert pair.out().startswith("15001")

    assert pair.intercept("disable") == 0
    assert pair.intercept("disable") == 0, "twice is no error"
    assert pair.out() == "neighbour"
