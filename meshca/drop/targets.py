"""Several drops at once: each target has its own key, its own folder and its own thread.

The rules this module keeps:
- All folders are opened, and refused if they are not safe, before the first file is written.
- A target that fails holds up no other. A source that cannot be opened now is opened later.
- Material is acknowledged once the program was told (command or signal) and its port serves the new certificate,
  whichever of both the target asks for.
- The agent runs targets in the same way: it gives a source for each.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from meshca.drop.command import run_command, split_command
from meshca.drop.config import Target
from meshca.drop.generation import GenerationFolder
from meshca.drop.layouts import LAYOUTS
from meshca.drop.loop import Drop, Manner, NotYetError, Report
from meshca.drop.material import Material
from meshca.drop.serving import NotServedError, Port, require_served
from meshca.drop.source import Source
from meshca.drop.status import Status, StatusFile
from meshca.drop.timing import Timer
from meshca.errors import MeshcaError

# How soon a target notices that it is to end.
_LONGEST_WAIT = 1.0
_LOOK_AGAIN = 0.1
_SIGNAL_AGAIN = 2.0

OpenSource = Callable[[Target], AbstractContextManager[Source]]


@dataclass(frozen=True, slots=True)
class World:
    """What the targets need of the outside: sources, time, and who hears of what happens."""

    open_source: OpenSource
    report: Callable[[Target], Report]
    timer: Timer
    now: Callable[[], datetime]


class LazySource:
    """A source that is opened when it is first asked, and asked again later where that fails."""

    def __init__(self, open_source: Callable[[], AbstractContextManager[Source]]) -> None:
        self._open = open_source
        self._stack = contextlib.ExitStack()
        self._source: Source | None = None

    def wait(self, seconds: float) -> Material | None:
        """Return material that differs from the last returned."""
        if self._source is None:
            self._source = self._stack.enter_context(self._open())
        return self._source.wait(seconds)

    def acknowledge(self) -> None:
        """Say that what was returned last is in force."""
        if self._source is not None:
            self._source.acknowledge()

    def close(self) -> None:
        """Give the source back."""
        self._stack.close()


@dataclass(frozen=True, slots=True)
class _Running:
    target: Target
    drop: Drop
    report: StatusFile
    source: LazySource


class Targets:
    """The targets of one configuration; a context manager that holds their folders."""

    def __init__(self, targets: Sequence[Target], world: World) -> None:
        self._world = world
        self._ended = threading.Event()
        self._busy = False
        self._broken: BaseException | None = None
        self._folders = contextlib.ExitStack()
        try:
            self._running = [self._made(target) for target in targets]
        except BaseException:
            self._folders.close()
            raise

    def __enter__(self) -> Targets:
        return self

    def __exit__(self, *_: object) -> None:
        # Under a thread that still works, the descriptor of a folder must not come to mean something else.
        if not self._busy:
            self._folders.close()

    @property
    def states(self) -> list[dict[str, str | None]]:
        """What has become of each target."""
        return [each.report.status.document() for each in self._running]

    def once(self) -> dict[str, MeshcaError]:
        """Put one generation of each target in use; return what failed, by target."""
        failed: dict[str, MeshcaError] = {}
        for each in self._running:
            try:
                each.drop.once()
            except MeshcaError as error:
                each.report.gave_up(error)
                failed[each.target.label] = error
        return failed

    def run(self) -> None:
        """Keep all targets until ``end`` is called.

        Raises:
            BaseException: what broke a target, if something did that no retry can mend.
        """
        threads = [threading.Thread(target=self._keep, args=(each,), daemon=True) for each in self._running]
        for thread in threads:
            thread.start()
        self._busy = True
        self._ended.wait()
        for thread in threads:
            thread.join(_LONGEST_WAIT)
        self._busy = any(thread.is_alive() for thread in threads)
        if self._broken is not None:
            raise self._broken

    def end(self) -> None:
        """Let ``run`` return."""
        self._ended.set()

    def _keep(self, running: _Running) -> None:
        try:
            running.drop.run(self._ended.is_set)
        except BaseException as error:
            # A thread that died alone would leave its files to expire unnoticed.
            self._broken = error
            self._ended.set()
        finally:
            running.source.close()

    def _made(self, target: Target) -> _Running:
        folder = self._folders.enter_context(GenerationFolder(target.folder, target.access()))
        report = StatusFile(folder, Status(target.label), self._world.report(target), self._world.now)
        source = LazySource(lambda: self._world.open_source(target))
        self._folders.callback(source.close)
        manner = Manner(self._world.timer, LAYOUTS[target.layout], target.debounce, _LONGEST_WAIT)
        take_up = TakingUp(target, self._world.timer)
        return _Running(target, Drop(source, folder, take_up, report, manner), report, source)


class TakingUp:
    """Tells a target's program, and then looks at its port, without making anything else wait for that.

    A signal is sent again while nothing happens: HAProxy loses one that comes while it still obeys the last (measured).
    """

    def __init__(self, target: Target, timer: Timer) -> None:
        reload = target.reload
        self._folder = target.folder
        self._layout = LAYOUTS[target.layout]
        self._timer = timer
        self._port = target.verify.as_port() if target.verify else None
        self._signal = reload.as_signal() if reload else None
        self._argv = split_command(reload.command) if reload and reload.command else ()
        self._timeout = reload.timeout if reload else 0.0
        self._told = ""
        self._since = self._signalled = 0.0

    def __call__(self, generation: str, material: Material, /) -> None:
        """Return if the program has been told, and serves the generation where it can be seen."""
        if generation != self._told:
            self._tell()
            self._told, self._since = generation, self._timer.monotonic()
        if self._port is not None:
            self._look(self._port, self._folder / generation, material)
        self._told = ""

    def _tell(self) -> None:
        if self._signal is not None:
            self._signal.send()
            self._signalled = self._timer.monotonic()
        if self._argv:
            run_command(self._argv, os.environ, self._timeout)

    def _look(self, port: Port, files: Path, material: Material) -> None:
        try:
            require_served(port, material, files, self._layout, self._timer)
        except NotServedError as error:
            now = self._timer.monotonic()
            if now - self._since >= port.timeout:
                self._told = ""
                raise
            if self._signal is not None and now - self._signalled >= _SIGNAL_AGAIN:
                self._tell()
            raise NotYetError(_LOOK_AGAIN) from error
