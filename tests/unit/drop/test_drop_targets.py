"""Several targets: each in its own time, acknowledged when it is in use, and what has become of it in a file."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from fakes.ca import World as Ca
from fakes.dropping import FakeSource, new_material

from meshca.drop import targets as targets_module
from meshca.drop.config import Target
from meshca.drop.generation import GenerationFolder
from meshca.drop.loop import NotYetError
from meshca.drop.serving import NotServedError
from meshca.drop.targets import TakingUp, Targets, World
from meshca.drop.timing import Timer
from meshca.errors import ConflictError, MeshcaError, RefusedError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from meshca.drop.material import Material

AT = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
PATIENCE = 10


@dataclass
class Stage:
    """Sources by the name of their target, and what was reported."""

    ca: Ca = field(default_factory=Ca)
    sources: dict[str, FakeSource] = field(default_factory=dict)
    refusals: list[MeshcaError] = field(default_factory=list)
    said: list[tuple[str, ...]] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

    @property
    def world(self) -> World:
        return World(
            self.open_source, lambda target: _Report(self, target.label), Timer(time.monotonic, self.sleep), lambda: AT
        )

    def sleep(self, seconds: float) -> None:
        """Let a retry come soon."""
        time.sleep(min(seconds, 0.01))

    @contextlib.contextmanager
    def open_source(self, target: Target) -> Iterator[FakeSource]:
        if self.refusals:
            raise self.refusals.pop()
        with self.sources.setdefault(target.label, FakeSource()) as source:
            yield source

    def say(self, *words: str) -> None:
        with self.changed:
            self.said.append(words)
            self.changed.notify_all()

    def wait_for(self, *words: str) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: words in self.said, PATIENCE), self.said

    def send(self, name: str) -> Material:
        material = new_material(self.ca)
        self.sources.setdefault(name, FakeSource()).feed.put(material)
        return material


@dataclass
class _Report:
    stage: Stage
    target: str

    def placed(self, generation: str, material: Material) -> None:
        self.stage.say(self.target, "placed", generation[-1])

    def worked(self, generation: str) -> None:
        self.stage.say(self.target, "worked", generation[-1])

    def failed(self, error: MeshcaError, retry_in: float) -> None:
        self.stage.say(self.target, "failed", str(error))


@pytest.fixture
def stage() -> Stage:
    return Stage()


@contextlib.contextmanager
def running(targets: Targets) -> Iterator[None]:
    thread = threading.Thread(target=targets.run)
    thread.start()
    try:
        yield
    finally:
        targets.end()
        thread.join(PATIENCE)
    assert not thread.is_alive()


def target(folder: Path, name: str, **more: Any) -> Target:
    return Target(name=name, node=name, dir=str(folder / name), **more)


def status(folder: Path, name: str) -> Any:
    return json.loads((folder / name / "status.json").read_text())


def test_each_target_has_its_own_source_and_a_failing_one_holds_up_no_other(stage: Stage, tmp_path: Path) -> None:
    bad = {"command": "false"}
    stage.send("bad")
    good = stage.send("good")
    made = Targets([target(tmp_path, "bad", reload=bad), target(tmp_path, "good")], stage.world)
    with made, running(made):
        stage.wait_for("bad", "failed", "false ended with exit code 1")
        stage.wait_for("good", "worked", "1")
        assert stage.sources["good"].acknowledged.get(timeout=PATIENCE) == good.serial
        newer = stage.send("good")
        assert stage.sources["good"].acknowledged.get(timeout=PATIENCE) == newer.serial

    assert status(tmp_path, "good") == {
        "target": "good", "state": "in use", "generation": "generation-00000002", "serial": newer.serial,
        "not_after": newer.leaf.not_valid_after_utc.isoformat().replace("+00:00", "Z"), "trust": newer.trust,
        "in_use": "generation-00000002", "error": None, "at": "2026-11-25T12:00:00Z",
    }  # fmt: skip
    found = status(tmp_path, "bad")
    assert (found["state"], found["in_use"], found["error"]) == ("failed", None, "false ended with exit code 1")
    assert stage.sources["bad"].acknowledged.empty()
    assert [each["state"] for each in made.states] == ["failed", "in use"]
    assert all(source.closed for source in stage.sources.values())


def test_a_source_that_cannot_be_opened_is_opened_later(stage: Stage, tmp_path: Path) -> None:
    stage.refusals = [UnavailableError("no server yet")]
    stage.send("a")
    made = Targets([target(tmp_path, "a")], stage.world)
    with made, running(made):
        stage.wait_for("a", "worked", "1")
    assert stage.said[0] == ("a", "failed", "no server yet")


def test_it_is_acknowledged_only_once_the_port_serves_it(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serves = threading.Event()
    asked = []

    def require_served(port: object, material: Material, files: Path, *_: object) -> None:
        asked.append((str(port), files, (tmp_path / "mark").exists()))
        if not serves.is_set():
            raise NotServedError("still the old one")

    monkeypatch.setattr(targets_module, "require_served", require_served)
    material = stage.send("a")
    monkeypatch.setattr("meshca.drop.loop.FIRST_RETRY", 0.05)
    port = {"address": "127.0.0.1:9", "timeout": 0.3}
    told = target(tmp_path, "a", reload={"command": f"touch {tmp_path}/mark"}, verify=port)
    made = Targets([told], stage.world)
    with made, running(made):
        stage.wait_for("a", "failed", "still the old one")
        assert stage.sources["a"].acknowledged.empty()
        serves.set()
        assert stage.sources["a"].acknowledged.get(timeout=PATIENCE) == material.serial
    # The program was told first, and the files of the very generation are compared.
    assert asked[0] == ("127.0.0.1:9", tmp_path / "a/generation-00000001", True)


def test_newer_material_does_not_wait_for_what_a_port_serves(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = stage.send("a"), new_material(stage.ca)

    def require_served(port: object, material: Material, *_: object) -> None:
        if material == old:
            stage.sources["a"].feed.put(new)
            raise NotServedError("still the one before")

    monkeypatch.setattr(targets_module, "require_served", require_served)
    made = Targets([target(tmp_path, "a", verify={"address": "127.0.0.1:9", "timeout": 600}, debounce=0)], stage.world)
    with made, running(made):
        assert stage.sources["a"].acknowledged.get(timeout=PATIENCE) == new.serial


class Ticking:
    """Time that passes where somebody waits."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timer = Timer(lambda: self.now, self.sleep)

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_a_signal_is_sent_again_while_nothing_happens_and_a_command_is_not(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, told = Ticking(), []

    def require_served(*_: object) -> None:
        raise NotServedError("still the old one")

    monkeypatch.setattr(targets_module, "require_served", require_served)
    monkeypatch.setattr(targets_module, "run_command", lambda *_: told.append(("command", clock.now)))
    monkeypatch.setattr("meshca.drop.signalling.Signal.send", lambda _: told.append(("signal", clock.now)))
    port = {"address": "127.0.0.1:9", "timeout": 5}
    for reload in ({"signal": "HUP", "pid": 5, "program": "/bin/sleep"}, {"command": "reload"}):
        take_up = TakingUp(target(tmp_path, "a", reload=reload, verify=port), clock.timer)
        began = clock.now
        while clock.now < began + 5:
            with pytest.raises(NotYetError):
                take_up("generation-00000001", new_material(stage.ca))
            clock.sleep(1)
        with pytest.raises(NotServedError):
            take_up("generation-00000001", new_material(stage.ca))

    assert told == [("signal", 0), ("signal", 2), ("signal", 4), ("command", 5)]


def test_once_does_what_it_can_and_returns_what_failed(stage: Stage, tmp_path: Path) -> None:
    stage.send("bad")
    stage.send("good")
    gone = {"signal": "HUP", "pid_file": f"{tmp_path}/none.pid", "program": "/bin/sleep"}
    with Targets([target(tmp_path, "bad", reload=gone), target(tmp_path, "good")], stage.world) as made:
        failed = made.once()

    assert set(failed) == {"bad"}
    assert "none.pid: No such file" in str(failed["bad"])
    assert status(tmp_path, "bad")["error"] == str(failed["bad"])
    assert status(tmp_path, "good")["state"] == "in use"


def test_one_unsafe_folder_refuses_all_before_anything_is_written(stage: Stage, tmp_path: Path) -> None:
    (tmp_path / "open").mkdir(mode=0o755)
    (tmp_path / "open").chmod(0o755)

    with pytest.raises(RefusedError, match="everybody may read it"):
        Targets([target(tmp_path, "good"), target(tmp_path, "open")], stage.world)
    assert os.listdir(tmp_path / "open") == []
    GenerationFolder(tmp_path / "good").close()  # it was given back


def test_a_folder_stays_locked_while_its_targets_run(stage: Stage, tmp_path: Path) -> None:
    with Targets([target(tmp_path, "a")], stage.world), pytest.raises(ConflictError, match="another drop"):
        GenerationFolder(tmp_path / "a")
    GenerationFolder(tmp_path / "a").close()


def test_what_no_retry_can_mend_ends_all_targets(stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def put(*_: object) -> str:
        raise ZeroDivisionError

    monkeypatch.setattr(GenerationFolder, "put", put)
    stage.send("a")
    with Targets([target(tmp_path, "a"), target(tmp_path, "b")], stage.world) as made, pytest.raises(ZeroDivisionError):
        made.run()


def test_a_full_disk_for_the_status_file_stops_nothing(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def note(*_: object) -> None:
        raise UnavailableError("disk full")

    monkeypatch.setattr(GenerationFolder, "note", note)
    stage.send("a")
    with Targets([target(tmp_path, "a")], stage.world) as made:
        assert made.once() == {}
