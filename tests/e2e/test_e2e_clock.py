"""The server's clock is not the Envoys': ahead, behind, and set while it runs.

Must show 6 of the authority that a security team signs off.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from harness.pair import Load, Pair, rows
from harness.skewed import Skew
from harness.world import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.world import World

pytestmark = pytest.mark.usefixtures("other_users")

_LIVES = ("--lifetimes", "root=2h,issuing=30m,leaf=90s")


@pytest.fixture
def skewed(make_world: Callable[..., World]) -> Callable[[int], tuple[World, Skew]]:
    """Start a server whose clock is so many seconds off."""

    def start(seconds: int) -> tuple[World, Skew]:
        world = make_world(*_LIVES)
        clock = Skew(world.folder / "clock")
        clock.set(seconds)
        return world.start(program=("harness.skewed", str(clock.file))), clock

    return start


def valid_leaf(world: World, name: str) -> str:
    found: list[dict[str, Any]] = world.run("certs", "--node", name, "-o", "json").json
    return str([row for row in found if row["revoked_at"] is None][-1]["serial"])


def active(world: World) -> str:
    (found,) = [one for one in world.run("ca", "show", "-o", "json").json["issuing"] if one["state"] == "active"]
    return str(found["id"])


@pytest.mark.parametrize("seconds", [30, -30], ids=["ahead", "behind"])
def test_handshakes_go_on_through_a_revocation_and_a_rotation(
    skewed: Callable[[int], tuple[World, Skew]], seconds: int
) -> None:
    world, _ = skewed(seconds)
    pair = Pair.start(world)
    with Load(pair) as load:
        before = active(world)
        world.run("rotate", "root", "--wait")
        eventually(lambda: active(world) != before, 30, "the rotation")
        load.more(100)
        assert load.failures == []
        # The certificate dies at once: peers may refuse it for as long as its holder takes to get another.
        world.run("revoke", valid_leaf(world, "back"), "--reason", "keyCompromise", "--wait")
        refused = load.settled()
        world.run("rotate", "leaf", "front")
        load.more(200)
    assert load.failures[refused:] == []
    world.run("revoke", "--node", "front", "--wait")
    assert not pair.ask()


def test_a_clock_that_is_set_while_it_runs_stops_nothing_and_is_named(
    skewed: Callable[[int], tuple[World, Skew]],
) -> None:
    world, clock = skewed(0)
    pair = Pair.start(world)
    issued = len(list(rows(world, "SELECT serial FROM certificates")))
    with Load(pair) as load:
        for seconds, said in ((40, "set forward by 0:00:40"), (0, "set back by 0:00:40")):
            clock.set(seconds)
            eventually(lambda said=said: said in " ".join(warnings(world)), 40, said)
            load.more(100)
    assert load.failures == []
    # Nothing rotated in a storm: at most each leaf once for each time that the clock was set.
    assert len(list(rows(world, "SELECT serial FROM certificates"))) <= issued + 2 * 2
    assert len(list(rows(world, "SELECT id FROM authorities"))) == 2


def test_after_a_jump_of_a_year_each_slot_moves_step_by_step(skewed: Callable[[int], tuple[World, Skew]]) -> None:
    """What expires by a wrong clock is lost, and said; it comes back without a restart once the clock is right."""
    world, clock = skewed(0)
    pair = Pair.start(world)
    clock.set(365 * 86_400)
    eventually(lambda: "rotate root" in " ".join(warnings(world)), 60, "the loss")
    made = len(list(rows(world, "SELECT id FROM authorities")))
    assert made <= 3
    clock.set(0)
    eventually(lambda: "rotate root" not in " ".join(warnings(world)), 60, "the repair")
    eventually(pair.ask, 60)


def warnings(world: World) -> list[str]:
    return list(world.admin.status().warnings)
