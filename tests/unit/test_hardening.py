"""What a process that holds keys does about its memory, as a user without rights."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import os, resource
from meshca.hardening import is_dumpable, memory_file, no_core_dumps
if os.getuid() == 0:
    os.setgid(61_000); os.setuid(61_000)
no_core_dumps()
assert not is_dumpable()
assert resource.getrlimit(resource.RLIMIT_CORE) == (0, 0)
with memory_file(b"secret" * 100_000) as path:
    assert open(path, "rb").read() == b"secret" * 100_000
assert not os.path.exists(path)
"""


def test_no_core_is_left_and_what_libraries_read_lies_in_memory() -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False, env=environment)

    assert (done.returncode, done.stderr) == (0, "")
