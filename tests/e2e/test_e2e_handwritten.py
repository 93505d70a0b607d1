"""Envoys configured by hand with SPIRE's names get identities, and with ours they enforce policy.

Must show 3 and 4 of the first slice.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from harness.asking import ask
from harness.world import FIRST_UID, TRUST_DOMAIN, eventually, free_port, mesh, node, service, spiffe

from meshca.cli.demo import handwritten

if TYPE_CHECKING:
    from harness.asking import ask
    from harness.traffic import Address
from harness.world import World

BACK, FRONT, OTHER, NOBODY = FIRST_UID, FIRST_UID + 1, FIRST_UID + 2, FIRST_UID + 3
PORT = 9080


@pytest.fixture
def spec(world: World, other_users: None) -> World:
    """A mesh in which front may call back, other may call nobody, and nobody may call lonely."""
    world.apply(
        mesh(),
        node("back", host="127.0.0.1", port=PORT),
        node("front", backends=["back.local"]),
        node("other"),
        node("lonely", host="127.0.0.1", port=PORT),
        service("back.local", "back"),
    )
    world.register("back", BACK)
    world.register("front", FRONT)
    world.register("other", OTHER)
    return world


def pair(world: World, server_secrets: tuple[str, str], client_secrets: tuple[str, str]) -> Address:
    """Start back and front by hand and return the plain address of front."""
    host = world.host()
    at, plain = (host, free_port(host)), (host, free_port(host))
    socket = world.home / "run/meshca.sock"
    world.envoy_with(handwritten.server("back-1", socket, at, *server_secrets), "back", uid=BACK)
    world.envoy_with(handwritten.client("front-1", socket, plain, at, client_secrets), "front", uid=FRONT)
    return plain


@pytest.mark.parametrize(
    ("server_secrets", "client_secrets"),
    [
        pytest.param(("default", "ROOTCA"), ("default", "ROOTCA"), id="aliases"),
        pytest.param(
            (spiffe("back"), f"spiffe://{TRUST_DOMAIN}"), (spiffe("front"), f"spiffe://{TRUST_DOMAIN}"), id="names"
        ),
        pytest.param(("default", "ALL"), (spiffe("front"), "ALL"), id="validator"),
        pytest.param(("default", "clients"), ("default", "servers:back.local"), id="policy"),
        pytest.param(("default", f"clients:{PORT}"), ("default", "servers:back.local"), id="policy-of-a-port"),
    ],
)
def test_hand_written_envoys_do_mtls(
    spec: World, server_secrets: tuple[str, str], client_secrets: tuple[str, str]
) -> None:
    plain = pair(spec, server_secrets, client_secrets)

    assert ask(plain) == (200, spiffe("front"))


def test_a_client_that_policy_does_not_admit_is_refused_by_the_server(spec: World) -> None:
    host = spec.host()
    at, good, bad = ((host, free_port(host)) for _ in range(3))
    socket = spec.home / "run/meshca.sock"
    spec.envoy_with(handwritten.server("back-1", socket, at, "default", "clients"), "back", uid=BACK)
    spec.envoy_with(handwritten.client("front", socket, good, at, ("default", "ROOTCA")), "front", uid=FRONT)
    spec.envoy_with(handwritten.client("other", socket, bad, at, ("default", "ROOTCA")), "other", uid=OTHER)

    assert ask(good) == (200, spiffe("front"))
    assert ask(bad)[0] == 503


def test_a_server_with_another_identity_is_refused_by_the_client(spec: World) -> None:
    host = spec.host()
    at, plain = (host, free_port(host)), (host, free_port(host))
    socket = spec.home / "run/meshca.sock"
    spec.envoy_with(handwritten.server("other", socket, at, "default", "ROOTCA"), "other", uid=OTHER)
    spec.envoy_with(
        handwritten.client("front", socket, plain, at, ("default", "servers:back.local")), "front", uid=FRONT
    )

    assert ask(plain)[0] == 503


def test_an_envoy_whose_policy_admits_nobody_refuses_everybody(spec: World) -> None:
    spec.register("lonely", NOBODY)
    host = spec.host()
    at, plain = (host, free_port(host)), (host, free_port(host))
    socket = spec.home / "run/meshca.sock"
    spec.envoy_with(handwritten.server("lonely", socket, at, "default", "clients"), "lonely", uid=NOBODY)
    spec.envoy_with(handwritten.client("f", socket, plain, at, ("default", "ROOTCA")), "front", uid=FRONT)

    assert ask(plain)[0] == 503


def refusals(world: World) -> list[dict[str, str]]:
    """Return the refused records of the audit log."""
    return [row for row in world.run("audit", "tail", "-o", "json").json if row["outcome"] == "refused"]


def test_an_unregistered_uid_gets_nothing_and_is_audited(spec: World) -> None:
    host = spec.host()
    config = handwritten.server("back-1", spec.home / "run/meshca.sock", (host, free_port(host)), "default", "ROOTCA")
    envoy = spec.envoy_with(config, "stranger", uid=NOBODY, live=False)

    rows = eventually(
        lambda: [row for row in refusals(spec) if str(NOBODY) in json.dumps(row)], what="the audit record"
    )

    assert rows
    assert json.loads(envoy.admin("certs"))["certificates"] == []
    assert not [row for row in spec.run("certs", "-o", "json").json if row["state"] == "valid"]


@pytest.mark.parametrize(
    ("node_id", "certificate"),
    [
        pytest.param("mesh/m/virtualNode/back", "default", id="node-id"),
        pytest.param("mesh/m/virtualNode/back/instance-1", "default", id="node-id-with-instance"),
        pytest.param("front", spiffe("back"), id="name"),
    ],
)
def test_a_registered_uid_that_claims_another_node_gets_nothing_of_it(
    spec: World, node_id: str, certificate: str
) -> None:
    host = spec.host()
    config = handwritten.server(node_id, spec.home / "run/meshca.sock", (host, free_port(host)), certificate, "ROOTCA")
    envoy = spec.envoy_with(config, "claim", uid=FRONT, live=False)

    rows = eventually(
        lambda: [row for row in refusals(spec) if spiffe("back") in json.dumps(row) or "back" in row["reason"]]
    )

    assert rows
    assert spiffe("back") not in envoy.admin("certs")
    assert not spec.run("certs", "--node", "back", "-o", "json").json
