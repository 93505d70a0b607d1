"""Files that `meshca agent --drop FILE` keeps: the targets of `meshca drop --config`, with the agent as their server.

The rules this module keeps:
- The file is read, and its folders are opened and refused, before the agent attests.
- Files are kept from when the agent first knows what is behind it until it ends.
- What no retry can mend ends the keeping of files and not the agent, others live on that; it is said again and again.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Self

import structlog

from meshca.cli.drop import targets_of
from meshca.cli.options import preferred

if TYPE_CHECKING:
    from meshca.agent.files import FileDesk
    from meshca.drop.config import Target
    from meshca.drop.source import Source

_log = structlog.get_logger(__name__)

_SAY_AGAIN = 60.0
_LONGEST_END = 5.0


class FileKeeper:
    """Keeps the files of one configuration; a context manager that holds their folders."""

    def __init__(self, config: Path, output: str) -> None:
        self._targets = targets_of(config, self._open, output)
        self._ended = threading.Event()
        self._desk: FileDesk | None = None
        self._thread = threading.Thread(target=self._keep, name="files", daemon=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._targets.end()
        if self._desk is not None:
            self._thread.join(_LONGEST_END)
        self._targets.__exit__()

    def start(self, desk: FileDesk) -> None:
        """Keep files from now on."""
        self._desk = desk
        self._thread.start()

    def _keep(self) -> None:
        try:
            self._targets.run()
        except BaseException as error:
            _log.error("files are not kept any more", exc_info=error)
        while not self._ended.wait(_SAY_AGAIN):
            _log.error("files are not kept any more", remedy="start the agent again, and tell us what it said before")

    @contextmanager
    def _open(self, target: Target) -> Iterator[Source]:
        from meshca.agent.files import word_for
        from meshca.drop.source import AdminSource, Renewal, Wish

        desk = self._desk
        if desk is None:
            raise AssertionError("files are kept once there is an agent")
        spiffe_id = str(desk.resolve(target.node))
        subject = spiffe_id if target.subject else ""
        fresh, kind = target.verify is not None, preferred(desk.key_types)
        wish = Wish(spiffe_id, word_for(target.label), None, target.dns, kind, fresh, subject)
        yield AdminSource(desk, wish, spiffe_id, Renewal(_now, random.SystemRandom().random))


def _now() -> datetime:
    return datetime.now(UTC)
