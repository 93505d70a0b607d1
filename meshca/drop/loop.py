"""The life of a drop: wait for material, put it in place, run the command, acknowledge.

The rules this module keeps:
- Material is acknowledged once the command has succeeded, and old keys go then and not before.
- Every failure (no server, a refusal, a full disk, the command) is reported and tried again after 1, 2, 4 … 60 s, where
  a part does not answer … 10 s: revocations wait for it. The generation in force stays.
- A newer generation does not wait for the command of an older one: the command is due at once.
- After a start the command runs even if nothing seems new: nobody knows whether it did before.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from meshca.drop.generation import GenerationFolder
from meshca.drop.material import Material
from meshca.drop.source import Source
from meshca.errors import MeshcaError, UnavailableError

FIRST_RETRY = 1.0
LONGEST_RETRY = 60.0
LONGEST_ABSENCE_RETRY = 10.0
_FIRST_WAIT = 30.0
_IDLE = 3600.0


class Report(Protocol):
    """Who hears of what happens."""

    def placed(self, generation: str, material: Material) -> None:
        """Material is in place."""

    def worked(self, generation: str) -> None:
        """The command has succeeded, or there is none."""

    def failed(self, error: MeshcaError, retry_in: float) -> None:
        """Something failed and will be tried again after that many seconds."""


@dataclass(frozen=True, slots=True)
class Timer:
    """How the loop reads and spends time."""

    monotonic: Callable[[], float]
    sleep: Callable[[float], object]


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
        self, source: Source, folder: GenerationFolder, command: Callable[[], None], report: Report, timer: Timer
    ) -> None:
        self._source = source
        self._folder = folder
        self._command = command
        self._report = report
        self._timer = timer
        self._unplaced: Material | None = None
        self._unworked: str | None = None
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
        generation = self._folder.put(material.files())
        self._report.placed(generation, material)
        self._command()
        self._settle(generation)
        return generation

    def run(self) -> None:
        """Go on until the process is told to end."""
        while True:
            self.step()

    def step(self) -> None:
        """Wait for what is due next, and do it."""
        try:
            self._place()
            self._source_backoff = _Backoff()
        except MeshcaError as error:
            self._pause(error)
        if self._unworked is not None and self._timer.monotonic() >= self._command_due_at:
            self._run_command(self._unworked)

    def _place(self) -> None:
        material = self._next()
        if material is None:
            return
        self._unplaced = material
        generation = self._folder.put(material.files())
        self._unplaced = None
        self._report.placed(generation, material)
        self._unworked = generation
        self._command_due_at = self._timer.monotonic()
        self._command_backoff = _Backoff()

    def _next(self) -> Material | None:
        if self._unplaced is None:
            return self._source.wait(self._patience())
        # What could not be written is due, whether or not the server answers.
        with contextlib.suppress(MeshcaError):
            return self._source.wait(0.0) or self._unplaced
        return self._unplaced

    def _patience(self) -> float:
        if self._unworked is None:
            return _IDLE
        return max(0.0, self._command_due_at - self._timer.monotonic())

    def _pause(self, error: MeshcaError) -> None:
        delay = self._source_backoff.next(error)
        self._report.failed(error, delay)
        # A command that is due earlier than that is not kept waiting.
        self._timer.sleep(min(delay, self._patience()))

    def _run_command(self, generation: str) -> None:
        try:
            self._command()
            self._settle(generation)
            self._unworked = None
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
