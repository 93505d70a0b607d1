"""`python -m harness.skewed FILE meshca…`: meshca whose wall clock is as many seconds off as FILE says, at any moment.

Everything else is the real program; only the one clock that it takes as an argument is another.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path


@dataclass(frozen=True)
class Skew:
    """How far off the clock is; writing it makes the clock jump."""

    file: Path

    def set(self, seconds: int) -> None:
        """Make the clock jump."""
        draft = self.file.with_suffix(".new")
        draft.write_text(str(seconds))
        draft.replace(self.file)  # whole at any moment, for another process reads it

    def now(self) -> datetime:
        """Return the time by this clock."""
        return datetime.now(UTC) + timedelta(seconds=int(self.file.read_text()))


if __name__ == "__main__":
    from meshca.cli.main import main
    from meshca.server.house import SystemClock

    skew = Skew(Path(sys.argv[1]))
    SystemClock.now = lambda _: skew.now()  # type: ignore[method-assign, assignment]
    sys.argv = ["meshca", *sys.argv[2:]]
    main()
