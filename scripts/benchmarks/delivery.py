"""Rows about delivery: a storm of new streams, one push to all of them, memory; a bare grpc.aio server beside ours."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import grpc

from benchmarks.bare import PUSH
from benchmarks.measure import Row, median, resident_bytes
from benchmarks.server import Server

if TYPE_CHECKING:
    from collections.abc import Iterator

_HERE = Path(__file__).parents[1]
_NODE = "mesh/m/virtualNode/n"


def rows(streams: int, runs: int) -> list[Row]:
    """Return connect, push and memory rows for a number of streams with a connection each."""
    bare = [_bare(streams) for _ in range(runs)]
    ours = [_ours(streams) for _ in range(runs)]
    connect, push = (median([run[i] for run in ours]) for i in (0, 1))
    bare_connect, bare_push = (median([run[i] for run in bare]) for i in (0, 1))
    each, resident = (median([run[i] for run in ours]) for i in (2, 3))
    return [
        _ratio_row(f"{streams:,} streams connect and get a secret each", connect, bare_connect, 2.5),
        _ratio_row(f"push of changed trust to {streams:,} streams, last ACK", push, bare_push, 2.0),
        Row(
            what=f"memory at {streams:,} streams",
            ours=f"{each / 1024:.0f} KiB a stream, {resident / 2**20:.0f} MiB in all",
            peer="",
            ratio="",
            bar="≤ 60 KiB a stream; ≤ 200 MiB at 1,000",
            met=each <= 60 * 1024 and (streams > 1000 or resident <= 200 * 2**20),
            figures={"bytes_per_stream": each, "resident_bytes": resident},
        ),
    ]


def _ours(streams: int) -> tuple[float, float, float, float]:
    with Server() as server:
        server.apply_nodes(["n", "spare"])
        before = resident_bytes(server.pid)
        with _clients(server.home / "run/meshca.sock", streams, ["default", "ROOTCA"]) as connected:
            resident = resident_bytes(server.pid)
            began = time.perf_counter()
            # Suspending a node that has no stream changes trust for everybody and nothing else.
            answer = server.admin.revoke(node="mesh/m/virtualNode/spare", wait=timedelta(seconds=60))
            push = time.perf_counter() - began
            if answer.acknowledged < streams:
                raise RuntimeError(f"only {answer.acknowledged} of {streams} streams acknowledged")
        return connected, push, (resident - before) / streams, resident


def _bare(streams: int) -> tuple[float, float]:
    with tempfile.TemporaryDirectory(prefix="mca-bare-") as folder:
        socket = Path(folder) / "s"
        process = subprocess.Popen([sys.executable, "-m", "benchmarks.bare", str(socket)], cwd=_HERE)
        try:
            while not socket.exists():
                time.sleep(0.02)
            with _clients(socket, streams, ["default"]) as connected:
                channel = grpc.insecure_channel(f"unix:{socket}")
                began = time.perf_counter()
                channel.unary_unary(PUSH)(b"", timeout=60)
                push = time.perf_counter() - began
                channel.close()
            return connected, push
        finally:
            process.terminate()
            process.wait(10)


@contextlib.contextmanager
def _clients(socket: Path, count: int, names: list[str]) -> Iterator[float]:
    command = [sys.executable, "-m", "benchmarks.streams", str(socket), str(count), _NODE, *names]
    with subprocess.Popen(command, cwd=_HERE, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            if process.stdout is None or not (line := process.stdout.readline()):
                raise RuntimeError("the clients ended before they were connected")
            yield json.loads(line)["connected"]
        finally:
            process.terminate()


def _ratio_row(what: str, ours: float, bare: float, bar: float) -> Row:
    ratio = ours / bare
    return Row(
        what=what,
        ours=f"{ours:.2f} s",
        peer=f"{bare:.2f} s for a bare grpc.aio server",
        ratio=f"{ratio:.2f} ×",
        bar=f"≤ {bar:g} ×",
        met=ratio <= bar,
        figures={"ours_s": ours, "bare_s": bare, "ratio": ratio},
    )
