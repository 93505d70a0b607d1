"""Where an agent's sockets are, and who may touch them: as at a server (design §3), below a folder of its own."""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path

from meshca.attest.listener import require_path
from meshca.errors import ConflictError, UnavailableError

_PUBLIC, _PRIVATE = 0o711, 0o700


@dataclass(frozen=True, slots=True)
class Place:
    """The folder of one agent."""

    path: Path

    @property
    def socket(self) -> Path:
        """Where Envoys and workloads connect."""
        return self.path / "run" / "meshca.sock"

    @property
    def inner(self) -> Path:
        """Where the gate leads them."""
        return self.path / "run" / "inner" / "mesh.sock"

    def take(self) -> int:
        """Make the folders, and take the place for this process; whoever closes the descriptor gives it back.

        Raises:
            ConflictError: Another agent or server has it.
            UnavailableError: The folders cannot be made.
        """
        require_path(self.inner)
        try:
            for folder, mode in ((self.path, _PUBLIC), (self.socket.parent, _PUBLIC), (self.inner.parent, _PRIVATE)):
                folder.mkdir(mode=mode, parents=True, exist_ok=True)
                folder.chmod(mode)
            lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise UnavailableError(f"cannot use it: {error.strerror}", field="--home", value=str(self.path)) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(lock)
            raise ConflictError(
                "an agent or a server runs there already", field="--home", value=str(self.path), remedy="use another"
            ) from error
        return lock
