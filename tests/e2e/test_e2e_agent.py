"""A real server, a real agent, real Envoys behind it: keys made on the host, traffic while the server is gone."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from harness.agents import agent
from harness.pair import Load, Pair
from harness.world import eventually, spiffe

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.world import World

pytestmark = pytest.mark.usefixtures("other_users")


def test_no_request_fails_while_the_server_is_gone_for_longer_than_half_a_leafs_life(
    make_world: Callable[..., World],
) -> None:
    world = make_world("--lifetimes", "leaf=5m,issuing=1h,root=1d")
    with (world.home / "meshca.toml").open("a") as config:
        config.write('\n[profiles.svid]\nmax_ttl = "16s"\n')
    world.start()
    with agent(world) as host:
        address = str(world.admin.status().grpc)
        pair = Pair.start(world, host.socket, "host1")
        for name in ("front", "back"):
            assert world.admin.rotate_leaf(name) == 1
        with Load(pair) as load:
            load.more(20)
            before = {record.serial for record in world.admin.certificates()}
            world.kill()
            gone = time.monotonic()
            eventually(lambda: "serving from memory" in host.log(), 5, "word of it")
            time.sleep(max(0.0, gone + 8 - time.monotonic()))
            world.start("--grpc", address)
            assert time.monotonic() - gone > 8
            eventually(lambda: host.log().count("the server answers") == 2, 10, "the server's return")
            eventually(lambda: _issued_since(world, before) >= {spiffe("front"), spiffe("back")}, 15, "new leaves")
            load.more(60)
            assert load.settled() == 0, load.failures[:5]


def test_past_the_end_of_everything_a_new_token_is_all_it_takes(make_world: Callable[..., World]) -> None:
    world = make_world("--lifetimes", "leaf=6s,issuing=1h,root=1d").start()
    with agent(world) as host:
        address = str(world.admin.status().grpc)
        pair = Pair.start(world, host.socket, "host1")
        world.kill()
        eventually(lambda: "own certificate expired" in host.log(), 15, "the end of the agent's certificate")
        assert "meshca token AGENT" in host.log()
        world.start("--grpc", address)
        world.run("token", "host1", "--out", str(world.folder / "host1.token"))
        eventually(pair.ask, 40, "traffic, with Envoys that nobody has touched")


def _issued_since(world: World, before: set[str]) -> set[str]:
    return {record.spiffe_id for record in world.admin.certificates() if record.serial not in before}
