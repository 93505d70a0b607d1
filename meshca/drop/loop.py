"""The life of a drop: wait for material, put it in place, have it taken up, acknowledge.

The rules this module keeps:
- Material is acknowledged once it has been taken up (the command has succeeded, the port serves it), and old keys go
  then and not before.
- Changes that follow each other closely are one change: after the first one, nothing is put in place before a pause of
  ``debounce`` without another, or five of them in all.
- Every failure (no server, a refusal, a full disk, the command) is reported and tried again after 1, 2, 4 … 60 s, where
  a part does not answer … 10 s: revocations wait for it. The generation in force stays.
- A newer generation does not wait for the command of an older one, or for what a port serves: the command is due at
  once.
- After a start the command runs even if nothing seems new: nobody knows whether it did before.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from meshca.drop.generation import GenerationFolder
from meshca.drop.layouts import PEM, Layout
from meshca.drop.material import Material
from meshca.drop.source import Source
from meshca.drop.timing import Timer
from meshca.errors import MeshcaError, UnavailableError

FIRST_RETRY = 1.0
LONGEST_RETRY = 60.0
LONGEST_ABSENCE_RETRY = 10.0
_FIRST_WAIT = 30.0
_IDLE = 3600.0
_LONGEST_DEBOUNCE = 5


class Report(Protocol):
    """Who hears of what happens."""

    def placed(self, generation: str, material: Material) -> None:
        """Material is in place."""

    def worked(self, generation: str) -> None:
        """It has been taken up, or there is nobody to ask."""

    def failed(self, error: MeshcaError, retry_in: float) -> None:
        """Something failed and will be tried again after that many seconds."""


class NotYetError(MeshcaError):
    """The program was told, and has not been seen to obey yet: to be looked at again in ``seconds``."""

    def __init__(self, seconds: float) -> None:
        super().__init__("not taken up yet")
        self.seconds = seconds


class TakeUp(Protocol):
    """What makes a program use a new generation, and finds out whether it does."""

    def __call__(self, generation: str, material: Material, /) -> None:
        """Return if it is in use.

        Raises:
            NotYetError: it may be soon; calling again looks again.
            MeshcaError: it is not; calling again tries again.
        """


@dataclass(frozen=True, slots=True)
class Manner:
    """How material is put in place."""

    timer: Timer
    layout: Layout = PEM
    debounce: float = 0.0
    idle: float = _IDLE  # how long to wait for material at most before `run` looks whether it is to end


@dataclass(slots=True)
class _Backoff:
    failures: int = 0

    def next(self, error: MeshcaError) -> float:
        longest = LONGEST_ABSENCE_RETRY if isinstance(error, UnavailableError) else LONGEST_RETRY
        delay = min(longest, FIRST_RETRY * 2.0 ** min(self.failures, 16))
        self.failures += 1
        return delay


class Drop:
    """One folder kept in step with one identity."""

    def __init__(
        self, source: Source, folder: GenerationFolder, take_up: TakeUp, report: Report, manner: Manner
    ) -> None:
        self._source = source
        self._folder = folder
        self._take_up = take_up
        self._report = report
        self._manner = manner
        self._timer = manner.timer
        self._unplaced: Material | None = None
        self._placed_before = False
        self._unworked: tuple[str, Material] | None = None
        self._command_due_at = 0.0
        self._source_backoff = _Backoff()
        self._command_backoff = _Backoff()

    def once(self) -> str:
        """Put one generation in force and return its name.

        Raises:
            MeshcaError: it could not be had, written, or taken up by the command.
        """
        material = self._source.wait(_FIRST_WAIT)
        if material is None:
            raise UnavailableError(f"the server has sent nothing in {_FIRST_WAIT:g} s")
        generation = self._put(material)
        self._await_use(generation, material)
        self._settle(generation)
        return generation

    def run(self, ended: Callable[[], bool] = lambda: False) -> None:
        """Go on until the process, or this drop, is told to end."""
        while not ended():
            self.step()

    def _await_use(self, generation: str, material: Material) -> None:
        while True:
            try:
                self._take_up(generation, material)
            except NotYetError as error:
                self._timer.sleep(error.seconds)
            else:
                return

    def step(self) -> None:
        """Wait for what is due next, and do it."""
        try:
            self._place()
            self._source_backoff = _Backoff()
        except MeshcaError as error:
            self._pause(error)
        if self._unworked is not None and self._timer.monotonic() >= self._command_due_at:
            self._have_taken_up(*self._unworked)

    def _place(self) -> None:
        self._unplaced = self._next()
        if self._unplaced is None:
            return
        self._unplaced = self._calmed(self._unplaced)
        material, generation = self._unplaced, self._put(self._unplaced)
        self._unplaced = None
        self._unworked = generation, material
        self._command_due_at = self._timer.monotonic()
        self._command_backoff = _Backoff()

    def _put(self, material: Material) -> str:
        layout = self._manner.layout
        generation = self._folder.put(layout.contents(material), layout.secret)
        self._placed_before = True
        self._report.placed(generation, material)
        return generation

    def _calmed(self, material: Material) -> Material:
        """Return the newest material once no more comes for a moment; the first one is not kept waiting."""
        pause = self._manner.debounce
        if not self._placed_before or not pause:
            return material
        end = self._timer.monotonic() + _LONGEST_DEBOUNCE * pause
        while (left := min(pause, end - self._timer.monotonic())) > 0:
            newer = None
            # What there is now is due, whether or not the server answers.
            with contextlib.suppress(MeshcaError):
                newer = self._source.wait(left)
            if newer is None:
                break
            material = newer
        return material

    def _next(self) -> Material | None:
        if self._unplaced is None:
            return self._source.wait(self._patience())
        # What could not be written is due, whether or not the server answers.
        with contextlib.suppress(MeshcaError):
            return self._source.wait(0.0) or self._unplaced
        return self._unplaced

    def _patience(self) -> float:
        if self._unworked is None:
            return self._manner.idle
        return max(0.0, min(self._manner.idle, self._command_due_at - self._timer.monotonic()))

    def _pause(self, error: MeshcaError) -> None:
        delay = self._source_backoff.next(error)
        self._report.failed(error, delay)
        # A command that is due earlier than that is not kept waiting.
        self._timer.sleep(min(delay, self._patience()))

    def _have_taken_up(self, generation: str, material: Material) -> None:
        try:
            self._take_up(generation, material)
            self._settle(generation)
            self._unworked = None
        except NotYetError as error:
            self._command_due_at = self._timer.monotonic() + error.seconds
        except MeshcaError as error:
            delay = self._command_backoff.next(error)
            self._command_due_at = self._timer.monotonic() + delay
            self._report.failed(error, delay)

    def _settle(self, generation: str) -> None:
        self._folder.settle()
        self._report.worked(generation)
        # A server that is away hears it when it sends its trust again.
        with contextlib.suppress(MeshcaError):
            self._source.acknowledge()
