"""How gRPC wants a socket's path: as a URI, so a percent sign, question mark or hash in it must be escaped."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote


def unix_target(path: Path) -> str:
    """Return the gRPC name of a Unix socket."""
    return f"unix:{quote(os.fsencode(path))}"
