"""Run the rows and print the table. ``python -m benchmarks --help`` from scripts/; users call scripts/bench."""

from __future__ import annotations

import argparse
import json
import os
import platform
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import commandline, delivery, issuance, keys, ledger, mesh
from benchmarks.measure import Row

_ROWS = ("core", "issuance", "keys", "delivery", "mesh", "ledger", "cli")


def main() -> int:
    """Measure what was asked for; exit 1 where a bar was missed."""
    options = _options()
    rows: list[Row] = []
    for name in options.only or _ROWS:
        rows += _measure(name, options)
    if options.json:
        print(json.dumps({"machine": _machine(), "rows": [row.as_json() for row in rows]}, indent=2))
    else:
        _show(rows)
    return 0 if all(row.met is not False for row in rows) else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/bench", description="The benchmark table, peers beside it in one run."
    )
    parser.add_argument("only", nargs="*", choices=[*_ROWS, []], help="rows to measure (default: all)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--runs", type=int, default=3, help="runs of each row; the median is shown")
    parser.add_argument("--seconds", type=float, default=4.0, help="load per run of an issuance row")
    parser.add_argument("--streams", type=int, default=1000, help="streams of the delivery rows")
    return parser.parse_args()


def _measure(name: str, options: argparse.Namespace) -> list[Row]:
    if name == "core":
        return [issuance.core_row(options.runs * 3)]
    if name in {"issuance", "keys"}:
        beside = issuance.rows if name == "issuance" else keys.rows
        return beside(Path(os.environ["MESHCA_OPENBAO"]), options.seconds, options.runs)
    if name == "delivery":
        return delivery.rows(options.streams, options.runs)
    if name == "mesh":
        return mesh.rows(options.runs)
    if name == "ledger":
        return ledger.rows(options.runs)
    return [commandline.row(options.runs * 5)]


def _machine() -> str:
    names = {line.split(": ", 1)[1] for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line}
    return f"{os.cpu_count()} × {', '.join(sorted(names)) or platform.machine()}, Python {platform.python_version()}"


def _show(rows: list[Row]) -> None:
    table = Table(title=f"meshca benchmark: {_machine()}", title_justify="left", show_lines=True)
    for title in ("what", "ours", "beside it", "ratio", "bar", ""):
        table.add_column(title, overflow="fold")
    for row in rows:
        mark = {True: "[green]✔[/]", False: "[red]✘[/]", None: ""}[row.met]
        table.add_row(row.what, row.ours, row.peer, row.ratio, row.bar, mark)
    Console().print(table)


if __name__ == "__main__":
    raise SystemExit(main())
