"""gRPC servers on watched files that change every few seconds: grpcio's fetcher, and C-core's own file watcher."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from harness.dropped import (
    LIVES,
    Dropping,
    Load,
    dropping_world,
    ended,
    generation,
    listening,
    ports,
    rotate_issuing,
    running,
)
from harness.world import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from harness.world import World

_TESTS = str(Path(__file__).parent.parent)


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for process in started:
        ended(process)


def calling(folder: Path, port: int, name: str) -> Callable[[], None]:
    """Return an attempt: one call over a connection of its own, with the client's newest files."""

    def attempt() -> None:
        files = generation(folder)
        key, chain, bundle = ((files / each).read_bytes() for each in ("svid_key.pem", "svid.pem", "bundle.pem"))
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.ssl_target_name_override", "echo.m.test")]
        with grpc.secure_channel(
            f"127.0.0.1:{port}", grpc.ssl_channel_credentials(bundle, key, chain), options
        ) as channel:
            call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/test.Echo/Unary")
            assert call(b"hello", timeout=5) == b"hello"

    attempt.__name__ = name
    return attempt


def test_both_serve_every_new_certificate_and_no_call_fails(
    make_world: Callable[..., World], processes: list[subprocess.Popen[bytes]]
) -> None:
    world = dropping_world(make_world("--lifetimes", LIVES), "echo", "client")
    folder = world.folder
    fetched, watched = ports(2)
    echo: dict[str, Any] = {"node": "echo", "dns": ["echo.m.test"], "layout": "grpc"}
    targets: list[dict[str, Any]] = [
        # Nobody has to be told: each looks by itself, and the drop looks whether it has.
        {**echo, "dir": f"{folder}/echo", "verify": {"address": f"127.0.0.1:{watched}"}},
        {"node": "client", "dir": f"{folder}/client"},
    ]
    with Dropping(world, targets) as dropping:
        eventually((folder / "echo/current").exists, 20, "files for the servers")
        environment = {**os.environ, "PYTHONPATH": _TESTS + os.pathsep + os.environ.get("PYTHONPATH", "")}
        command = [sys.executable, "-m", "harness.grpc_servers", str(folder / "echo"), str(fetched), str(watched)]
        processes.append(running(command, folder / "grpc.log", env=environment))
        dropping.wait_in_use("echo", "client")
        eventually(lambda: listening(fetched), 10, "the fetching server")
        started = len(dropping.failures())
        clients = [
            calling(folder / "client", port, name) for port, name in ((fetched, "fetched"), (watched, "watched"))
        ]
        with Load(clients) as load:
            dropping.wait_rotated(1, "echo", "client")
            rotate_issuing(world)
            dropping.wait_rotated(1, "echo", "client")
        assert load.failed == [], dropping.log() + (folder / "grpc.log").read_text()[-4000:]
        assert min(load.done.values()) > 20
        assert dropping.failures()[started:] == []
