"""What all rows share: a row, processor time of another process, and bounded parallel work."""

from __future__ import annotations

import os
import statistics
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_TICK = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass
class Row:
    """One line of the table: what was measured, ours, the peer's, their ratio, the bar and whether it was met."""

    what: str
    ours: str
    peer: str
    ratio: str
    bar: str
    met: bool | None = None
    figures: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return the row as it goes into --json."""
        return asdict(self)


@dataclass(frozen=True)
class Throughput:
    """A rate with the processor time that the server spent for each unit."""

    rate: float
    cpu_us: float

    def __str__(self) -> str:
        return f"{self.rate:,.0f}/s, {self.cpu_us:,.0f} µs CPU"


def cpu_seconds(pid: int) -> float:
    """Return user and system time of a process with all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / _TICK


def resident_bytes(pid: int) -> int:
    """Return the resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE


def throughput(pid: int, seconds: float, threads: int, worker: Callable[[], Callable[[], int]]) -> Throughput:
    """Run ``worker()``'s function in threads for a bounded time; it returns how many units one call did."""
    counts = [0] * threads
    failures: list[BaseException] = []
    end = time.monotonic() + seconds

    def run(index: int) -> None:
        try:
            call = worker()
            while time.monotonic() < end:
                counts[index] += call()
        except BaseException as error:
            failures.append(error)

    before, started = cpu_seconds(pid), time.monotonic()
    pool = [threading.Thread(target=run, args=(index,)) for index in range(threads)]
    for thread in pool:
        thread.start()
    for thread in pool:
        thread.join()
    if failures:
        raise failures[0]
    elapsed, spent, done = time.monotonic() - started, cpu_seconds(pid) - before, sum(counts)
    return Throughput(done / elapsed, spent / done * 1e6)


def median(values: Sequence[float]) -> float:
    """Return the middle value."""
    return statistics.median(values)


def middle(runs: Sequence[Throughput]) -> Throughput:
    """Return the run with the median rate."""
    return sorted(runs, key=lambda run: run.rate)[len(runs) // 2]


def signing_requests(count: int) -> list[bytes]:
    """Return DER certificate signing requests of distinct P-256 keys, without names."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    keys = (ec.generate_private_key(ec.SECP256R1()) for _ in range(count))
    return [builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER) for key in keys]
