"""What has become of a target: ``status.json`` in its folder, for monitoring and for people.

The rules this module keeps:
- It is replaced as a whole, and holds no secret.
- That it cannot be written (a full disk) is no reason to stop the drop.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from meshca.drop.generation import GenerationFolder
from meshca.drop.loop import Report
from meshca.drop.material import Material
from meshca.errors import MeshcaError

STATUS_FILE = "status.json"
WAITING, PLACED, IN_USE, FAILED = "waiting", "placed", "in use", "failed"


@dataclass(slots=True)
class Status:
    """The state of one target. ``in_use`` is the generation that was taken up last."""

    target: str
    state: str = WAITING
    generation: str | None = None
    serial: str | None = None
    not_after: str | None = None
    trust: str | None = None
    in_use: str | None = None
    error: str | None = None
    at: str = ""

    def document(self) -> dict[str, str | None]:
        """Return it as JSON has it."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(slots=True)
class StatusFile:
    """A report that keeps the status file, and tells another report."""

    folder: GenerationFolder
    status: Status
    then: Report
    now: Callable[[], datetime] = field(repr=False)

    def placed(self, generation: str, material: Material) -> None:
        """Note what is in place."""
        status = self.status
        status.state, status.generation, status.serial = PLACED, generation, material.serial
        status.not_after = _text(material.leaf.not_valid_after_utc)
        status.trust, status.error = material.trust, None
        self._write()
        self.then.placed(generation, material)

    def worked(self, generation: str) -> None:
        """Note what is in use."""
        self.status.state, self.status.in_use, self.status.error = IN_USE, generation, None
        self._write()
        self.then.worked(generation)

    def failed(self, error: MeshcaError, retry_in: float) -> None:
        """Note what went wrong; what is in use stays in use."""
        self.gave_up(error)
        self.then.failed(error, retry_in)

    def gave_up(self, error: MeshcaError) -> None:
        """Note what went wrong and will not be tried again."""
        self.status.state, self.status.error = FAILED, str(error)
        self._write()

    def _write(self) -> None:
        self.status.at = _text(self.now())
        with contextlib.suppress(MeshcaError):
            self.folder.note(STATUS_FILE, json.dumps(self.status.document(), indent=2).encode() + b"\n")


def _text(at: datetime) -> str:
    return at.isoformat(timespec="seconds").replace("+00:00", "Z")
