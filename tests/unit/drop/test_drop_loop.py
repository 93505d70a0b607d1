"""The life of a drop: what is retried when, what is kept, what is acknowledged."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from meshca.drop.command import CommandError
from meshca.drop.generation import GenerationFolder
from meshca.drop.loop import Drop, Manner
from meshca.drop.material import Material
from meshca.drop.timing import Timer
from meshca.errors import MeshcaError, RefusedError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

GONE = UnavailableError("no server")


def material(mark: str) -> Material:
    return Material(f"chain {mark}".encode(), b"key", b"bundle", b"crl", mark)


@dataclass
class World:
    """Source, command, report and time of one drop; ``script`` is what the source does, ``None`` a wait in vain."""

    folder: GenerationFolder
    script: list[Material | MeshcaError | None] = field(default_factory=list)
    command_fails: int = 0
    now: float = 0.0
    debounce: float = 0.0
    takes: float = 0.0  # how long the source takes to give material
    events: list[object] = field(default_factory=list)

    def drop(self) -> Drop:
        manner = Manner(Timer(lambda: self.now, self.sleep), debounce=self.debounce)
        return Drop(self, self.folder, self.command, self, manner)

    def sleep(self, seconds: float) -> None:
        self.events.append(("sleep", seconds))
        self.now += seconds

    def wait(self, seconds: float) -> Material | None:
        found = self.script.pop(0) if self.script else None
        self.now += seconds if found is None else self.takes
        if isinstance(found, MeshcaError):
            raise found
        return found

    def acknowledge(self) -> None:
        self.events.append("acknowledged")

    def command(self, generation: str, material: Material) -> None:
        self.events.append(("command", self.now))
        if self.command_fails:
            self.command_fails -= 1
            raise CommandError("reload failed")

    def placed(self, generation: str, material: Material) -> None:
        self.events.append(("placed", generation, material.trust))

    def worked(self, generation: str) -> None:
        self.events.append(("worked", generation))

    def failed(self, error: MeshcaError, retry_in: float) -> None:
        self.events.append(("failed", str(error), retry_in))

    def chain(self) -> str:
        return (self.folder.path / "current" / "svid.pem").read_text()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with GenerationFolder(tmp_path) as folder:
        yield World(folder)


def steps(drop: Drop, count: int) -> None:
    for _ in range(count):
        drop.step()


def test_new_material_is_placed_taken_up_and_only_then_acknowledged(world: World) -> None:
    world.script = [material("one")]
    steps(world.drop(), 1)

    first = "generation-00000001"
    assert world.events == [("placed", first, "one"), ("command", 0.0), ("worked", first), "acknowledged"]


def test_nothing_new_runs_nothing(world: World) -> None:
    world.script = [material("one")]
    drop = world.drop()
    steps(drop, 1)
    world.events.clear()
    steps(drop, 3)

    assert world.events == []


def test_a_failing_command_is_tried_again_later_and_later(world: World) -> None:
    world.script, world.command_fails = [material("one")], 8
    drop = world.drop()
    while "acknowledged" not in world.events:
        drop.step()

    delays = [event[2] for event in world.events if isinstance(event, tuple) and event[0] == "failed"]
    starts = [event[1] for event in world.events if isinstance(event, tuple) and event[0] == "command"]
    assert delays == [1, 2, 4, 8, 16, 32, 60, 60]
    assert starts == [0, 1, 3, 7, 15, 31, 63, 123, 183]


def test_newer_material_does_not_wait_for_the_old_command(world: World) -> None:
    world.script, world.command_fails = [material("one"), material("two")], 1
    steps(world.drop(), 2)

    assert world.now == 0.0
    assert world.events[-1] == "acknowledged"
    assert world.chain() == "chain two"


def test_the_generation_that_worked_stays_while_its_successors_fail(world: World) -> None:
    world.script = [material("works")]
    drop = world.drop()
    steps(drop, 1)
    world.command_fails, world.script = 3, [material("a"), material("b"), material("c")]
    steps(drop, 3)

    kept = sorted(name for name in os.listdir(world.folder.path) if name.startswith("generation"))
    assert kept == ["generation-00000001", "generation-00000003", "generation-00000004"]
    assert world.folder.working == "generation-00000001"


def test_a_server_that_is_away_is_asked_again_later_and_later_and_files_stay(world: World) -> None:
    world.script = [material("one"), *[GONE] * 8, material("two"), GONE]
    drop = world.drop()
    steps(drop, 11)

    delays = [event[2] for event in world.events if isinstance(event, tuple) and event[0] == "failed"]
    assert delays == [1, 2, 4, 8, 10, 10, 10, 10, 1]
    assert world.chain() == "chain two"


def test_a_refusal_is_asked_about_less_and_less_often(world: World) -> None:
    world.script = [*[RefusedError("no registration")] * 8]
    steps(world.drop(), 8)

    delays = [event[2] for event in world.events if isinstance(event, tuple) and event[0] == "failed"]
    assert delays == [1, 2, 4, 8, 16, 32, 60, 60]


def test_a_command_that_is_due_does_not_wait_for_the_server(world: World) -> None:
    world.script, world.command_fails = [material("one"), GONE, GONE, GONE, GONE, GONE], 2
    drop = world.drop()
    steps(drop, 6)

    starts = [event[1] for event in world.events if isinstance(event, tuple) and event[0] == "command"]
    assert starts == [0, 1, 3]


def test_a_full_disk_is_tried_again_with_the_same_material(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    real, failures = GenerationFolder.put, [UnavailableError("disk full")]

    def put(folder: GenerationFolder, files: dict[str, bytes], secret: frozenset[str]) -> str:
        if failures:
            raise failures.pop()
        return real(folder, files, secret)

    monkeypatch.setattr(GenerationFolder, "put", put)
    world.script = [material("one")]
    steps(world.drop(), 2)

    assert world.events[:2] == [("failed", "disk full", 1.0), ("sleep", 1.0)]
    assert world.chain() == "chain one"


def test_once_writes_runs_and_acknowledges(world: World) -> None:
    world.script = [material("one")]

    assert world.drop().once() == "generation-00000001"
    assert world.events[-1] == "acknowledged"


def test_once_fails_with_its_command_and_acknowledges_nothing(world: World) -> None:
    world.script, world.command_fails = [material("one")], 1

    with pytest.raises(CommandError, match="reload failed"):
        world.drop().once()
    assert "acknowledged" not in world.events


def test_once_gives_up_where_the_server_says_nothing(world: World) -> None:
    with pytest.raises(UnavailableError, match="sent nothing in 30 s"):
        world.drop().once()
    assert world.now == 30


def test_changes_that_follow_each_other_closely_are_one(world: World) -> None:
    world.debounce = 2.0
    world.script = [material("first"), material("one"), material("two"), material("three"), None, material("late")]
    drop = world.drop()
    steps(drop, 1)
    assert (world.now, world.chain()) == (0.0, "chain first")  # the first one is not kept waiting
    steps(drop, 1)

    placed = [event[2] for event in world.events if isinstance(event, tuple) and event[0] == "placed"]
    assert placed == ["first", "three"]
    assert world.now == 2.0
    assert world.script[0] == material("late")


def test_changes_without_end_are_put_in_place_after_five_pauses(world: World) -> None:
    world.debounce = 2.0
    world.takes = 1.5
    world.script = [material("first"), *(material(str(number)) for number in range(20))]
    drop = world.drop()
    steps(drop, 2)

    # They came every 1.5 s: after 10 s it is enough.
    assert world.chain() == "chain 7"


def test_a_server_that_goes_away_during_the_pause_loses_nothing(world: World) -> None:
    world.debounce = 2.0
    world.script = [material("first"), material("one"), GONE]
    drop = world.drop()
    steps(drop, 2)

    assert world.chain() == "chain one"
    assert not [event for event in world.events if isinstance(event, tuple) and event[0] == "failed"]
