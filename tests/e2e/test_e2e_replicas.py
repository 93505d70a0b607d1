"""Three replicas on one database, with Envoys and writers at each: any of them may die or be stopped.

The first of what "many replicas" must show; PostgreSQL itself is not restarted here.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest
from harness.pair import Load, Pair
from harness.replicas import POSTGRES, Writing, database, missing, replicas, seconds_until
from harness.world import FIRST_UID, World, eventually, free_port, mesh, node, service

from meshca.cli.demo import handwritten

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.replicas import Database

    from meshca.cli.demo.envoy import EnvoyProcess

pytestmark = [
    pytest.mark.usefixtures("other_users"),
    pytest.mark.skipif(not POSTGRES, reason="MESHCA_TEST_POSTGRES names no PostgreSQL database"),
]

_PUBLISHED = re.compile(r"number (\d+), trust generation (\d+)")
_TAKEN_OVER = 25


def fleet(worlds: dict[str, World]) -> list[Pair]:
    """Put ``back`` at the first replica and a ``front`` at each of the others."""
    first, *others = worlds.values()
    first.apply(
        mesh(), node("back", host="127.0.0.1", port=9080), node("front", backends=["b.local"]),
        service("b.local", "back"), node("batch"),
    )  # fmt: skip
    first.register("back", FIRST_UID)
    first.register("front", FIRST_UID + 1)
    host = first.host()
    at = (host, free_port(host))
    back = handwritten.server("b", first.home / "run/meshca.sock", at, "default", "clients")
    pairs, backs = [], {"back": first.envoy_with(back, "back", uid=FIRST_UID)}
    for world in others:
        plain = (host, free_port(host))
        front = handwritten.client("f", world.home / "run/meshca.sock", plain, at, ("default", "servers:b.local"))
        envoys: dict[str, EnvoyProcess] = {**backs, "front": world.envoy_with(front, "front", uid=FIRST_UID + 1)}
        pairs.append(Pair(world, plain, envoys, at))
    for pair in pairs:
        eventually(pair.ask, 10, "a request")
    return pairs


@contextlib.contextmanager
def load_on(pairs: list[Pair], worlds: dict[str, World]) -> Iterator[tuple[list[Load], list[Writing]]]:
    with contextlib.ExitStack() as running:
        loads = [running.enter_context(Load(pair)) for pair in pairs]
        yield loads, [running.enter_context(Writing(world, "batch")) for world in worlds.values()]


def crl_numbers_only_grow(where: Database) -> int:
    """Check that each issuer's CRL numbers are unique and grow with the trust generation; return how many there are."""
    query = "SELECT subject, reason FROM audit WHERE action = 'publish-crl' AND outcome = 'ok'"
    found: dict[str, list[tuple[int, int]]] = {}
    for row in where.rows(query):
        if told := _PUBLISHED.match(row.reason):
            found.setdefault(row.subject, []).append((int(told[2]), int(told[1])))
    for published in found.values():
        numbers = [number for _, number in sorted(published)]
        assert numbers == sorted(set(numbers))
    return sum(map(len, found.values()))


def killed_in_turn(worlds: dict[str, World], passphrase: str) -> list[float]:
    """Kill each replica, start it again, and return how long after that its Envoy's stream was back."""
    took = []
    for world in worlds.values():
        killed = time.monotonic()
        world.kill()
        world.start("--passphrase-file", passphrase)
        seconds_until(lambda world=world: world.admin.streams(), 5)
        took.append(time.monotonic() - killed)
    return took


def leader_stopped(where: Database, worlds: dict[str, World]) -> tuple[float, float]:
    """Stop the leader until another leads; return how long that took, and how long a revocation did meanwhile."""
    holder, epoch = where.leader()
    leader = worlds[holder].server
    other = next(world for name, world in worlds.items() if name != holder)
    assert leader is not None
    leader.send_signal(signal.SIGSTOP)
    try:
        answer = other.admin.certificates(node="batch", state="valid")[0]
        revoked = seconds_until(lambda: other.admin.revoke(answer.serial).crl_number, 15)
        taken = seconds_until(lambda: where.leader()[1] > epoch, _TAKEN_OVER)
        assert where.leader()[0] != holder
    finally:
        leader.send_signal(signal.SIGCONT)
    eventually(lambda: "leads no more" in worlds[holder].log(), 10, "the late leader's notice")
    assert where.leader()[0] != holder
    return taken, revoked


@pytest.mark.timeout(150)
def test_each_replica_may_die_and_the_leader_may_be_stopped() -> None:
    with database() as where, replicas(3, where) as worlds:
        passphrase = str(worlds["server"].home / "passphrase")
        pairs = fleet(worlds)
        with load_on(pairs, worlds) as (loads, writers):
            # Holders at all three replicas have to acknowledge, and each does so at its own.
            successor = worlds["r2"].run("rotate", "issuing", "--wait", "-o", "json").json["id"]
            active = "SELECT id FROM authorities WHERE role = 'issuing' AND state = 'active'"
            assert [row.id for row in where.rows(active)] == [successor]
            back_in = killed_in_turn(worlds, passphrase)
            taken, revoked = leader_stopped(where, worlds)
            for load in loads:
                load.more(20)
        result(where, worlds["server"], loads, writers)
        print(f"back in {[round(one, 2) for one in back_in]}, taken over in {taken:.1f}, revoked in {revoked:.2f} s")  # noqa: T201


def result(where: Database, world: World, loads: list[Load], writers: list[Writing]) -> None:
    """Check what is left of it all."""
    assert [load.failures for load in loads] == [[] for _ in loads]
    rows = where.rows("SELECT serial, state, revoked_at FROM certificates")
    assert missing(writers, rows) == (set(), set())
    issued = [serial for writer in writers for serial in writer.issued]
    assert len(issued) == len(set(issued))
    assert all(writer.issued and writer.revoked for writer in writers)
    numbers = crl_numbers_only_grow(where)
    chains: Any = world.run("audit", "verify", "-o", "json").json
    assert chains["intact"], chains
    answered = sum(load.answered for load in loads)
    print(f"{answered} requests, {len(issued)} issued, {numbers} CRLs, pid {os.getpid()}")  # noqa: T201
