"""The row about start-up: `meshca --help` beside the import of click."""

from __future__ import annotations

import subprocess
import sys
import time

from benchmarks.measure import Row, median


def row(runs: int) -> Row:
    """Return the start-up row; the two take turns."""
    click, ours = [], []
    for _ in range(runs):
        click.append(_wall([sys.executable, "-c", "import click"]))
        ours.append(_wall([sys.executable, "-m", "meshca", "--help"]))
    ratio = median(ours) / median(click)
    return Row(
        what="meshca --help",
        ours=f"{median(ours) * 1000:.0f} ms",
        peer=f"{median(click) * 1000:.0f} ms for `import click`",
        ratio=f"{ratio:.2f} ×",
        bar="≤ 3 × (aim 1.5 ×)",
        met=ratio <= 3,
        figures={"ours_s": median(ours), "click_s": median(click), "ratio": ratio},
    )


def _wall(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - began
