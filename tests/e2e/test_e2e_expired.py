"""The server was off for so long that leaves, the issuing CA, or everything has expired."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from harness.pair import Pair
from harness.world import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.world import World

_PATIENCE = 30

pytestmark = pytest.mark.usefixtures("other_users")


def stop_until(world: World, kind: str, margin: float = 1.0) -> None:
    """Stop the server until the newest leaf, or the last CA of a kind, has expired."""
    shown = world.run("ca", "show", "-o", "json").json
    ends = [one["not_after"] for one in (world.run("certs", "-o", "json").json if kind == "leaf" else shown[kind])]
    world.kill()
    last = max(map(datetime.fromisoformat, ends))
    time.sleep(max((last - datetime.now(UTC)).total_seconds(), 0) + margin)  # lives end by the clock alone


def lost(world: World) -> str:
    found: list[dict[str, Any]] = world.run("audit", "tail", "-o", "json").json
    return " ".join(row["reason"] for row in found if row["action"] == "recover")


def test_expired_leaves_come_back_by_themselves(make_world: Callable[..., World]) -> None:
    world = make_world("--lifetimes", "root=2h,issuing=30m,leaf=6s").start()
    pair = Pair.start(world)
    stop_until(world, "leaf")
    assert not pair.ask()
    world.start()
    eventually(pair.ask, _PATIENCE, "the pair")
    assert "no valid certificate is left of 2 identities" in lost(world)


def test_an_expired_issuing_ca_is_replaced_at_start(make_world: Callable[..., World]) -> None:
    world = make_world("--lifetimes", "root=2h,issuing=15s,leaf=5s").start()
    pair = Pair.start(world)
    stop_until(world, "issuing")
    world.start()
    eventually(pair.ask, _PATIENCE, "the pair")
    assert "another is made now" in lost(world)
    assert world.run("audit", "verify", "-o", "json").json["intact"]


def test_after_the_root_has_expired_one_command_brings_everything_back(make_world: Callable[..., World]) -> None:
    world = make_world("--lifetimes", "root=36s,issuing=12s,leaf=4s").start()
    pair = Pair.start(world)
    stop_until(world, "roots")
    world.start()
    assert "rotate root" in " ".join(world.run("status", "-o", "json").json["warnings"])
    assert "rotate root" in lost(world)
    assert world.run("issue", "front", code=1).err
    assert not pair.ask()

    world.run("rotate", "root", "--wait")
    eventually(pair.ask, _PATIENCE, "the pair")
    assert not [text for text in world.run("status", "-o", "json").json["warnings"] if "rotate root" in text]
