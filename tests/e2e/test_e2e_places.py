"""One life of a mesh for each place that a root may be in.

Must show 4 of the authority that a security team signs off; the rest of this folder runs there, too (harness.places).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from harness.pair import Load, Pair
from harness.places import KINDS, place
from harness.world import World, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("other_users")


@pytest.fixture(params=KINDS)
def placed(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    with place(request.param, tmp_path) as options:
        world = World.make("--lifetimes", "root=2h,issuing=15m,leaf=30s", *options())
        try:
            yield world.start()
        finally:
            world.close()


def active(world: World, kind: str) -> str:
    (found,) = [one for one in world.run("ca", "show", "-o", "json").json[kind] if one["state"] == "active"]
    return str(found["id"])


def test_a_mesh_lives_wherever_its_root_is(placed: World) -> None:
    pair = Pair.start(placed)
    foreign = not next(iter(placed.run("ca", "show", "-o", "json").json["roots"]))["key"]
    with Load(pair) as load:
        before = active(placed, "issuing")
        if foreign:
            assert "upstream" in placed.run("rotate", "root", code=1).err
        else:
            placed.run("rotate", "root", "--wait")
        placed.run("rotate", "issuing", "--wait")
        assert active(placed, "issuing") != before
        leaf = [row for row in placed.run("certs", "--node", "back", "-o", "json").json if row["state"] == "valid"][-1]
        load.more(50)
        assert load.failures == []
        # The certificate dies at once: peers may refuse it for as long as its holder takes to get another.
        placed.run("revoke", leaf["serial"], "--reason", "keyCompromise", "--wait")
        refused = load.settled()
        load.more(100)
    assert load.failures[refused:] == []

    placed.kill()
    placed.start()
    eventually(pair.ask, 40)
    placed.run("revoke", "--node", "front", "--wait")
    eventually(lambda: not pair.ask(), 5)
    placed.run("resume", "front")
    eventually(pair.ask, 20)
    assert placed.run("audit", "verify", "-o", "json").json["intact"]
