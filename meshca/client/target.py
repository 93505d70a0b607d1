"""How a server's socket is reached with gRPC."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote

RECONNECTION: tuple[tuple[str, int], ...] = (
    # A server that comes back is found within a second; gRPC's own pause grows to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # Despite its name it is how long an attempt to connect may take, in which a busy server has to answer.
    ("grpc.min_reconnect_backoff_ms", 5_000),
)


def unix_target(path: Path) -> str:
    """Return the gRPC name of a Unix socket: a URI, so a percent sign, question mark or hash in it is escaped."""
    return f"unix:{quote(os.fsencode(path))}"
