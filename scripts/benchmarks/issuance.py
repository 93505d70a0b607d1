"""Rows about issuing: the core without I/O, and durable issuance over gRPC beside OpenBao's `pki/sign`."""

from __future__ import annotations

import itertools
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from benchmarks.measure import Row, Throughput, median, middle, signing_requests, throughput
from benchmarks.openbao import OpenBao
from benchmarks.server import Server
from meshca.v1 import admin_pb2

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_NODE = "mesh/m/virtualNode/n"
_METHOD = "/meshca.v1.Admin/Issue"
_BATCH = 50
_THREADS = 8


def rows(binary: Path, seconds: float, runs: int) -> list[Row]:
    """Return the issuance rows; peers and ours take turns within this run."""
    requests = signing_requests(500)
    dev: list[Throughput] = []
    disk: list[Throughput] = []
    batched: list[Throughput] = []
    single: list[Throughput] = []
    for _ in range(runs):
        for kept, is_dev in ((dev, True), (disk, False)):
            with tempfile.TemporaryDirectory() as folder, OpenBao(binary, Path(folder) / "bao", dev=is_dev) as bao:
                kept.append(bao.sign(requests, seconds))
        with Server() as server:
            server.apply_nodes(["n"])
            batched.append(_issue(server, requests, _BATCH, seconds))
            single.append(_issue(server, requests, 1, seconds))
    peer, peer_disk = middle(dev), middle(disk)
    return [
        _row(f"durable issuance, batches of {_BATCH}", middle(batched), peer, peer_disk, bars=(2.0, 0.4)),
        _row("durable issuance, one CSR a call", middle(single), peer, peer_disk, bars=(1.0, 0.9)),
    ]


def core_row(repeats: int) -> Row:
    """Return the row of the issuing core: plan, lint, sign, parse again, check; key generation included."""
    from benchmarks.core import batch_issuer

    batch = batch_issuer(_BATCH)
    bare, ours = [], []
    for _ in range(repeats):
        bare.append(_timed(_bare, 4) / _BATCH)
        ours.append(_timed(batch, 4) / _BATCH)
    ratio = median(ours) / median(bare)
    return Row(
        what=f"issuing core in batches of {_BATCH}, as the authority issues; key generation included",
        ours=f"{median(ours) * 1e6:.0f} µs a certificate",
        peer=f"{median(bare) * 1e6:.0f} µs for a bare P-256 key and signature, batched alike",
        ratio=f"{ratio:.2f} ×",
        bar="≤ 4 × (aim 2.5 ×)",
        met=ratio <= 4,
        figures={"ours_us": median(ours) * 1e6, "bare_us": median(bare) * 1e6, "ratio": ratio},
    )


def _issue(server: Server, requests: Sequence[bytes], batch: int, seconds: float) -> Throughput:
    bodies = [_message(requests[at : at + batch]) for at in range(0, len(requests), batch)]
    turn, lock = itertools.cycle(bodies), threading.Lock()

    def worker() -> Callable[[], int]:
        path = server.home / "run/admin.sock"
        channel = grpc.insecure_channel(f"unix:{path}", [("grpc.use_local_subchannel_pool", 1)])
        call = channel.unary_unary(_METHOD, response_deserializer=admin_pb2.IssueReply.FromString)

        def once() -> int:
            with lock:
                body = next(turn)
            reply = call(body, timeout=30)
            refused = [result.failure.message for result in reply.results if result.HasField("failure")]
            if refused:
                raise RuntimeError(f"refused: {refused[0]}")
            return len(reply.results)

        return once

    return throughput(server.pid, seconds, _THREADS, worker)


def _message(requests: Sequence[bytes]) -> bytes:
    messages = [admin_pb2.SigningRequest(node=_NODE, csr=csr, holder="bench") for csr in requests]
    return bytes(admin_pb2.IssueRequest(requests=messages).SerializeToString())


def _row(what: str, ours: Throughput, dev: Throughput, disk: Throughput, bars: tuple[float, float]) -> Row:
    rate, cpu = ours.rate / dev.rate, ours.cpu_us / dev.cpu_us
    return Row(
        what=what,
        ours=str(ours),
        peer=f"OpenBao pki/sign dev {dev}; on disk {disk}",
        ratio=f"{rate:.2f} × rate, {cpu:.2f} × CPU (on disk: {ours.rate / disk.rate:.2f} ×)",
        bar=f"≥ {bars[0]:g} × rate, ≤ {bars[1]:g} × CPU",
        met=rate >= bars[0] and cpu <= bars[1],
        figures={"rate": ours.rate, "cpu_us": ours.cpu_us, "rate_ratio": rate, "cpu_ratio": cpu, "dev_rate": dev.rate},
    )


def _timed(call: Callable[[], object], times: int) -> float:
    began = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - began) / times


def _bare() -> object:
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(_BATCH)]
    return [key.sign(b"x" * 300, ec.ECDSA(hashes.SHA256())) for key in keys]
