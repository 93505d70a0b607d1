"""The folder of sealed keys, ``<home>/keys``: one file ``<key id>.key`` for each CA.

Rules kept here:
- Files are 0600, the folder is 0700; a file that everybody may read or write is refused, and so is a symlink.
- A key file appears whole or not at all, is on disk before it is used, and is never overwritten; only ``switch`` puts
  the same key under another passphrase in its place, which ``stage`` has written beside it as ``<key id>.key.new``.
- A staged key opens as well: between the moments of a change of passphrase (rewrap.py) either passphrase opens a file.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from meshca.authority.ports import KeyUnavailableError
from meshca.authority.records import Role
from meshca.keys.place import KeyType
from meshca.keys.sealed import KeyBinding, Sealed, SealedSigner, WrongPassphraseError, seal, spki_of
from meshca.spiffe.id import TrustDomain
from meshca.x509.publickey import ca_id

_KEY_ID = re.compile(r"[0-9a-f]{20}")
_MAX_BYTES = 64 * 1024
_CURVES: dict[KeyType, ec.EllipticCurve] = {"ec-p256": ec.SECP256R1(), "ec-p384": ec.SECP384R1()}


class KeyFileError(KeyUnavailableError):
    """A key file cannot be read or written."""


class KeyMissingError(KeyFileError):
    """There is no such sealed key here."""


@dataclass(frozen=True, slots=True)
class KeyOwner:
    """The CA that a new key is for."""

    role: Role
    trust_domain: TrustDomain
    generation: int


@dataclass(frozen=True, slots=True)
class KeyFolder:
    """Where sealed keys lie."""

    path: Path

    @property
    def is_empty(self) -> bool:
        """Whether no sealed key lies here, so that no passphrase is needed."""
        return next(self.path.glob("*.key"), None) is None

    def create(self, owner: KeyOwner, passphrase: bytes, kind: KeyType = "ec-p256") -> SealedSigner:
        """Make a key, seal it, store it, and return its signer.

        Raises:
            KeyFileError: it cannot be stored.
        """
        return self.keep(new_key(kind), owner, passphrase)

    def keep(self, key: ec.EllipticCurvePrivateKey, owner: KeyOwner, passphrase: bytes) -> SealedSigner:
        """Seal a key, store it, and return its signer.

        Raises:
            KeyFileError: it cannot be stored.
        """
        binding = bound(key, owner)
        self.write(binding, seal(key, passphrase, binding))
        return SealedSigner(key)

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

    def open(self, binding: KeyBinding, passphrase: bytes) -> SealedSigner:
        """Open the key that ``binding`` names.

        Raises:
            KeyFileError: its file is missing, unreadable, or open to everybody.
            WrongPassphraseError: the passphrase does not fit.
            DamagedKeyError: the file was changed, cut, or made for another key.
        """
        target = self.file(binding.key_id)
        sealed = Sealed(_read(target), str(target))
        try:
            return sealed.open(passphrase, binding)
        except WrongPassphraseError:
            staged = _staged(target)
            if not staged.exists():
                raise
            return Sealed(_read(staged), str(staged)).open(passphrase, binding)

    def sealed(self) -> dict[str, Sealed]:
        """Return every key file by the id of its key.

        Raises:
            KeyFileError: One cannot be read.
        """
        files = {path.stem: path for path in sorted(self.path.glob("*.key")) if _KEY_ID.fullmatch(path.stem)}
        return {key_id: Sealed(_read(path), str(path)) for key_id, path in files.items()}

    def stage(self, blobs: Mapping[str, bytes]) -> None:
        """Write keys under another passphrase beside their files, durably; what was staged before is dropped.

        Raises:
            KeyFileError: The disk does not take them; the keys are as before.
        """
        target = self.path
        try:
            for old in self.path.glob("*.key.new"):
                old.unlink()
            for key_id, blob in blobs.items():
                target = _staged(self.file(key_id))
                write_new(target, blob)
        except OSError as error:
            raise _unwritable(target, error) from error

    def switch(self, key_ids: Iterable[str]) -> None:
        """Put what is staged in the place of the files.

        Raises:
            KeyFileError: The disk does not take it; each key is there under one passphrase or the other.
        """
        target = self.path
        try:
            for key_id in key_ids:
                target = self.file(key_id)
                _staged(target).replace(target)
            if self.path.is_dir():
                _sync_folder(self.path)
        except OSError as error:
            raise _unwritable(target, error) from error

    @contextmanager
    def mine(self) -> Iterator[None]:
        """Keep other processes from making keys or changing passphrases here.

        Raises:
            KeyFileError: The folder cannot be used.
        """
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise _unwritable(self.path, error) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def file(self, key_id: str) -> Path:
        """Return the path of a key.

        Raises:
            KeyFileError: that is not the id of a key, and could lead elsewhere.
        """
        if not _KEY_ID.fullmatch(key_id):
            raise KeyFileError("a key id is 20 hex digits", field="key", value=key_id)
        return self.path / f"{key_id}.key"


def new_key(kind: KeyType) -> ec.EllipticCurvePrivateKey:
    """Make a key."""
    return ec.generate_private_key(_CURVES[kind])


def bound(key: ec.EllipticCurvePrivateKey, owner: KeyOwner) -> KeyBinding:
    """Return what a key is to be bound to."""
    return KeyBinding(ca_id(spki_of(key)), owner.role, owner.trust_domain, owner.generation)


def _staged(target: Path) -> Path:
    return target.with_name(f"{target.name}.new")


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
    kind = KeyMissingError if error.errno == errno.ENOENT else KeyFileError
    return kind(f"the key file cannot be read: {error.strerror}", field=str(target), remedy=remedy)


def _unwritable(target: Path, error: OSError) -> KeyFileError:
    remedy = "free space on the disk" if error.errno in {errno.ENOSPC, errno.EDQUOT} else "check owner and mode"
    return KeyFileError(
        f"the key file cannot be written: {error.strerror}", field=str(target), remedy=f"{remedy} of {target.parent}"
    )
