"""200 workloads on one agent, each a process of a user of its own: what they cost, and how soon a change comes."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from fakes.server_world import STREAM_ADS, Envoy, leaf_of
from harness.agents import AgentProcess, agent
from harness.world import eventually, mesh, node, spiffe

if TYPE_CHECKING:
    from harness.world import World

pytestmark = pytest.mark.usefixtures("other_users")

COUNT, FIRST = 200, 62_000

# Forks one process for each workload: it becomes its user, connects to the agent, and passes on what its Envoy says.
WORKLOADS = """
import os, select, socket, sys
path, folder, count, first = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
for number in range(count):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{folder}/{number}"); listener.listen()
    if os.fork() == 0:
        os.setgroups([]); os.setgid(first + number); os.setuid(first + number)
        near, _ = listener.accept()
        far = socket.socket(socket.AF_UNIX); far.connect(path)
        while True:
            for one in select.select([near, far], [], [])[0]:
                data = one.recv(65536)
                if not data: os._exit(0)
                (far if one is near else near).sendall(data)
    listener.close()
print("ready", flush=True)
sys.stdin.read()
os.killpg(0, 9)
"""


def cpu(host: AgentProcess) -> float:
    """Return how many seconds of a core an agent has used."""
    fields = Path(f"/proc/{host.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory(host: AgentProcess) -> float:
    """Return how much memory an agent has, in MiB."""
    lines = Path(f"/proc/{host.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024


def test_two_hundred_workloads(world: World, record_property: Any) -> None:
    names = [f"n{number}" for number in range(COUNT)]
    world.apply(mesh(), *map(node, names))
    for number, name in enumerate(names[1:], 1):
        world.register(name, FIRST + number, "host1")
    folder = world.folder / "w"
    folder.mkdir(0o711)
    with agent(world) as host:
        eventually(lambda: f'"holdings": {COUNT - 1}' in host.log(), 10, "all registrations")
        command = [sys.executable, "-I", "-S", "-c", WORKLOADS, host.socket, folder, str(COUNT), str(FIRST)]
        with subprocess.Popen(
            list(map(str, command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, process_group=0
        ) as workloads:
            assert workloads.stdout is not None
            assert workloads.stdout.readline() == b"ready\n"
            try:
                figures = asyncio.run(_measured(world, host, folder, names))
            finally:
                assert workloads.stdin is not None
                workloads.stdin.close()
    for what, figure in figures.items():
        record_property(what, figure)
        print(f"{what}: {figure}")  # noqa: T201 - the figures are what this is for
    assert figures["MiB more"] < 80
    assert figures["seconds of CPU"] < 15


async def _measured(world: World, host: AgentProcess, folder: Path, names: list[str]) -> dict[str, float]:
    before, used = memory(host), cpu(host)
    async with AsyncExitStack() as streams:

        async def first(number: int) -> tuple[int, Envoy, str]:
            named = f"mesh/m/virtualNode/{names[number]}"
            envoy = await streams.enter_async_context(Envoy(folder / str(number), named, STREAM_ADS))
            await envoy.ask("default")
            return number, envoy, _identity(await envoy.secrets())

        began = time.monotonic()
        found = await asyncio.gather(*map(first, range(1, COUNT)))
        took = time.monotonic() - began
        assert [identity for _, _, identity in found] == [spiffe(names[number]) for number, _, _ in found]
        after, spent = memory(host), cpu(host) - used

        idle = cpu(host)
        await asyncio.sleep(3)  # what it costs to do nothing takes its time to see
        rest = (cpu(host) - idle) / 3

        # One registration more for a workload that has a stream: from the command to the leaf.
        times = []
        for number in range(1, 6):
            _, envoy, _ = found[number - 1]
            name = names[number + 1]
            await envoy.ask("default", spiffe(name))
            with_it = asyncio.create_task(_named(envoy, spiffe(name)))
            began = time.monotonic()
            await asyncio.to_thread(world.register, name, FIRST + number, "host1")
            await with_it
            times.append(time.monotonic() - began)
    return {
        "MiB before": round(before, 1),
        "MiB more": round(after - before, 1),
        "seconds until all had a leaf": round(took, 2),
        "seconds of CPU": round(spent, 2),
        "share of a core when idle": round(rest, 4),
        "seconds from register to leaf, median": round(sorted(times)[2], 3),
        "seconds from register to leaf, worst": round(max(times), 3),
    }


async def _named(envoy: Envoy, name: str) -> None:
    while name not in await envoy.secrets():
        pass


def _identity(found: dict[str, Any]) -> str:
    certificate = x509.load_pem_x509_certificate(leaf_of(found["default"]))
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    (uri,) = names.get_values_for_type(x509.UniformResourceIdentifier)
    return uri
