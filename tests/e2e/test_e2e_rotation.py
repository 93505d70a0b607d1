"""Everything rotates under load, and those who do not answer are waited for by name.

Must show 1, 2 and 6 of the authority that a security team signs off.
"""

from __future__ import annotations

import os
import re
import time
from typing import TYPE_CHECKING, Any

import pytest
from harness.pair import Load, Pair, rows
from harness.world import eventually, spiffe

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.world import World

_SOAK = float(os.environ.get("MESHCA_SOAK_SECONDS", "60"))
_SECOND = 1_000_000
_GENERATION = re.compile(r"trust generation (\d+)$")

pytestmark = pytest.mark.usefixtures("other_users")


def authorities(world: World, kind: str, state: str = "") -> list[dict[str, Any]]:
    shown = world.run("ca", "show", "-o", "json").json[kind]
    return [one for one in shown if state in ("", one["state"])]


def only(world: World, kind: str, state: str) -> dict[str, Any]:
    (found,) = authorities(world, kind, state)
    return found


@pytest.mark.timeout(int(_SOAK) + 120)
def test_a_short_life_in_which_everything_rotates(make_world: Callable[..., World]) -> None:
    world = make_world("--lifetimes", "root=60s,issuing=20s,leaf=6s").start()
    pair = Pair.start(world)
    with Load(pair) as load:
        began = time.monotonic()
        time.sleep(_SOAK)  # not a wait for an event: the length of the soak
        lasted = time.monotonic() - began
    assert load.failures == []
    assert load.answered > 10 * _SOAK

    cas = list(rows(world, "SELECT * FROM authorities"))
    activated = {
        role: sum(ca["role"] == role and ca["activated_at"] is not None for ca in cas) for role in ("root", "issuing")
    }
    # A root of 60 s is replaced after 40 s, then 30 s after each; an issuing CA of 20 s every 10 s.
    assert activated["root"] - 1 >= (lasted - 45) // 32 + 1
    assert activated["issuing"] - 1 >= (lasted - 20) // 12
    print(f"{lasted:.0f} s: {load.answered} requests, {activated} activated")  # noqa: T201 (figures for the note)
    generations_are_all_in_the_ledger(world)
    no_trust_went_early(world, cas)
    assert world.run("audit", "verify", "-o", "json").json["intact"]


def generations_are_all_in_the_ledger(world: World) -> None:
    (realm,) = rows(world, "SELECT trust_generation FROM realm")
    reasons = [str(row["reason"]) for row in rows(world, "SELECT reason FROM audit ORDER BY seq")]
    told = {int(found[1]) for reason in reasons if (found := _GENERATION.search(reason))}
    assert told == set(range(2, int(str(realm["trust_generation"])) + 1))


def no_trust_went_early(world: World, cas: list[dict[str, Any]]) -> None:
    removed = {
        str(row["subject"]): int(str(row["at"]))
        for row in rows(world, "SELECT at, subject FROM audit WHERE reason LIKE '%CA removed%'")
    }
    ends = rows(
        world, "SELECT issuer_id AS ca, max(not_after) AS at FROM certificates WHERE state <> 'abandoned' GROUP BY 1"
    )
    last = {row["ca"]: row["at"] for row in ends}
    assert removed
    for ca in cas:
        if ca["id"] in removed and ca["role"] == "issuing" and ca["id"] in last:
            at = removed[ca["id"]]
            assert at >= min(ca["not_after"], last[ca["id"]] + 60 * _SECOND)


def test_a_stopped_envoy_is_waited_for_and_comes_back(make_world: Callable[..., World]) -> None:
    world = make_world("--lifetimes", "root=1h,issuing=15m,leaf=30s").start()
    pair = Pair.start(world)
    pair.freeze("back")
    new = world.run("rotate", "root", "-o", "json").json["id"]
    waiting = eventually(lambda: list(only(world, "roots", "prepared")["waiting_for"]), 10)
    assert [who.split()[0] for who in waiting] == [spiffe("back")]

    pair.thaw("back")
    done = world.run("rotate", "issuing", "--wait", "-o", "json").json
    eventually(lambda: only(world, "roots", "active")["id"] == new, 10)
    assert done["state"] in ("active", "removed")
    eventually(lambda: only(world, "issuing", "active")["parent"] == new, 10)
    assert pair.ask()


def test_after_the_deadline_activation_goes_on_and_the_envoy_recovers(make_world: Callable[..., World]) -> None:
    world = make_world("--lifetimes", "root=1h,issuing=15m,leaf=30s")
    config = world.home / "meshca.toml"
    config.write_text(config.read_text() + '\n[authority]\nack_deadline = "3s"\n')
    world.start()
    pair = Pair.start(world)
    pair.freeze("back")
    made = world.run("rotate", "issuing", "-o", "json").json
    new = made["id"]
    assert made["state"] == "prepared"
    eventually(lambda: only(world, "issuing", "active")["id"] == new, 15)
    (warning,) = [text for text in world.run("status", "-o", "json").json["warnings"] if new in text]
    assert spiffe("back") in warning

    pair.thaw("back")
    eventually(pair.ask, 15)
    eventually(lambda: not [t for t in world.run("status", "-o", "json").json["warnings"] if new in t], 15)


def test_an_envoy_whose_stream_is_cut_goes_on_serving_and_is_waited_for(make_world: Callable[..., World]) -> None:
    """The server forgets its streams (a restart), and one Envoy cannot come back: it still holds a leaf."""
    world = make_world("--lifetimes", "root=1h,issuing=15m,leaf=2m").start()
    pair = Pair.start(world)
    world.run("unregister", registration_of(world, "back"))
    assert pair.ask()  # its stream has ended, its secrets serve on
    new = world.run("rotate", "issuing", "-o", "json").json["id"]
    waiting = eventually(lambda: only(world, "issuing", "prepared")["waiting_for"], 10)
    assert spiffe("back") in " ".join(waiting)
    assert only(world, "issuing", "prepared")["id"] == new

    world.register("back", pair_uid(world, "back"))
    eventually(lambda: only(world, "issuing", "active")["id"] == new, 20)
    assert pair.ask()


def registration_of(world: World, name: str) -> str:
    (found,) = [one for one in world.run("registrations", "-o", "json").json if one["spiffe_id"] == spiffe(name)]
    return str(found["id"])


def pair_uid(world: World, name: str) -> int:
    from harness.world import FIRST_UID

    return {"back": FIRST_UID, "front": FIRST_UID + 1}[name]


def test_a_tainted_ca_is_out_of_trust_as_soon_as_everybody_has_another_leaf(make_world: Callable[..., World]) -> None:
    world = make_world("--lifetimes", "root=1h,issuing=15m,leaf=2m").start()
    pair = Pair.start(world)
    stolen = only(world, "issuing", "active")["id"]
    with Load(pair) as load:
        assert world.run("ca", "taint", stolen, "-o", "json").json == {"tainted": [stolen]}
        began = time.monotonic()
        eventually(lambda: stolen not in [one["id"] for one in authorities(world, "issuing")], 20, "its removal")
        took = time.monotonic() - began
    assert load.failures == []
    assert took < 15
    assert pair.ask()
    assert world.run("ca", "taint", stolen, code=1).err


def test_a_tainted_root_is_replaced_without_a_failed_request(make_world: Callable[..., World]) -> None:
    world = make_world("--lifetimes", "root=1h,issuing=15m,leaf=2m").start()
    pair = Pair.start(world)
    stolen = only(world, "roots", "active")["id"]
    with Load(pair) as load:
        world.run("ca", "taint", stolen)
        eventually(lambda: stolen not in [one["id"] for one in authorities(world, "roots")], 30, "its removal")
    assert load.failures == []
    assert pair.ask()
