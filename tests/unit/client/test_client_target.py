"""A server is reached although it takes its time to answer, as a busy one does."""

from __future__ import annotations

import contextlib
import socket
import threading
from concurrent import futures
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest

from meshca.client.admin import AdminClient
from meshca.errors import MeshcaError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator

_LATE = 0.6


@pytest.fixture
def late(tmp_path: Path) -> Iterator[Path]:
    """A socket of a server that says nothing to a new connection for a while."""
    server = grpc.server(futures.ThreadPoolExecutor(1))
    server.add_insecure_port(f"unix:{tmp_path}/inner")
    server.start()
    with socket.socket(socket.AF_UNIX) as outer, contextlib.ExitStack() as open_ones:
        outer.bind(f"{tmp_path}/outer")
        outer.listen()

        def relay() -> None:
            with contextlib.suppress(OSError):
                while True:
                    caller = open_ones.enter_context(outer.accept()[0])
                    threading.Event().wait(_LATE)
                    onward = open_ones.enter_context(socket.socket(socket.AF_UNIX))
                    onward.connect(f"{tmp_path}/inner")
                    for pair in ((caller, onward), (onward, caller)):
                        threading.Thread(target=_pass_on, args=pair, daemon=True).start()

        threading.Thread(target=relay, daemon=True).start()
        yield tmp_path / "outer"
        outer.shutdown(socket.SHUT_RDWR)
    server.stop(0).wait(5)


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)


def test_a_server_that_is_slow_to_take_a_connection_is_waited_for(late: Path) -> None:
    client = AdminClient(late)
    with pytest.raises(MeshcaError) as caught:
        client.status()
    client.close()
    # It answers: that it knows no such method.
    assert not isinstance(caught.value, UnavailableError)
    assert "Method not found" in str(caught.value)


def test_no_server_is_said_at_once(tmp_path: Path) -> None:
    client = AdminClient(tmp_path / "none")
    with pytest.raises(UnavailableError, match="no server answers"):
        client.status()
    client.close()
