from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from fakes.server_world import PASSPHRASE, shop, signing_request, temporary_home

from meshca.client.admin import AdminClient
from meshca.client.values import Issued
from meshca.server.home import Home

# Processes of their own open the homes; each loads Python anew.
pytestmark = [pytest.mark.real_cost, pytest.mark.slow]
ANY_PORT = ("--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0")


@contextmanager
def process(home: Home) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    command = [sys.executable, "-m", "meshca", "--home", str(home.path), "serve", *ANY_PORT, "-o", "json"]
    environment = {**os.environ, "MESHCA_PASSPHRASE": PASSPHRASE.decode()}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as running:
        assert running.stdout
        line = running.stdout.readline()
        assert line, running.communicate()[1]
        try:
            yield running, json.loads(line)
        finally:
            running.kill()


def test_sigterm_drains_and_kill_leaves_nothing_in_the_way() -> None:
    with temporary_home() as home:
        with process(home) as (running, ready):
            assert ready["state"] == "ready"
            with AdminClient(home.admin_socket) as admin:
                admin.apply(shop())
                (kept,) = admin.issue([signing_request("front")])
                assert isinstance(kept, Issued)
            running.send_signal(signal.SIGKILL)
            running.wait(20)
        assert home.mesh_socket.exists()
        with process(home) as (running, _):
            with AdminClient(home.admin_socket) as admin:
                assert [row.serial for row in admin.certificates()] == [kept.serial]
                assert admin.audit_verify().intact
            running.send_signal(signal.SIGTERM)
            assert running.wait(20) == 0
        assert not home.mesh_socket.exists()
        assert not home.admin_socket.exists()
        assert home.checkpoint.exists()


def test_a_taken_port_and_a_held_home_are_errors_in_words() -> None:
    with temporary_home() as home, socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for lock, words in ((False, "cannot listen on"), (True, "runs on")):
            held = home.lock() if lock else None
            command = [
                sys.executable,
                "-m",
                "meshca",
                "--home",
                str(home.path),
                "serve",
                *ANY_PORT,
                "--http",
                f"127.0.0.1:{port}",
            ]
            environment = {**os.environ, "MESHCA_PASSPHRASE": PASSPHRASE.decode()}
            done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=30, check=False)
            if held:
                held.release()
            assert done.returncode == 1
            assert words in done.stderr
            assert "Traceback" not in done.stderr
