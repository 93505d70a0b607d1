"""The program that a process runs: its path and its SHA-256, read through ``/proc/<pid>/exe``.

Rules this module keeps (design §7):
- The file is opened once, and everything is asked of that descriptor: an exec in between changes nothing.
- It is the file that ran when the process was attested; whoever has become another program since has neither selector.
- A path counts only if it leads to this very file from here as well: whoever has a mount namespace of its own can lay
  any file over any path (SPIRE #1433). So the path of a file that was deleted or replaced doesn't count, save for a
  process of which it was seen before: an upgrade must not take the identity from who runs the former program.
- A SHA-256 counts only of a file on a local file system: another (FUSE, NFS) may show us one content and run another.
- It is remembered only for a file that has not changed for a while: two changes within one tick of the file system's
  clock look like one. Nobody writes to a file while it runs (ETXTBSY), and nobody but root sets a ctime.
- What can't be read doesn't hold.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections import OrderedDict
from collections.abc import Callable, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING

from meshca.policy.selector import PATH, SHA256, Selector

if TYPE_CHECKING:
    from meshca.attest.process import Process

MOST_BYTES = 512 * 1024 * 1024
"""The largest executable that is read; Envoy has some 150 MiB."""

_CHUNK = 1024 * 1024
_MOST_DIGESTS = 256
_MOST_PATHS = 4096
_RACY_SECONDS = 2.0
_LOCAL = frozenset(
    {"bcachefs", "btrfs", "erofs", "ext2", "ext3", "ext4", "f2fs", "overlay", "ramfs", "rootfs", "squashfs", "tmpfs",
     "xfs", "zfs"}
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class FileId:
    """What tells one file from all others for as long as it exists."""

    device: int
    inode: int


@dataclass(frozen=True, slots=True)
class _Content:
    """What can't stay the same when the content of a file changes."""

    file: FileId
    size: int
    mtime: int
    ctime: int

    @classmethod
    def of(cls, found: os.stat_result) -> _Content:
        file = FileId(found.st_dev, found.st_ino)
        return cls(file, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def running_file(pid: int) -> FileId | None:
    """Return the file that process ``pid`` runs, or None where that can't be read."""
    try:
        found = os.stat(f"/proc/{pid}/exe")
    except OSError:
        return None
    return FileId(found.st_dev, found.st_ino)


class Executables:
    """Reads executables, and remembers what is costly and safe to remember."""

    def __init__(self, most_bytes: int = MOST_BYTES, clock: Callable[[], float] = time.time) -> None:
        self._most_bytes = most_bytes
        self._clock = clock
        self._digests: OrderedDict[_Content, str] = OrderedDict()
        self._paths: OrderedDict[Process, str] = OrderedDict()
        self.read = 0
        """How many files were read whole."""

    def selectors(self, process: Process, types: Set[str]) -> frozenset[Selector]:
        """Return those of ``unix:path`` and ``unix:sha256`` that are asked for and hold."""
        if types.isdisjoint({PATH, SHA256}):
            return frozenset()
        flags = os.O_RDONLY if SHA256 in types else os.O_PATH
        try:
            descriptor = os.open(f"/proc/{process.pid}/exe", flags | os.O_CLOEXEC)
        except OSError:
            return frozenset()
        try:
            return frozenset(self._of(descriptor, process, types))
        except OSError:
            return frozenset()
        finally:
            os.close(descriptor)

    def _of(self, descriptor: int, process: Process, types: Set[str]) -> set[Selector]:
        found = os.fstat(descriptor)
        held: set[Selector] = set()
        if not stat.S_ISREG(found.st_mode) or FileId(found.st_dev, found.st_ino) != process.executable:
            return held
        if PATH in types and (path := self._path(descriptor, process)):
            held.add(Selector(PATH, path))
        if SHA256 in types and _is_local(descriptor, process.pid) and (digest := self._digest(descriptor, found)):
            held.add(Selector(SHA256, digest))
        return held

    def _digest(self, descriptor: int, found: os.stat_result) -> str:
        content = _Content.of(found)
        if content in self._digests:
            self._digests.move_to_end(content)
            return self._digests[content]
        if content.size > self._most_bytes:
            return ""
        settled = self._clock() - content.ctime / 1e9 > _RACY_SECONDS
        digest = _read_whole(descriptor, content.size)
        self.read += 1
        if _Content.of(os.fstat(descriptor)) != content:
            return ""
        if settled:
            self._digests[content] = digest
            if len(self._digests) > _MOST_DIGESTS:
                self._digests.popitem(last=False)
        return digest

    def _path(self, descriptor: int, process: Process) -> str:
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        try:
            found = os.stat(path)
        except OSError:
            return self._paths.get(process, "")
        if FileId(found.st_dev, found.st_ino) != process.executable:
            return self._paths.get(process, "")
        self._paths[process] = path
        self._paths.move_to_end(process)
        if len(self._paths) > _MOST_PATHS:
            self._paths.popitem(last=False)
        return path


def _read_whole(descriptor: int, size: int) -> str:
    digest, left = hashlib.sha256(), size
    while left > 0 and (chunk := os.pread(descriptor, min(_CHUNK, left), size - left)):
        digest.update(chunk)
        left -= len(chunk)
    return digest.hexdigest() if not left else ""


def _is_local(descriptor: int, pid: int) -> bool:
    # By the mount, not by st_dev: btrfs and overlay give files device numbers that no mount has.
    with open(f"/proc/self/fdinfo/{descriptor}", encoding="ascii") as file:
        mount = next((line.split()[1] for line in file if line.startswith("mnt_id:")), "")
    # proc_pid_mountinfo(5): the number comes first, and the type follows a hyphen. Blanks in paths are escaped.
    with open(f"/proc/{pid}/mountinfo", "rb") as file:
        for line in file:
            fields = line.split()
            if fields[0] == mount.encode():
                return fields[fields.index(b"-") + 1].decode("ascii", "replace") in _LOCAL
    return False
