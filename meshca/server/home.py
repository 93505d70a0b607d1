"""Where a server keeps its things, and who may touch them.

Rules kept here (design §3):
- Modes: home and ``run`` 0711, ``meshca.sock`` 0666 (attestation is the gate), ``admin.sock`` 0600, ``run/inner`` 0700,
  everything else 0600 or 0700; a mode that is wider than that is narrowed at start.
- One server at a time: an exclusive lock on ``<home>/lock``, held for the life of the process and freed by the kernel.
- A socket path that the kernel cannot take (over 107 bytes) is refused before anything starts.
"""

from __future__ import annotations

import fcntl
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from meshca.errors import ConflictError, InvalidInputError, NotFoundError, RefusedError

LONGEST_SOCKET_PATH = 107
PUBLIC_FOLDER, PRIVATE_FOLDER, PRIVATE_FILE = 0o711, 0o700, 0o600
MESH_SOCKET_MODE, ADMIN_SOCKET_MODE = 0o666, 0o600


class SocketPathError(InvalidInputError):
    """The path of a socket is longer than the kernel takes."""


class HomeInUseError(ConflictError):
    """Another server runs on this home."""


@dataclass(frozen=True, slots=True)
class Home:
    """The folder of one server."""

    path: Path

    @classmethod
    def at(cls, path: str | Path) -> Home:
        """Return the home at a path, made absolute without following links."""
        return cls(Path(os.path.abspath(Path(path).expanduser())))

    @property
    def config(self) -> Path:
        """The configuration file."""
        return self.path / "meshca.toml"

    @property
    def database(self) -> Path:
        """The SQLite database, where no other is configured."""
        return self.path / "meshca.db"

    @property
    def keys(self) -> Path:
        """The folder of sealed keys."""
        return self.path / "keys"

    @property
    def passphrase(self) -> Path:
        """The passphrase that ``init`` generated, where nobody gave one."""
        return self.path / "passphrase"

    @property
    def checkpoint(self) -> Path:
        """The newest signed audit checkpoint."""
        return self.path / "audit.checkpoint"

    @property
    def run(self) -> Path:
        """The folder of sockets."""
        return self.path / "run"

    @property
    def inner(self) -> Path:
        """The folder that only the gate reaches."""
        return self.run / "inner"

    @property
    def mesh_socket(self) -> Path:
        """Where Envoys connect."""
        return self.run / "meshca.sock"

    @property
    def admin_socket(self) -> Path:
        """Where the command line connects."""
        return self.run / "admin.sock"

    @property
    def mesh_inner(self) -> Path:
        """Where the gate leads Envoys."""
        return self.inner / "mesh.sock"

    @property
    def admin_inner(self) -> Path:
        """Where the gate leads the command line."""
        return self.inner / "admin.sock"

    @property
    def tcp_inner(self) -> Path:
        """Where the gate leads callers over TCP."""
        return self.inner / "tcp.sock"

    def require_initialised(self) -> None:
        """Raise unless ``init`` has run here.

        Raises:
            NotFoundError: There is no meshca home.
            RefusedError: It belongs to somebody else.
        """
        if not self.config.is_file():
            raise NotFoundError(f"{self.path} is no meshca home", remedy="run `meshca init`, or give --home")
        if self.config.stat().st_uid != os.geteuid():
            raise RefusedError(f"{self.path} belongs to another user", remedy="run the server as its owner")

    def require_short_sockets(self) -> None:
        """Raise SocketPathError where the kernel could not take one of the socket paths."""
        for path in (self.mesh_socket, self.admin_socket, self.mesh_inner, self.admin_inner, self.tcp_inner):
            if len(os.fsencode(path)) > LONGEST_SOCKET_PATH:
                raise SocketPathError(
                    f"a socket path has at most {LONGEST_SOCKET_PATH} bytes",
                    field="home",
                    value=str(path),
                    remedy="use a home with a shorter path (--home or MESHCA_HOME)",
                )

    def secure(self) -> None:
        """Create the folders of a running server and narrow every mode that is too wide."""
        for folder, mode in ((self.path, PUBLIC_FOLDER), (self.run, PUBLIC_FOLDER), (self.inner, PRIVATE_FOLDER)):
            folder.mkdir(mode=mode, exist_ok=True)
            folder.chmod(mode)
        for entry in self.path.iterdir():
            if entry != self.run:
                _narrow(entry)

    def lock(self) -> HomeLock:
        """Take the home for this process.

        Raises:
            HomeInUseError: Another server holds it.
        """
        return HomeLock(self.path)


class HomeLock:
    """The right to run a server on a home; freed by ``release`` or by the end of the process."""

    def __init__(self, home: Path) -> None:
        self._file = os.open(home / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, PRIVATE_FILE)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(self._file, 32, 0).decode("ascii", "replace").strip()
            os.close(self._file)
            raise HomeInUseError(
                f"a server runs on {home} already", value=f"pid {holder}", remedy="stop it, or use another home"
            ) from error
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Let another server have the home."""
        os.close(self._file)


def _narrow(entry: Path) -> None:
    """Take group's and others' rights from a file or folder of the home; links are left alone."""
    status = entry.lstat()
    if stat.S_ISLNK(status.st_mode):
        return
    narrow = PRIVATE_FOLDER if stat.S_ISDIR(status.st_mode) else PRIVATE_FILE
    if stat.S_IMODE(status.st_mode) & ~narrow:
        entry.chmod(narrow)
