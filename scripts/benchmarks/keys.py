"""The row about keys that lie elsewhere: signatures through OpenBao's transit, beside a local key and `pki/sign`."""

from __future__ import annotations

import os
import tempfile
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.measure import Row, Throughput, middle, signing_requests, throughput
from benchmarks.openbao import OpenBao
from meshca.keys.files import KeyFolder
from meshca.keys.place import FilePlace, TransitPlace
from meshca.keys.stores import KeyStores, Placement
from meshca.spiffe.id import TrustDomain

if TYPE_CHECKING:
    from collections.abc import Callable

    from meshca.authority.ports import Signer

_THREADS = 8
_TRUST_DOMAIN = TrustDomain("bench.test")
_DATA = os.urandom(400)  # about what a leaf's certificate has to be signed


def rows(binary: Path, seconds: float, runs: int) -> list[Row]:
    """Return the row; the three take turns within each run."""
    requests = signing_requests(500)
    remote: list[Throughput] = []
    local: list[Throughput] = []
    peer: list[Throughput] = []
    for _ in range(runs):
        with tempfile.TemporaryDirectory() as folder, OpenBao(binary, Path(folder) / "bao", dev=True) as bao:
            placement = Placement(TransitPlace("transit", "bench"), FilePlace())
            stores = KeyStores(
                _TRUST_DOMAIN, KeyFolder(Path(folder) / "keys"), lambda: b"bench", bao.environ, placement
            )
            with closing(stores):
                remote.append(_signed(bao.pid, stores.create("root", _TRUST_DOMAIN, 1), seconds, _THREADS))
                local.append(_signed(os.getpid(), stores.create("issuing", _TRUST_DOMAIN, 1), seconds, 1))
            peer.append(bao.sign(requests, seconds))
    ours, here, beside = middle(remote), middle(local), middle(peer)
    row = Row(
        what=f"signing through transit (OpenBao dev mode), {_THREADS} threads",
        ours=str(ours),
        peer=f"OpenBao pki/sign dev {beside}; a local key, one thread {here}",
        ratio=f"{ours.rate / beside.rate:.2f} × pki/sign, {ours.rate / here.rate:.3f} × local",
        bar="none: shown",
        figures={"rate": ours.rate, "cpu_us": ours.cpu_us, "local_rate": here.rate, "pki_rate": beside.rate},
    )
    return [row]


def _signed(pid: int, signer: Signer, seconds: float, threads: int) -> Throughput:
    def worker() -> Callable[[], int]:
        def once() -> int:
            signer.sign(_DATA)
            return 1

        return once

    return throughput(pid, seconds, threads, worker)
