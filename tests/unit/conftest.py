"""What unit tests share: keys open at once, and tracebacks in the log are plain."""

from __future__ import annotations

import pytest
import structlog

from meshca.keys import sealed

# Sealing at its real cost would be most of what these tests do; it is otherwise as it is. A test that lets another
# process open its home says `real_cost`.
_CHEAP = 16


@pytest.fixture(autouse=True)
def cheap_seals(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seal keys at a fraction of the cost, except where that is what is tested."""
    if request.node.get_closest_marker("real_cost") is None and "keys" not in request.path.parts:
        monkeypatch.setattr(sealed, "_COSTS", {_CHEAP, *sealed._COSTS})
        monkeypatch.setattr(sealed, "_COST", _CHEAP)


@pytest.fixture(scope="session", autouse=True)
def plain_logs() -> None:
    """Draw no frames around tracebacks that nobody reads: each takes longer than the test."""
    structlog.configure(processors=[structlog.processors.add_log_level, structlog.processors.KeyValueRenderer()])
