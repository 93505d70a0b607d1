"""ADS in both variants, renewal by time, and a constrained CA, each on real Envoys."""

from __future__ import annotations

import contextlib
import json
import time
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from harness.agents import AgentProcess, agent
from harness.asking import ask
from harness.world import FIRST_UID, World, eventually, free_port, mesh, node, service, spiffe

from meshca.cli.demo import handwritten
from meshca.cli.demo.apps import App
from meshca.cli.demo.load import Load, get

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from harness.asking import Address

BACK, FRONT = FIRST_UID, FIRST_UID + 1


class Pair:
    """A client and a server by bootstrap, with the variant of ADS that the test wants."""

    def __init__(self, world: World, api_type: str, host1: AgentProcess | None = None) -> None:
        self.world = world
        host, self.port = world.host(), free_port("0.0.0.0")
        plain = world.host()
        self.objects = [
            mesh(),
            node("back", host=host, port=self.port),
            node("front", backends=["back.local"]),
            service("back.local", "back"),
        ]
        world.apply(*self.objects)
        parent = "host1" if host1 else ""
        world.register("back", BACK, parent)
        world.register("front", FRONT, parent)
        self.address: Address = (plain, self.port)
        for name, uid, place in (("back", BACK, ("--ingress", host)), ("front", FRONT, ("--egress", plain))):
            text = world.run("envoy", "bootstrap", name, *place).out
            if host1:
                text = text.replace(str(world.home / "run/meshca.sock"), str(host1.socket))
            config = yaml.safe_load(text)
            config["dynamic_resources"]["ads_config"]["api_type"] = api_type
            world.envoy_with(json.dumps(config), name, uid=uid)

    def ask(self) -> int:
        """Return the status of one request."""
        return get(self.address, "back.local").status

    def serials(self, name: str) -> set[str]:
        """Return the serials of a node's valid certificates."""
        return {row["serial"] for row in self.world.run("certs", "--node", name, "-o", "json").json}


@pytest.fixture(params=["GRPC", "DELTA_GRPC", "agent GRPC", "agent DELTA_GRPC"])
def pair(world: World, other_users: None, request: pytest.FixtureRequest) -> Iterator[Pair]:
    behind, _, api_type = request.param.rpartition(" ")
    with contextlib.ExitStack() as running:
        made = Pair(world, api_type, running.enter_context(agent(world)) if behind else None)
        running.enter_context(App("back", "127.0.0.1", made.port))
        yield made


def test_both_variants_serve_rotate_change_policy_and_revoke(pair: Pair) -> None:
    world = pair.world
    assert pair.ask() == 200

    before = pair.serials("front")
    world.run("rotate", "leaf", "front")
    eventually(lambda: pair.serials("front") - before)
    assert pair.ask() == 200

    world.apply(*_with(pair.objects, "front", backends=[]))
    eventually(lambda: pair.ask() != 200, what="the narrowed policy")
    world.apply(*pair.objects)
    eventually(lambda: pair.ask() == 200, what="the widened policy")

    world.run("revoke", "--node", "front", "--wait")
    assert pair.ask() != 200
    world.run("resume", "front")
    eventually(lambda: pair.ask() == 200, what="service after the resume")

    rows = world.run("envoy", "list", "-o", "json").json
    assert [row for row in rows if row["nack"]] == []
    assert {row["spiffe_id"] for row in rows} == {spiffe("front"), spiffe("back")}


def test_an_envoy_that_reconnects_over_delta_keeps_its_leaf(world: World, other_users: None) -> None:
    made = Pair(world, "DELTA_GRPC")
    before = made.serials("front")

    world.kill()
    world.start()
    eventually(lambda: len({r["spiffe_id"] for r in world.run("envoy", "list", "-o", "json").json}) == 2, 40)

    assert made.serials("front") == before


def _with(objects: list[dict[str, Any]], name: str, **changed: Any) -> list[dict[str, Any]]:
    return [
        {**one, "spec": {**one["spec"], **changed}} if one.get("virtualNodeName") == name else one for one in objects
    ]


@pytest.fixture
def short_lived(make_world: Callable[..., World], other_users: None) -> World:
    """A realm whose leaves live for 12 seconds."""
    return make_world("--lifetimes", "root=1d,issuing=1h,leaf=12s").start()


def test_leaves_are_renewed_by_time_without_a_failed_request(short_lived: World) -> None:
    world = short_lived
    plain = _handwritten(world)

    assert len(world.run("certs", "--node", "front", "-o", "json").json) == 1
    with Load(lambda: "" if ask(plain)[0] == 200 else "refused") as load:
        began = time.monotonic()
        eventually(lambda: len(world.run("certs", "--node", "front", "-o", "json").json) >= 4, 40, "four leaves")
        took = time.monotonic() - began

    assert took > 6  # by time, not in a storm
    assert (load.tally.failed, load.tally.errors) == (0, [])
    assert load.tally.requests > 50


def test_a_constrained_ca_serves_its_own_trust_domain(make_world: Callable[..., World], other_users: None) -> None:
    plain = _handwritten(make_world("--name-constraint").start())

    assert ask(plain) == (200, spiffe("front"))


def _handwritten(world: World) -> Address:
    world.apply(
        mesh(),
        node("back", host="127.0.0.1", port=9080),
        node("front", backends=["b.local"]),
        service("b.local", "back"),
    )
    world.register("back", BACK)
    world.register("front", FRONT)
    host = world.host()
    at, plain = (host, free_port(host)), (host, free_port(host))
    socket = world.home / "run/meshca.sock"
    world.envoy_with(handwritten.server("b", socket, at, "default", "clients"), "back", uid=BACK)
    world.envoy_with(handwritten.client("f", socket, plain, at, ("default", "servers:b.local")), "front", uid=FRONT)
    return plain
