"""All that a server reads and writes while an agent works, as the kernel sees it: no key of the agent's side."""

from __future__ import annotations

import asyncio
import base64
import os
import re
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from fakes.server_world import STREAM_ADS, Envoy
from harness.agents import agent
from harness.world import eventually, mesh, node, spiffe

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.world import World

CALLS = "read,readv,recvfrom,recvmsg,recvmmsg,write,writev,sendto,sendmsg,sendmmsg,pwrite64,pread64"
FRONT = "mesh/m/virtualNode/front"
_CALL = re.compile(rb"^\d+ +(?:<\.\.\. )?(\w+)[( ](\d+)?")
_KEY = re.compile(rb"BEGIN (?:[A-Z]+ )?PRIVATE KEY-----[^-]+-")
_QUOTED = re.compile(rb'"((?:\\x[0-9a-f]{2})*)"')


@pytest.fixture
def watched(world: World) -> Iterator[tuple[World, Path, subprocess.Popen[bytes]]]:
    """A server whose reads and writes are written down, whole."""
    strace = shutil.which("strace")
    if strace is None or os.geteuid() != 0:
        pytest.skip("needs strace and root")
    assert world.server is not None
    seen = world.folder / "strace.txt"
    tracer = subprocess.Popen(
        [strace, "-f", "-qq", "-xx", "-s", "1000000", "-e", f"trace={CALLS}", "-o", seen, "-p", str(world.server.pid)],
        stdin=subprocess.DEVNULL,
    )
    try:
        eventually(lambda: _is_traced(world), 10, "strace")
        yield world, seen, tracer
    finally:
        tracer.terminate()
        tracer.wait(10)


def _is_traced(world: World) -> bool:
    assert world.server is not None
    tasks = list(Path(f"/proc/{world.server.pid}/task").iterdir())
    return all("TracerPid:\t0\n" not in (task / "status").read_text() for task in tasks)


def test_a_server_never_sees_a_key_of_those_behind_an_agent(
    watched: tuple[World, Path, subprocess.Popen[bytes]],
) -> None:
    world, seen, tracer = watched
    world.apply(mesh(), node("front"))
    world.register("front", os.getuid(), "host1")
    with agent(world) as host:
        pems = asyncio.run(_keys(world, host.socket, 3))
        token = (world.folder / "host1.token").read_text().split(".")[1]

        # What an agent keeps to itself: no core, no debugger of the same user, no key in any file.
        limits = Path(f"/proc/{host.process.pid}/limits").read_text()
        (core,) = [line for line in limits.splitlines() if line.startswith("Max core file size")]
        assert core.split()[4:6] == ["0", "0"]
        assert Path(f"/proc/{host.process.pid}/mem").stat().st_uid == 0
        files = [each for each in world.folder.rglob("*") if each.is_file() and each != seen]
        for pem in pems:
            assert not [each for each in files if any(form in each.read_bytes() for form in forms(pem))]
    world.stop()
    tracer.wait(10)  # it ends with what it traces

    heard = streams(seen)
    everything = b"\0".join(heard.values())
    assert len(everything) > 20_000
    # It was looked at in the clear: names, CSRs and the token of the way in are there, before TLS and behind it.
    assert spiffe("front").encode() in everything
    assert b"meshca/agent/host1" in everything
    assert base64.urlsafe_b64decode(token + "==") in everything
    assert len(set(pems)) == 3
    for pem in pems:
        for form in forms(pem):
            assert form not in everything
    # A key would have been seen: the server's own is, on its way through a file without a name, and it is the only one.
    assert len(set(_KEY.findall(everything))) == 1


async def _keys(world: World, socket: Path, count: int) -> list[bytes]:
    """Return the keys that an Envoy behind the agent is given, one after the other."""
    found = []
    async with Envoy(socket, FRONT, STREAM_ADS) as envoy:
        await envoy.ask("default")
        for _ in range(count):
            secret = (await envoy.secrets())["default"]
            found.append(bytes(secret.tls_certificate.private_key.inline_bytes))
            await asyncio.to_thread(world.admin.rotate_leaf, "front")
    return found


def forms(pem: bytes) -> list[bytes]:
    """Return what a key looks like: its text, its number in either order, as hex and as base64."""
    key = load_pem_private_key(pem, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    number = key.private_numbers().private_value.to_bytes(32, "big")
    middle = pem.splitlines()[1]
    return [middle, number, number[::-1], number.hex().encode(), base64.b64encode(number)[:40]]


def streams(seen: Path) -> dict[bytes, bytes]:
    """Return what passed through each descriptor, in order; a line that ends a call counts for the call it ends."""
    found: dict[bytes, list[bytes]] = defaultdict(list)
    for line in seen.read_bytes().splitlines():
        if (call := _CALL.match(line)) is None:
            continue
        where = (call[2] or b"?") + b" " + call[1][:4]
        found[where].extend(bytes.fromhex(text[2:].replace(b"\\x", b"").decode()) for text in _QUOTED.findall(line))
    return {where: b"".join(parts) for where, parts in found.items()}
