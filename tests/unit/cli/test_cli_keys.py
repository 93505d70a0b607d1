"""`keys rewrap`: where the new passphrase comes from, and what becomes of the old one."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

import pytest

from meshca.keys.sealed import WrongPassphraseError
from meshca.server.config import Config
from meshca.server.home import Home
from meshca.server.house import open_house

if TYPE_CHECKING:
    from pathlib import Path

    from fakes.shell import Shell

INIT = ["init", "--trust-domain", "m.test"]


@pytest.fixture(autouse=True)
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let scrypt cost next to nothing."""
    monkeypatch.setattr("meshca.keys.sealed._COST", 16)
    monkeypatch.setattr("meshca.keys.sealed._COSTS", {16})


@pytest.fixture
def empty(alone: Shell) -> Shell:
    (alone.home / "run").rmdir()
    return alone


def opens(home: Path, passphrase: bytes) -> bool:
    try:
        open_house(Home.at(home), Config(), passphrase).close()
    except WrongPassphraseError:
        return False
    return True


def test_a_generated_passphrase_gives_way_to_a_file_from_elsewhere(empty: Shell, tmp_path: Path) -> None:
    empty.run(*INIT)
    old = (empty.home / "passphrase").read_bytes().rstrip(b"\n")
    (tmp_path / "new").write_bytes(b"correct horse\n")

    document = empty.json("keys", "rewrap", "--new-passphrase-file", str(tmp_path / "new"))
    assert document == {"files": 1, "rows": 1, "already": 0, "passphrase": str(tmp_path / "new")}
    assert not (empty.home / "passphrase").exists()
    assert (opens(empty.home, b"correct horse"), opens(empty.home, old)) == (True, False)
    assert "no passphrase" in empty.run("serve", code=1).stderr


def test_a_generated_passphrase_is_generated_anew_where_nobody_can_be_asked(empty: Shell) -> None:
    empty.run(*INIT)
    file = empty.home / "passphrase"
    old = file.read_bytes()

    document = empty.json("keys", "rewrap")
    assert document["passphrase"] == str(empty.home / "passphrase")
    assert file.read_bytes() != old
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert not (empty.home / "passphrase.new").exists()
    assert opens(empty.home, file.read_bytes().rstrip(b"\n"))


def test_a_generated_passphrase_whose_rewrap_was_interrupted_is_used_by_the_next(
    empty: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty.run(*INIT)
    with monkeypatch.context() as patch:
        patch.setattr("meshca.server.rewrap.settle", lambda *_: (_ for _ in ()).throw(OSError(5, "killed")))
        empty.run("keys", "rewrap", code=1)
    new = (empty.home / "passphrase.new").read_bytes()
    assert empty.json("keys", "rewrap")["already"] == 2
    assert (empty.home / "passphrase").read_bytes() == new
    assert opens(empty.home, new.rstrip(b"\n"))


def test_a_final_newline_is_not_part_of_a_passphrase_and_inner_ones_are(empty: Shell, tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(b"first\n")
    (tmp_path / "new").write_bytes(b"two\nlines\r\n")
    empty.run(*INIT, "--passphrase-file", str(tmp_path / "old"))
    present = ["--passphrase-file", str(tmp_path / "old")]

    empty.run("keys", "rewrap", *present, "--new-passphrase-file", str(tmp_path / "new"))
    assert (opens(empty.home, b"two\nlines"), opens(empty.home, b"two")) == (True, False)


@pytest.mark.parametrize(
    ("new", "words"),
    [(b"first\n", "present passphrase"), (b"\n", "is empty"), (b"x" * 5000, "longer than"), (None, "cannot be read")],
)
def test_a_passphrase_that_is_none_changes_nothing(empty: Shell, tmp_path: Path, new: bytes | None, words: str) -> None:
    (tmp_path / "old").write_bytes(b"first")
    empty.run(*INIT, "--passphrase-file", str(tmp_path / "old"))
    if new is not None:
        (tmp_path / "new").write_bytes(new)
    present = ["--passphrase-file", str(tmp_path / "old")]

    result = empty.run("keys", "rewrap", *present, "--new-passphrase-file", str(tmp_path / "new"), code=1)
    assert words in result.stderr
    assert "first" not in result.output.replace(str(tmp_path), "")
    assert opens(empty.home, b"first")


def test_without_a_terminal_a_passphrase_from_elsewhere_needs_its_successor_named(empty: Shell, tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(b"first")
    empty.run(*INIT, "--passphrase-file", str(tmp_path / "old"))
    assert (
        "--new-passphrase-file"
        in empty.run("keys", "rewrap", "--passphrase-file", str(tmp_path / "old"), code=1).stderr
    )


def test_a_wrong_present_passphrase_is_refused(empty: Shell, tmp_path: Path) -> None:
    empty.run(*INIT)
    (tmp_path / "wrong").write_bytes(b"wr0ng")
    (tmp_path / "new").write_bytes(b"n3w")
    present = ["--passphrase-file", str(tmp_path / "wrong")]

    result = empty.run("keys", "rewrap", *present, "--new-passphrase-file", str(tmp_path / "new"), code=1)
    assert "not the one that this key was sealed under" in result.stderr
    assert "wr0ng" not in result.output
    assert (empty.home / "passphrase").exists()
