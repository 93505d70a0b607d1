from __future__ import annotations

from typing import Any

import pytest
from unit.mesh.mesh_objects import (
    backend,
    client_policy,
    gateway,
    gateway_route,
    key,
    listener,
    mutual,
    node,
    route,
    router,
    service,
    spiffe_id,
    target,
)
from unit.policy.policy_meshes import policy_of

from meshca.mesh.model import VIRTUAL_GATEWAY, MeshObject
from meshca.policy.decision import Decision, Reason

WEB, PAY, ALONE = (spiffe_id(name) for name in ("web", "pay", "alone"))
PAYS = service("s", node="pay")


def can(*objects: MeshObject, client: str = "web", server: str = "pay", port: int | None = None) -> Decision:
    kind = VIRTUAL_GATEWAY if client == "door" else "virtualNode"
    return policy_of(*objects).can(key(client, kind), key(server), port)


def calling(**policy: Any) -> MeshObject:
    return node("web", backends=[backend("s", clientPolicy=client_policy(**policy))])


def serving(*ports: int, **tls: Any) -> MeshObject:
    return node("pay", listeners=tuple(listener(port, **tls) for port in ports or (80,)))


def test_a_yes_carries_the_whole_chain() -> None:
    decision = can(node("web", "s"), serving(tls=mutual(WEB)), PAYS)
    assert decision == Decision(
        True,
        WEB,
        PAY,
        (
            Reason(str(key("web")), "spec.backends[0].virtualService", "calls s"),
            Reason("mesh/shop/virtualService/s", "spec.provider.virtualNode", f"s is provided by {key('pay')}"),
            Reason(
                str(key("web")),
                "spec.backends[0].virtualService",
                f"admits {PAY} as a server of s: it names nobody, and the mesh leads to it",
            ),
            Reason(
                str(key("pay")),
                "spec.listeners[0].tls.validation.subjectAlternativeNames",
                f"admits {WEB} as a client on port 80: it names it",
            ),
        ),
    )


def test_a_way_through_a_router_names_route_target_and_weight() -> None:
    decision = can(
        node("web", "s"), serving(80, 81), node("alone"), router("r"), service("s", router="r"),
        route("r", "x", target("alone"), target("pay", weight=0, port=81)),
    )  # fmt: skip
    assert decision.allowed
    assert decision.reasons[1] == Reason(
        "mesh/shop/virtualService/s", "spec.provider.virtualRouter", "s is provided by router r"
    )
    assert decision.reasons[2] == Reason(
        "mesh/shop/virtualRouter/r/route/x",
        "spec.httpRoute.action.weightedTargets[1]",
        f"leads to {key('pay')} port 81 with weight 0",
    )


def test_a_way_through_a_gateway_names_its_route() -> None:
    decision = can(serving(), PAYS, service("t"), gateway(), gateway_route("a", "t"), gateway_route("b", "s"),
                   client="door")  # fmt: skip
    assert decision.allowed
    assert decision.reasons[0] == Reason(
        "mesh/shop/virtualGateway/door/gatewayRoute/b",
        "spec.httpRoute.action.target.virtualService",
        "leads from gateway door to s",
    )


def texts(decision: Decision) -> str:
    return "\n".join(reason.text for reason in decision.reasons)


def test_a_no_without_a_way_names_what_the_client_calls() -> None:
    decision = can(node("web", "t"), serving(), PAYS, service("t"))
    assert not decision.allowed
    assert decision.reasons[0] == Reason(
        str(key("web")), "spec.backends", f"none of its services leads to {key('pay')} on port 80 (it calls: t)"
    )
    assert "the mesh does not lead here from it" in decision.reasons[1].text


def test_a_no_of_a_gateway_without_routes_says_so() -> None:
    decision = can(serving(), PAYS, gateway(), client="door")
    assert (decision.reasons[0].field, decision.reasons[0].text.endswith("(it calls: none)")) == ("gatewayRoutes", True)


@pytest.mark.parametrize(("port", "text"), [(None, "has no listener"), (80, "has no listener on port 80")])
def test_a_no_without_a_listener_is_short(port: int | None, text: str) -> None:
    decision = can(node("web", "s"), node("pay", listeners=()), PAYS, port=port)
    assert decision == Decision(False, WEB, PAY, (Reason(str(key("pay")), "spec.listeners", text),))


def test_a_port_that_is_asked_for_is_the_only_one_looked_at() -> None:
    objects = (
        node("web", "s"), router("r"), service("s", router="r"), serving(80, 81),
        route("r", "x", target("pay", port=81)),
    )  # fmt: skip
    assert can(*objects).allowed
    assert can(*objects, port=81).allowed
    refused = can(*objects, port=80)
    assert not refused.allowed
    assert "on port 80" in refused.reasons[0].text
    assert not can(*objects, port=82).allowed


@pytest.mark.parametrize(
    ("client", "server", "text"),
    [
        pytest.param(node("web", "s"), serving(tls=mutual(ALONE)),
                     f"refuses {WEB} as a client on port 80: it names others only", id="server"),
        pytest.param(node("web", backends=[backend("s", clientPolicy=client_policy(ALONE))]), serving(),
                     f"refuses {PAY} as a server of s: it names others only", id="client"),
    ],
)  # fmt: skip
def test_a_no_says_which_side_refuses(client: MeshObject, server: MeshObject, text: str) -> None:
    decision = can(client, server, PAYS)
    assert not decision.allowed
    assert text in texts(decision)
    assert len([reason for reason in decision.reasons if reason.text.startswith("refuses")]) == 1


def test_a_no_shows_every_way_and_each_reason_once() -> None:
    decision = can(node("web", "s", "t"), serving(tls=mutual(ALONE)), PAYS, service("t", node="pay"))
    shown = texts(decision)
    assert "calls s" in shown
    assert "calls t" in shown
    assert len(set(decision.reasons)) == len(decision.reasons)
    assert shown.count("as a client on port 80") == 1


def test_a_yes_shows_the_way_that_is_open_alone() -> None:
    client = node("web", backends=[backend("s", clientPolicy=client_policy(ALONE)), backend("t")])
    decision = can(client, serving(), PAYS, service("t", node="pay"))
    assert decision.allowed
    assert "calls t" in texts(decision)
    assert "calls s" not in texts(decision)


def test_what_nothing_enforces_is_said_beside_the_answer() -> None:
    assert "; nothing enforces it: the listener has no TLS" in texts(can(node("web", "s"), serving(), PAYS))
    assert "nothing enforces" not in texts(can(node("web", "s"), serving(tls=mutual()), PAYS))
    assert "; enforce is false: a server without TLS is called without TLS" in texts(
        can(calling(enforce=False), serving(), PAYS)
    )


@pytest.mark.parametrize(
    ("client", "tls", "said"),
    [
        pytest.param(calling(), {}, True, id="no-tls"),
        pytest.param(calling(), {"tls": mutual(mode="DISABLED")}, True, id="disabled"),
        pytest.param(calling(ports=[80]), {}, True, id="its-port"),
        pytest.param(calling(), {"tls": mutual()}, False, id="strict"),
        pytest.param(calling(), {"tls": mutual(mode="PERMISSIVE")}, False, id="permissive"),
        pytest.param(calling(enforce=False), {}, False, id="not-enforced"),
        pytest.param(calling(ports=[81]), {}, False, id="another-port"),
        pytest.param(node("web", "s"), {}, False, id="no-policy"),
    ],
)
def test_tls_that_would_not_come_about_is_said(client: MeshObject, tls: dict[str, Any], said: bool) -> None:
    decision = can(client, serving(**tls), PAYS)
    assert decision.allowed
    assert ("port 80 of pay has none: the handshake would fail" in texts(decision)) == said
    if said:
        assert decision.reasons[-1].field == "spec.backends[0].virtualService.clientPolicy.tls.enforce"


def test_of_two_ports_of_one_target_the_one_asked_for_is_named() -> None:
    decision = can(
        node("web", "s"), serving(80, 81), router("r"), service("s", router="r"),
        route("r", "x", target("pay", port=80), target("pay", port=81)), port=81,
    )  # fmt: skip
    assert decision.reasons[2].field == "spec.httpRoute.action.weightedTargets[1]"
