from __future__ import annotations

from typing import Any

import pytest
from envoy_meshes import entry, made, messages, snapshot

from meshca.envoy.placement import Placement


def _found(mesh: str | None, own: str | None, placement: Placement | None = None) -> dict[str, Any]:
    dns = {"hostname": "own.local", **({"ipPreference": own} if own else {})}
    node = made("virtualNode", "own", {"listeners": [entry(80)], "serviceDiscovery": {"dns": dns}})
    spec = {"serviceDiscovery": {"ipPreference": mesh}} if mesh else {}
    return messages(snapshot(node, mesh=spec), "own", placement)


@pytest.mark.parametrize(
    ("mesh", "own", "host", "app"),
    [
        (None, None, "0.0.0.0", "127.0.0.1"),
        ("IPv4_ONLY", None, "0.0.0.0", "127.0.0.1"),
        ("IPv4_PREFERRED", None, "::", "127.0.0.1"),
        ("IPv6_PREFERRED", None, "::", "::1"),
        ("IPv6_ONLY", None, "::", "::1"),
        ("IPv6_ONLY", "IPv4_ONLY", "0.0.0.0", "127.0.0.1"),
        (None, "IPv6_ONLY", "::", "::1"),
    ],
)
def test_a_preference_decides_where_to_listen_and_where_the_application_is(
    mesh: str | None, own: str | None, host: str, app: str
) -> None:
    found = _found(mesh, own)
    socket = found[f"lds_ingress_{host}_80"].address.socket_address
    assert (socket.address, socket.ipv4_compat) == (host, host == "::")
    (endpoint,) = found["cds_ingress_demo_own_http_80"].load_assignment.endpoints[0].lb_endpoints
    assert endpoint.endpoint.address.socket_address.address == app


def test_an_operators_choice_is_left_alone() -> None:
    found = _found("IPv6_ONLY", None, Placement.parse("127.0.0.9", app="127.0.0.8"))
    assert "lds_ingress_127.0.0.9_80" in found
    (endpoint,) = found["cds_ingress_demo_own_http_80"].load_assignment.endpoints[0].lb_endpoints
    assert endpoint.endpoint.address.socket_address.address == "127.0.0.8"
