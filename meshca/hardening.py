"""What a process that holds private keys does about its own memory.

Rules: no core dump ever holds a key (RLIMIT_CORE 0), and no other process of the same user may read its memory or
attach to it (PR_SET_DUMPABLE 0, prctl(2)); what a library takes from a file only, lies in a file without a name that is
gone with its descriptor.
"""

from __future__ import annotations

import ctypes
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager

_PR_SET_DUMPABLE = 4
_PR_GET_DUMPABLE = 3


def no_core_dumps() -> None:
    """Let this process leave no core and be read by nobody; what it starts later inherits the limit alone.

    Raises:
        OSError: The kernel refuses.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def is_dumpable() -> bool:
    """Whether others may read the memory of this process."""
    return bool(ctypes.CDLL(None).prctl(_PR_GET_DUMPABLE, 0, 0, 0, 0))


@contextmanager
def memory_file(content: bytes) -> Iterator[str]:
    """Lend the path of a file that lies in memory alone, for libraries that read keys from files only."""
    descriptor = os.memfd_create("meshca", os.MFD_CLOEXEC)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(descriptor, view) :]
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
