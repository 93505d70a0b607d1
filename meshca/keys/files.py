"""The folder of sealed keys, ``<home>/keys``: one file ``<key id>.key`` for each CA.

Rules kept here:
- Files are 0600, the folder is 0700; a file that everybody may read or write is refused, and so is a symlink.
- A key file appears whole or not at all, is on disk before it is used, and is never overwritten.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from meshca.authority.ports import KeyUnavailableError
from meshca.keys.sealed import FileSigner, KeyBinding, open_sealed, seal, spki_of
from meshca.spiffe.id import TrustDomain
from meshca.x509.publickey import ca_id

_KEY_ID = re.compile(r"[0-9a-f]{20}")
_MAX_BYTES = 64 * 1024


class KeyFileError(KeyUnavailableError):
    """A key file cannot be read or written."""


@dataclass(frozen=True, slots=True)
class KeyFolder:
    """Where sealed keys lie."""

    path: Path

    def create(self, role: str, trust_domain: TrustDomain, generation: int, passphrase: bytes) -> FileSigner:
        """Make a P-256 key, seal it, store it, and return its signer.

        Raises:
            KeyFileError: it cannot be stored.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        binding = KeyBinding(ca_id(spki_of(key)), role, trust_domain, generation)
        self.write(binding, seal(key, passphrase, binding))
        return FileSigner(key)

    def write(self, binding: KeyBinding, blob: bytes) -> None:
        """Store a sealed key durably.

        Raises:
            KeyFileError: there is one already, or the disk does not take it.
        """
        target = self.file(binding.key_id)
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_new(target, blob)
        except FileExistsError as error:
            raise KeyFileError("there is a key file already; it is never overwritten", field=str(target)) from error
        except OSError as error:
            raise _unwritable(target, error) from error

    def open(self, binding: KeyBinding, passphrase: bytes) -> FileSigner:
        """Open the key that ``binding`` names.

        Raises:
            KeyFileError: its file is missing, unreadable, or open to everybody.
            WrongPassphraseError: the passphrase does not fit.
            DamagedKeyError: the file was changed, cut, or made for another key.
        """
        target = self.file(binding.key_id)
        return open_sealed(_read(target), passphrase, binding, str(target))

    def file(self, key_id: str) -> Path:
        """Return the path of a key.

        Raises:
            KeyFileError: that is not the id of a key, and could lead elsewhere.
        """
        if not _KEY_ID.fullmatch(key_id):
            raise KeyFileError("a key id is 20 hex digits", field="key", value=key_id)
        return self.path / f"{key_id}.key"


def write_new(target: Path, content: bytes) -> None:
    """Write a new 0600 file, whole and on disk before its name exists.

    Raises:
        FileExistsError: there is one of that name.
        OSError: the disk does not take it.
    """
    draft = target.with_name(f".{target.name}.{os.urandom(8).hex()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.link(draft, target)  # unlike a rename, fails if the name is taken
    finally:
        with suppress(OSError):
            draft.unlink()
    _sync_folder(target.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read(target: Path) -> bytes:
    try:
        with open(os.open(target, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
            _require_private_file(target, os.fstat(file.fileno()))
            return file.read(_MAX_BYTES)
    except OSError as error:
        raise _unreadable(target, error) from error


def _require_private_file(target: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise KeyFileError("not a regular file", field=str(target), remedy="restore it from a backup")
    if status.st_mode & stat.S_IRWXO:
        raise KeyFileError(
            f"everybody may access this key file (mode {stat.S_IMODE(status.st_mode):04o})",
            field=str(target),
            remedy=f"chmod 600 {target}, and rotate this CA if somebody else can have read it",
        )
    if status.st_size > _MAX_BYTES:
        raise KeyFileError("too large to be a sealed key", field=str(target), remedy="restore it from a backup")


def _unreadable(target: Path, error: OSError) -> KeyFileError:
    remedies = {
        errno.ENOENT: "restore it from a backup",
        errno.EACCES: "run as the owner of the home, or give the file back to its owner with mode 0600",
        errno.ELOOP: "it is a symlink; put the file itself there",
    }
    remedy = remedies.get(error.errno or 0, "check the disk")
    return KeyFileError(f"the key file cannot be read: {error.strerror}", field=str(target), remedy=remedy)


def _unwritable(target: Path, error: OSError) -> KeyFileError:
    remedy = "free space on the disk" if error.errno in {errno.ENOSPC, errno.EDQUOT} else "check owner and mode"
    return KeyFileError(
        f"the key file cannot be written: {error.strerror}", field=str(target), remedy=f"{remedy} of {target.parent}"
    )
