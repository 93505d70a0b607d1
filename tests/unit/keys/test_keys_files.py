from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from meshca.errors import UnavailableError
from meshca.keys.files import KeyFileError, KeyFolder, KeyOwner, write_new
from meshca.keys.sealed import KeyBinding, SealedSigner, WrongPassphraseError
from meshca.spiffe.id import TrustDomain

TD = TrustDomain("m.test")


@pytest.fixture
def folder(tmp_path: Path) -> KeyFolder:
    return KeyFolder(tmp_path / "keys")


@pytest.fixture
def signer(folder: KeyFolder) -> SealedSigner:
    return folder.create(KeyOwner("issuing", TD, 3), b"secret")


def binding(signer: SealedSigner) -> KeyBinding:
    return KeyBinding(signer.key_id, "issuing", TD, 3)


def test_a_created_key_opens_again(folder: KeyFolder, signer: SealedSigner) -> None:
    assert folder.open(binding(signer), b"secret").spki == signer.spki
    path = folder.file(signer.key_id)
    assert path == folder.path / f"{signer.key_id}.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
    assert list(folder.path.iterdir()) == [path]


def test_a_key_is_never_overwritten(folder: KeyFolder, signer: SealedSigner) -> None:
    before = folder.file(signer.key_id).read_bytes()
    with pytest.raises(KeyFileError, match="never overwritten"):
        folder.write(binding(signer), b"other")
    assert folder.file(signer.key_id).read_bytes() == before
    assert len(list(folder.path.iterdir())) == 1


def test_a_wrong_passphrase_names_the_file(folder: KeyFolder, signer: SealedSigner) -> None:
    with pytest.raises(WrongPassphraseError, match=str(folder.file(signer.key_id))):
        folder.open(binding(signer), b"wrong")


def test_a_missing_file_is_named_with_a_remedy(folder: KeyFolder, signer: SealedSigner) -> None:
    folder.file(signer.key_id).unlink()
    with pytest.raises(KeyFileError, match="No such file") as caught:
        folder.open(binding(signer), b"secret")
    assert caught.value.field == str(folder.file(signer.key_id))
    assert "backup" in caught.value.remedy
    assert isinstance(caught.value, UnavailableError)


def test_an_unreadable_file_is_named_with_a_remedy(
    folder: KeyFolder, signer: SealedSigner, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:  # root reads everything, so a mode alone would prove nothing
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(KeyFileError, match="Permission denied") as caught:
        folder.open(binding(signer), b"secret")
    assert "owner" in caught.value.remedy


def test_a_file_that_everybody_may_read_is_refused(folder: KeyFolder, signer: SealedSigner) -> None:
    folder.file(signer.key_id).chmod(0o644)
    with pytest.raises(KeyFileError, match="everybody") as caught:
        folder.open(binding(signer), b"secret")
    assert "chmod 600" in caught.value.remedy


def test_a_symlink_is_not_followed(folder: KeyFolder, signer: SealedSigner, tmp_path: Path) -> None:
    path = folder.file(signer.key_id)
    path.rename(tmp_path / "moved")
    path.symlink_to(tmp_path / "moved")
    with pytest.raises(KeyFileError, match="symlink"):
        folder.open(binding(signer), b"secret")


def test_what_is_no_file_or_too_large_is_refused(folder: KeyFolder, signer: SealedSigner) -> None:
    path = folder.file(signer.key_id)
    path.write_bytes(bytes(64 * 1024 + 1))
    with pytest.raises(KeyFileError, match="too large"):
        folder.open(binding(signer), b"secret")
    path.unlink()
    os.mkfifo(path, 0o600)
    with pytest.raises(KeyFileError, match="not a regular file"):
        folder.open(binding(signer), b"secret")


@pytest.mark.parametrize("key_id", ["", "../../etc/passwd", "0" * 19, "A" * 20, "0" * 20 + "\n"])
def test_a_key_id_leads_nowhere_else(folder: KeyFolder, key_id: str) -> None:
    with pytest.raises(KeyFileError, match="20 hex digits"):
        folder.file(key_id)


def test_a_full_disk_leaves_nothing_behind(folder: KeyFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(KeyFileError, match="No space left") as caught:
        folder.create(KeyOwner("root", TD, 1), b"secret")
    assert "free space" in caught.value.remedy
    assert list(folder.path.iterdir()) == []


def test_a_new_file_is_whole_or_not_there(tmp_path: Path) -> None:
    write_new(tmp_path / "a", b"content")
    with pytest.raises(FileExistsError):
        write_new(tmp_path / "a", b"other")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a", b"content")]
