from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.mesh.mesh_objects import gateway, mesh_set, node

from meshca.errors import NotFoundError
from meshca.mesh.forest import MeshSet
from meshca.mesh.model import VIRTUAL_GATEWAY, VIRTUAL_NODE, MeshObject, ObjectKey
from meshca.policy.hostnames import NamesDecision, decide_names, host_names
from meshca.x509.lints import is_host_name

HOSTS = ("a.local", "A.Local.", "b.local", "*.local", "10.0.0.1", "a_b.local", "\u212aelvin.local", "kelvin.local")


def found_at(hostname: str, name: str = "web") -> MeshObject:
    return node(name, serviceDiscovery={"dns": {"hostname": hostname}})


def key(found: MeshSet, name: str = "web") -> ObjectKey:
    (mesh,) = found.meshes()
    return ObjectKey(mesh.name, VIRTUAL_NODE, "", name)


def decide(hostname: str, *asked: str) -> NamesDecision:
    found = mesh_set(found_at(hostname))
    return decide_names(host_names(found, key(found)), asked)


@pytest.mark.parametrize(
    ("hostname", "asked"),
    [("web.local", "web.local"), ("Web.Local", "wEB.local"), ("web.local.", "web.local"), ("web", "web")],
)
def test_a_node_may_have_its_own_host_name_in_lower_case(hostname: str, asked: str) -> None:
    assert decide(hostname, asked).names == (hostname.lower().rstrip("."),)
    assert decide(hostname, asked, asked.upper()).names == (hostname.lower().rstrip("."),)


def test_who_asks_for_none_gets_none() -> None:
    assert decide("web.local") == decide("web.local", *())
    assert (decide("web.local").allowed, decide("web.local").names) == (True, ())


@pytest.mark.parametrize(
    "asked",
    [
        "api.local",
        "*.local",
        "web.local.",
        "x.web.local",
        "local",
        "",
        "web.local\n",
        " web.local",
        "10.0.0.1",
        "w\u00e9b",
    ],
)
def test_it_may_have_no_other_and_is_told_which_it_asked_for(asked: str) -> None:
    decision = decide("web.local", "web.local", asked)
    assert (decision.allowed, decision.names, decision.refused) == (False, (), (asked,))
    assert decision.reason.field == "spec.serviceDiscovery.dns.hostname"
    assert decision.reason.text == "is web.local"


@pytest.mark.parametrize("hostname", ["*.local", "10.0.0.1", "a_b.local", "-a.local", ".", "a..b", "\u212aelvin.local"])
def test_a_spec_that_says_no_host_name_gives_none(hostname: str) -> None:
    decision = decide(hostname, hostname, "kelvin.local")
    assert not decision.allowed
    assert "no host name" in decision.reason.text


def test_a_gateway_and_a_node_without_dns_have_none() -> None:
    cloud = {"awsCloudMap": {"namespaceName": "ns", "serviceName": "web"}}
    found = mesh_set(gateway("door"), node("web", serviceDiscovery=cloud))
    (mesh,) = found.meshes()
    door = host_names(found, ObjectKey(mesh.name, VIRTUAL_GATEWAY, "", "door"))
    assert not decide_names(door, ["door.local"]).allowed
    assert "gateway" in door.reason.text
    web = host_names(found, key(found))
    assert (web.names, web.reason.text) == (frozenset(), "is not set")
    with pytest.raises(NotFoundError):
        host_names(found, key(found, "ghost"))


def test_two_nodes_of_one_host_name_may_both_have_it() -> None:
    found = mesh_set(found_at("web.local", "v1"), found_at("WEB.local", "v2"))
    for name in ("v1", "v2"):
        assert decide_names(host_names(found, key(found, name)), ["web.local"]).names == ("web.local",)


@given(
    st.lists(st.sampled_from(HOSTS), min_size=2, max_size=4),
    st.lists(st.sampled_from(HOSTS) | st.text(max_size=12), max_size=4),
)
def test_nobody_gets_a_name_of_another_node(hosts: list[str], asked: list[str]) -> None:
    found = mesh_set(*(found_at(host, f"n{number}") for number, host in enumerate(hosts)))
    for number, host in enumerate(hosts):
        decision: Any = decide_names(host_names(found, key(found, f"n{number}")), asked)
        own = host.rstrip(".").lower()
        assert set(decision.names) <= {own}
        assert all(is_host_name(name) for name in decision.names)
        assert decision.allowed == (not decision.refused)
        if decision.allowed:
            assert all(text.isascii() and text.lower() == own for text in asked)
        others = {other.rstrip(".").lower() for other in hosts} - {own}
        assert not decision.allowed or others.isdisjoint(text.lower() for text in asked)
