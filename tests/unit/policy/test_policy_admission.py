from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from unit.mesh.mesh_objects import (
    GATEWAY_ID,
    backend,
    client_policy,
    examples,
    gateway,
    gateway_route,
    key,
    listener,
    made,
    mutual,
    node,
    route,
    router,
    service,
    spiffe_id,
    target,
)
from unit.policy.policy_meshes import NODES, OWN, PORTS, SERVICES, Brute, meshes, policy_of

from meshca.errors import NotFoundError
from meshca.mesh.model import VIRTUAL_GATEWAY, VIRTUAL_SERVICE, MeshObject
from meshca.policy.admission import Permission, Policy

WEB, PAY, ALONE = (spiffe_id(name) for name in ("web", "pay", "alone"))
DOOR = key("door", VIRTUAL_GATEWAY)
BOTH = (listener(80), listener(81))


def shop(tls: dict[str, Any] | None = None, caller: MeshObject | None = None, *more: MeshObject) -> Policy:
    """Return web → pay.local → pay, and one that calls nobody."""
    serving = node("pay", listeners=(listener(80) if tls is None else listener(80, tls=tls),))
    return policy_of(
        caller or node("web", "pay.local"), serving, node("alone"), service("pay.local", node="pay"), *more
    )


# -- default deny


def test_a_client_without_a_path_is_never_admitted() -> None:
    policy = shop()
    assert policy.calls == {Permission(WEB, PAY, 80)}
    assert policy.admitted_clients(key("pay"), 80) == {WEB}
    assert policy.admitted_clients(key("web"), 80) == set()
    assert policy.admitted_clients(key("alone"), 80) == set()


@pytest.mark.parametrize(("server", "port"), [("pay", 81), ("gone", 80), ("", 0)])
def test_a_listener_that_is_not_there_admits_nobody(server: str, port: int) -> None:
    assert shop().admitted_clients(key(server), port) == set()


@pytest.mark.parametrize(("client", "called"), [("alone", "pay.local"), ("web", "other"), ("gone", "pay.local")])
def test_a_service_that_is_not_called_has_no_servers(client: str, called: str) -> None:
    assert shop().admitted_servers(key(client), called) == set()


def test_an_empty_mesh_allows_nothing() -> None:
    assert (policy_of().calls, policy_of().listeners, policy_of().backends) == (frozenset(), {}, {})


def test_an_egress_filter_is_no_backend() -> None:
    found = shop().mesh_set.with_applied([made("mesh", "shop", {"egressFilter": {"type": "ALLOW_ALL"}})])
    assert policy_of(*(item for item in found.objects.values() if item.kind != "mesh")).calls == shop().calls


def test_calling_is_not_mutual() -> None:
    policy = shop()
    assert not policy.can(key("pay"), key("web")).allowed
    assert policy.admitted_servers(key("pay"), "web") == set()


# -- S1 and S2: whom a listener admits


@pytest.mark.parametrize(
    ("tls", "admitted", "named", "field"),
    [
        pytest.param(None, {WEB}, False, "spec.listeners[0]", id="no-tls"),
        pytest.param({**mutual(), "validation": None}, {WEB}, False, "spec.listeners[0]", id="no-validation"),
        pytest.param(mutual(), {WEB}, False, "spec.listeners[0].tls.validation", id="no-names"),
        pytest.param(mutual(WEB), {WEB}, True, "spec.listeners[0].tls.validation.subjectAlternativeNames", id="it"),
        pytest.param(mutual(ALONE), {ALONE}, True, "spec.listeners[0].tls.validation.subjectAlternativeNames",
                     id="another"),
        pytest.param(mutual("web.local"), set(), True, "spec.listeners[0].tls.validation.subjectAlternativeNames",
                     id="dns"),
    ],
)  # fmt: skip
def test_a_listener_admits_the_names_it_lists_or_whoever_reaches_it(
    tls: dict[str, Any] | None, admitted: set[Any], named: bool, field: str
) -> None:
    policy = shop(tls)
    found = policy.listeners[key("pay"), 80]
    assert found.ids == admitted
    assert (found.named, found.field) == (named, field)
    assert policy.calls == ({Permission(WEB, PAY, 80)} if WEB in admitted else set())


def test_to_be_named_is_not_to_call() -> None:
    policy = shop(mutual(WEB, ALONE))
    assert policy.admitted_clients(key("pay"), 80) == {WEB, ALONE}
    assert not policy.can(key("alone"), key("pay")).allowed
    assert policy.calls == {Permission(WEB, PAY, 80)}


def test_names_that_match_nobody_are_warned_of() -> None:
    policy = shop(mutual("web.local"))
    assert [finding.object for finding in policy.findings] == [str(key("pay"))] * 2
    assert policy.findings[0].value == "web.local"


@pytest.mark.parametrize(
    ("tls", "enforced", "remark"),
    [
        (None, False, "the listener has no TLS"),
        (mutual(mode="DISABLED"), False, "the listener has no TLS"),
        ({**mutual(), "validation": None}, False, "without validation no client certificate is asked for"),
        (mutual(mode="PERMISSIVE"), False, "mode PERMISSIVE lets anybody in without TLS"),
        (mutual(WEB, mode="PERMISSIVE"), False, "mode PERMISSIVE lets anybody in without TLS"),
        (mutual(), True, ""),
        (mutual(WEB), True, ""),
    ],
)
def test_what_nothing_enforces_is_said(tls: dict[str, Any] | None, enforced: bool, remark: str) -> None:
    policy = shop(tls)
    assert policy.enforced(key("pay"), 80) == enforced
    found = policy.listeners[key("pay"), 80].remark
    assert found == (f"nothing enforces it: {remark}" if remark else "")
    assert not policy.enforced(key("pay"), 81)


# -- S3 to S6: whom a client accepts


def calling(written: dict[str, Any] | None, defaults: dict[str, Any] | None = None) -> Policy:
    backends = [backend("pay.local", **({} if written is None else {"clientPolicy": written}))]
    spec: dict[str, Any] = {} if defaults is None else {"backendDefaults": {"clientPolicy": defaults}}
    return shop(None, node("web", backends=backends, **spec))


BACKEND = "spec.backends[0].virtualService"
DEFAULTS = "spec.backendDefaults.clientPolicy"


@pytest.mark.parametrize(
    ("written", "defaults", "accepted", "field"),
    [
        pytest.param(None, None, {PAY}, BACKEND, id="no-policy"),
        pytest.param({}, None, {PAY}, f"{BACKEND}.clientPolicy", id="empty-policy"),
        pytest.param(client_policy(), None, {PAY}, f"{BACKEND}.clientPolicy.tls.validation", id="no-names"),
        pytest.param(client_policy(ALONE), None, {ALONE},
                     f"{BACKEND}.clientPolicy.tls.validation.subjectAlternativeNames", id="another"),
        pytest.param(None, client_policy(ALONE), {ALONE}, f"{DEFAULTS}.tls.validation.subjectAlternativeNames",
                     id="defaults"),
        pytest.param(client_policy(PAY), client_policy(ALONE), {PAY},
                     f"{BACKEND}.clientPolicy.tls.validation.subjectAlternativeNames", id="replaces-defaults"),
        pytest.param(client_policy(), client_policy(ALONE), {PAY}, f"{BACKEND}.clientPolicy.tls.validation",
                     id="replaces-even-names"),
        pytest.param({}, client_policy(ALONE), {PAY}, f"{BACKEND}.clientPolicy", id="replaces-with-nothing"),
        pytest.param(client_policy(ALONE, enforce=False), None, {ALONE},
                     f"{BACKEND}.clientPolicy.tls.validation.subjectAlternativeNames", id="not-enforced"),
        pytest.param(client_policy(ALONE, ports=[80]), None, {ALONE},
                     f"{BACKEND}.clientPolicy.tls.validation.subjectAlternativeNames", id="its-port"),
        pytest.param(client_policy(ALONE, ports=[443]), None, {PAY}, f"{BACKEND}.clientPolicy", id="other-port"),
        pytest.param(client_policy(ALONE, ports=[]), None, {PAY}, f"{BACKEND}.clientPolicy", id="no-port"),
        pytest.param(client_policy("pay.local"), None, set(),
                     f"{BACKEND}.clientPolicy.tls.validation.subjectAlternativeNames", id="dns"),
    ],
)  # fmt: skip
def test_a_client_accepts_the_names_of_the_policy_that_applies(
    written: dict[str, Any] | None, defaults: dict[str, Any] | None, accepted: set[Any], field: str
) -> None:
    policy = calling(written, defaults)
    found = policy.backends[key("web"), "pay.local"]
    assert found.ids == accepted
    assert found.field == field
    assert ("called without TLS" in found.remark) == ("enforce" in str(written))
    assert policy.calls == ({Permission(WEB, PAY, 80)} if PAY in accepted else set())


def test_a_service_with_a_port_in_the_list_is_held_to_the_names_on_all() -> None:
    policy = policy_of(
        node("web", backends=[backend("s", clientPolicy=client_policy(ALONE, ports=[81]))]),
        node("pay", listeners=BOTH), service("s", node="pay"),
    )  # fmt: skip
    assert policy.admitted_servers(key("web"), "s") == {ALONE}
    assert policy.calls == set()


def test_a_gateway_has_defaults_only() -> None:
    door = gateway(backendDefaults={"clientPolicy": client_policy(PAY)})
    policy = shop(None, None, door, gateway_route("x", "pay.local"))
    found = policy.backends[DOOR, "pay.local"]
    assert found.ids == {PAY}
    assert found.field == f"{DEFAULTS}.tls.validation.subjectAlternativeNames"
    assert Permission(GATEWAY_ID, PAY, 80) in policy.calls


# -- the graph


def test_a_gateway_reaches_what_its_routes_lead_to() -> None:
    assert shop(None, None, gateway()).services_of(DOOR) == ()
    policy = shop(None, None, gateway(), gateway_route("x", "pay.local"), gateway("other"))
    assert policy.admitted_clients(key("pay"), 80) == {WEB, GATEWAY_ID}
    assert policy.services_of(key("other", VIRTUAL_GATEWAY)) == ()


def test_routers_lead_to_their_targets_on_the_targets_port_whatever_the_weight() -> None:
    policy = policy_of(
        node("web", "s"), node("pay", listeners=BOTH), node("alone"), router("r"), service("s", router="r"),
        route("r", "1", target("pay", port=81), target("alone", weight=0)),
    )  # fmt: skip
    assert policy.calls == {Permission(WEB, PAY, 81), Permission(WEB, ALONE, 80)}
    assert policy.admitted_clients(key("pay"), 80) == set()
    assert policy.admitted_servers(key("web"), "s") == {PAY, ALONE}


def test_a_node_that_provides_a_service_is_reached_on_every_port() -> None:
    policy = policy_of(node("web", "s"), node("pay", listeners=BOTH), service("s", node="pay"))
    assert policy.calls == {Permission(WEB, PAY, 80), Permission(WEB, PAY, 81)}
    assert policy.ports_of(key("pay")) == (80, 81)


def test_a_port_of_a_node_without_listeners_admits_nobody() -> None:
    policy = policy_of(node("web", "s"), node("pay", listeners=()), router("r"), service("s", router="r"),
                       route("r", "1", target("pay", port=80)))  # fmt: skip
    assert policy.calls == set()
    assert not policy.can(key("web"), key("pay")).allowed


def test_services_without_a_provider_lead_nowhere() -> None:
    policy = policy_of(node("web", "s"), service("s"))
    assert policy.services_of(key("web")) == ("s",)
    assert policy.admitted_servers(key("web"), "s") == set()


def test_two_ways_to_one_node_are_one_permission() -> None:
    policy = policy_of(node("web", "s", "t"), node("pay"), service("s", node="pay"), service("t", node="pay"))
    assert policy.calls == {Permission(WEB, PAY, 80)}
    assert policy.servers_by_backend == {(WEB, "s"): {PAY}, (WEB, "t"): {PAY}}


def test_one_way_that_both_sides_admit_suffices() -> None:
    backends = [backend("s", clientPolicy=client_policy(ALONE)), backend("t")]
    policy = policy_of(node("web", backends=backends), node("pay"), service("s", node="pay"), service("t", node="pay"))
    assert policy.calls == {Permission(WEB, PAY, 80)}


def test_answers_are_by_the_identity_that_a_node_names() -> None:
    own = node("pay", listeners=(listener(tls=mutual(sds=OWN)),))
    policy = policy_of(node("web", "s"), own, service("s", node="pay"))
    assert {(str(server), port) for server, port in policy.clients_by_listener} == {(OWN, 80), (str(WEB), 80)}
    assert {str(call.server) for call in policy.calls} == {OWN}


def test_the_same_names_in_another_mesh_are_others() -> None:
    policy = shop()
    elsewhere = key("pay")._replace(mesh="other")
    assert policy.admitted_clients(elsewhere, 80) == set()
    with pytest.raises(NotFoundError):
        policy.can(key("web"), elsewhere)


@pytest.mark.parametrize(
    ("client", "server"),
    [(key("gone"), key("pay")), (key("web"), key("gone")), (key("pay.local", VIRTUAL_SERVICE), key("pay"))],
)
def test_who_is_in_no_mesh_gets_no_answer(client: Any, server: Any) -> None:
    with pytest.raises(NotFoundError, match="no applied mesh has this node"):
        shop().can(client, server)


# -- against brute force over the specs


@examples(50)
@given(meshes())
def test_a_policy_is_what_the_specs_say_read_one_by_one(objects: tuple[MeshObject, ...]) -> None:
    policy, brute = policy_of(*objects), Brute(objects)
    assert {(str(call.client), str(call.server), call.port) for call in policy.calls} == brute.calls()
    listeners = {(str(one), port): set(map(str, ids)) for (one, port), ids in policy.clients_by_listener.items()}
    assert listeners == brute.listeners()
    backends = {(str(one), called): set(map(str, ids)) for (one, called), ids in policy.servers_by_backend.items()}
    assert backends == brute.backends()


@examples(25)
@given(meshes())
def test_without_a_path_there_is_no_call_and_the_lookups_agree_with_can(objects: tuple[MeshObject, ...]) -> None:
    policy = policy_of(*objects)
    everybody = {key(name): policy.identities.of(key(name)) for name in NODES} | {DOOR: GATEWAY_ID}
    for client, client_id in everybody.items():
        reached = {
            target.node.key for name in policy.services_of(client) for target in policy.graph.targets_of("shop", name)
        }
        assert set(policy.services_of(client)) <= set(SERVICES)
        for server, server_id in everybody.items():
            for port in PORTS:
                decision = policy.can(client, server, port)
                assert decision.allowed == (Permission(client_id, server_id, port) in policy.calls)
                assert decision.allowed <= (server in reached and client_id in policy.admitted_clients(server, port))
                assert (decision.client, decision.server) == (client_id, server_id)
                assert decision.reasons
            assert policy.can(client, server).allowed == any(policy.can(client, server, port).allowed for port in PORTS)
