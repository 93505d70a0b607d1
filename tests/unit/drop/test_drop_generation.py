"""The folder of a drop: atomic, crash-safe, and not to be led astray by planted links."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from meshca.drop import generation
from meshca.drop.generation import GenerationFolder
from meshca.errors import ConflictError, RefusedError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

NAMES = ("svid.pem", "svid_key.pem", "bundle.pem", "crl.pem")


def files(mark: str) -> dict[str, bytes]:
    return {name: f"{mark} {name}".encode() for name in NAMES}


def read(folder: Path) -> dict[str, bytes]:
    return {name: (folder / "current" / name).read_bytes() for name in NAMES}


def generations(folder: Path) -> list[str]:
    return sorted(name for name in os.listdir(folder) if name.startswith("generation-"))


def put(folder: Path, mark: str, *, settle: bool = True) -> str:
    with GenerationFolder(folder) as opened:
        name = opened.put(files(mark))
        if settle:
            opened.settle()
        return name


def test_current_leads_to_all_files_of_the_new_generation(tmp_path: Path) -> None:
    folder = tmp_path / "drop"

    assert put(folder, "one") == "generation-00000001"
    assert read(folder) == files("one")
    assert put(folder, "two") == "generation-00000002"

    assert read(folder) == files("two")
    assert os.readlink(folder / "current") == "generation-00000002"


def test_folders_are_0700_and_files_0600_whatever_the_umask(tmp_path: Path) -> None:
    folder = tmp_path / "drop"
    for mask in (0, 0o077):
        old = os.umask(mask)
        try:
            name = put(folder, "one")
        finally:
            os.umask(old)
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o700
        assert {stat.S_IMODE((folder / name / file).stat().st_mode) for file in NAMES} == {0o600}


def test_one_earlier_generation_is_kept_once_the_command_has_succeeded(tmp_path: Path) -> None:
    for mark in ("one", "two", "three"):
        put(tmp_path, mark)

    assert generations(tmp_path) == ["generation-00000002", "generation-00000003"]


def test_the_last_working_generation_stays_however_many_fail_after_it(tmp_path: Path) -> None:
    put(tmp_path, "works")
    for number in range(5):
        put(tmp_path, f"fails {number}", settle=False)

    assert generations(tmp_path) == ["generation-00000001", "generation-00000005", "generation-00000006"]
    assert put(tmp_path, "works again") == "generation-00000007"
    assert generations(tmp_path) == ["generation-00000001", "generation-00000007"]


def test_settling_twice_keeps_the_earlier_generation(tmp_path: Path) -> None:
    put(tmp_path, "one")
    put(tmp_path, "two")
    with GenerationFolder(tmp_path) as folder:
        folder.settle()

    assert generations(tmp_path) == ["generation-00000001", "generation-00000002"]


class Killed(BaseException):
    """The process ends here."""


_CALLS = ("mkdir", "open", "fchmod", "fchown", "utime", "fsync", "rename", "symlink", "unlink", "rmdir")


def kill_at(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """End the process before its ``number``-th system call; nothing of it runs after that."""
    count = 0

    def wrap(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            nonlocal count
            count += 1
            if count >= number:
                raise Killed
            return real(*arguments, **named)

        return call

    for name in _CALLS:
        monkeypatch.setattr(os, name, wrap(getattr(os, name)))


def test_killed_at_any_point_leaves_a_whole_generation_and_nothing_to_clean_by_hand(tmp_path: Path) -> None:
    outcomes = set()
    for number in range(1, 200):
        folder = tmp_path / str(number)
        put(folder, "zero")
        put(folder, "old")
        with GenerationFolder(folder) as opened, pytest.MonkeyPatch.context() as patch:
            kill_at(patch, number)
            try:
                opened.put(files("new"))
                opened.settle()
                finished = True
            except Killed:
                finished = False
        mark = "old" if read(folder) == files("old") else "new"
        outcomes.add((mark, finished))
        assert read(folder) == files(mark)
        with GenerationFolder(folder) as opened:
            assert read(folder) == files(mark)
            assert {name for name in os.listdir(folder) if name.endswith(".new")} == set()
            opened.put(files("after"))
            opened.settle()
        assert read(folder) == files("after")
        assert len(generations(folder)) == 2
        if finished:
            break
    assert outcomes == {("old", False), ("new", False), ("new", True)}


def test_a_full_disk_leaves_the_old_generation_and_no_rest(tmp_path: Path) -> None:
    put(tmp_path, "old")
    with GenerationFolder(tmp_path) as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(generation, "write_new", _no_space)
        with pytest.raises(UnavailableError, match="No space left"):
            folder.put(files("new"))

    assert read(tmp_path) == files("old")
    assert sorted(os.listdir(tmp_path)) == [".working", "current", "generation-00000001"]


def _no_space(*_: object) -> None:
    raise OSError(28, "No space left on device")


def test_a_folder_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")

    for name in ("link", "link/", "link/."):
        with pytest.raises(RefusedError, match="a link is not followed"):
            GenerationFolder(Path(f"{tmp_path}/{name}"))
    assert os.listdir(tmp_path / "real") == []


def test_a_link_that_leads_nowhere_is_refused_and_not_created(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("elsewhere")

    with pytest.raises(RefusedError):
        GenerationFolder(tmp_path / "link")
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("mode", [0o770, 0o777, 0o1777, 0o702])
def test_a_folder_that_others_may_write_to_is_refused(tmp_path: Path, mode: int) -> None:
    folder = tmp_path / "drop"
    folder.mkdir()
    folder.chmod(mode)

    with pytest.raises(RefusedError, match="others may write"):
        GenerationFolder(folder)


def test_a_folder_of_somebody_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)

    with pytest.raises(RefusedError, match="belongs to uid"):
        GenerationFolder(tmp_path)


def test_a_file_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "drop").write_text("")

    with pytest.raises(RefusedError, match="not a folder"):
        GenerationFolder(tmp_path / "drop")


@pytest.mark.parametrize(
    "name",
    ["current", ".current.new", ".working", "generation-00000007", ".generation-00000002.new", "generation-00000002"],
)
def test_a_planted_link_is_not_followed(tmp_path: Path, name: str) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    for file in NAMES:
        (victim / file).write_text("untouched")
    folder = tmp_path / "drop"
    put(folder, "one")
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(victim)

    put(folder, "two")

    assert {(victim / file).read_text() for file in NAMES} == {"untouched"}
    assert read(folder) == files("two")


def test_a_folder_in_the_place_of_the_link_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "current").mkdir()

    with pytest.raises(ConflictError, match="is not a link"):
        GenerationFolder(tmp_path)


def test_what_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "generation-1").mkdir()
    for mark in ("one", "two", "three"):
        put(tmp_path, mark)

    assert (tmp_path / "mine").read_text() == "mine"
    assert (tmp_path / "generation-1").is_dir()


def test_two_drops_on_one_folder_are_refused(tmp_path: Path) -> None:
    with GenerationFolder(tmp_path), pytest.raises(ConflictError, match="another drop"):
        GenerationFolder(tmp_path)
    GenerationFolder(tmp_path).close()
