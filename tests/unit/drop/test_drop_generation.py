"""The folder of a drop: atomic, crash-safe, and not to be led astray by planted links."""

from __future__ import annotations

import errno
import os
import stat
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from meshca.drop import generation
from meshca.drop.folders import Access
from meshca.drop.generation import GenerationFolder
from meshca.errors import ConflictError, RefusedError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give files away")
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


@pytest.mark.parametrize("mode", [0o704, 0o755, 0o744])
def test_a_folder_that_everybody_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    folder = tmp_path / "drop"
    folder.mkdir()
    folder.chmod(mode)

    with pytest.raises(RefusedError, match=r"everybody may read it.*chmod o-r"):
        GenerationFolder(folder)
    folder.chmod(0o711)
    GenerationFolder(folder).close()


def test_a_folder_on_the_way_that_others_may_write_to_is_refused_unless_it_is_sticky(tmp_path: Path) -> None:
    (tmp_path / "way" / "drop").mkdir(parents=True, mode=0o700)
    (tmp_path / "way/drop").chmod(0o700)
    for mode in (0o777, 0o775):
        (tmp_path / "way").chmod(mode)
        with pytest.raises(RefusedError, match="others may write to a folder on the way"):
            GenerationFolder(tmp_path / "way/drop")
    (tmp_path / "way").chmod(0o1777)
    GenerationFolder(tmp_path / "way/drop").close()


@needs_root
def test_a_folder_or_link_on_the_way_that_is_anothers_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ours" / "drop").mkdir(parents=True, mode=0o700)
    (tmp_path / "ours/drop").chmod(0o700)
    (tmp_path / "link").symlink_to("ours")
    (tmp_path / "absolute").symlink_to(tmp_path / "link")

    for way in ("ours", "link", "absolute"):
        GenerationFolder(tmp_path / way / "drop").close()
    os.chown(tmp_path / "link", 61_000, 61_000, follow_symlinks=False)
    for way in ("link", "absolute"):
        with pytest.raises(RefusedError, match="a link on the way belongs to uid 61000"):
            GenerationFolder(tmp_path / way / "drop")
    os.chown(tmp_path / "ours", 61_000, 61_000)
    with pytest.raises(RefusedError, match="a folder on the way belongs to uid 61000"):
        GenerationFolder(tmp_path / "ours/drop")


def test_links_that_lead_in_a_circle_are_refused(tmp_path: Path) -> None:
    (tmp_path / "one").symlink_to("two")
    (tmp_path / "two").symlink_to("one")

    with pytest.raises(RefusedError, match="too many links"):
        GenerationFolder(tmp_path / "one/drop")


@needs_root
def test_files_are_for_whom_they_are_said_to_be_and_folders_stay_ours(tmp_path: Path) -> None:
    with GenerationFolder(tmp_path / "drop", Access(61_001, 61_002, 0o640, 0o600)) as folder:
        name = folder.put(files("one"), frozenset({"svid_key.pem"}))
        folder.note("status.json", b"{}")

    found = {
        path.name: (path.stat().st_uid, path.stat().st_gid, stat.S_IMODE(path.stat().st_mode))
        for path in (tmp_path / "drop", tmp_path / "drop" / name, *(tmp_path / "drop" / name).iterdir())
    }
    others = dict.fromkeys(set(NAMES) - {"svid_key.pem"}, (61_001, 61_002, 0o640))
    assert found == {
        "drop": (0, 61_002, 0o750), name: (0, 61_002, 0o750), "svid_key.pem": (61_001, 61_002, 0o600), **others
    }  # fmt: skip
    assert (tmp_path / "drop/status.json").stat().st_gid == 61_002


def test_who_may_not_give_a_folder_to_a_group_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fchown(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "fchown", fchown)
    with pytest.raises(RefusedError, match=r"cannot be given to group 61002.*run it as root"):
        GenerationFolder(tmp_path / "drop", Access(gid=61_002))


def test_each_generation_is_a_second_younger_however_fast_they_follow(tmp_path: Path) -> None:
    times = []
    for mark in ("one", "two", "three"):
        name = put(tmp_path, mark)
        found = {(tmp_path / name / file).stat().st_mtime_ns for file in NAMES}
        times.append(found)

    assert all(len(each) == 1 for each in times)
    first, second, third = (each.pop() // 10**9 for each in times)
    assert first < second < third


def test_a_reader_that_compares_times_as_grpc_does_never_takes_half_a_pair(tmp_path: Path) -> None:
    put(tmp_path, "0")
    ended, taken = threading.Event(), set()
    current = tmp_path / "current"

    def read() -> None:
        while not ended.is_set():
            try:
                before = [int((current / name).stat().st_mtime) for name in NAMES[:2]]
                chain, key = ((current / name).read_text() for name in NAMES[:2])
                after = [int((current / name).stat().st_mtime) for name in NAMES[:2]]
            except FileNotFoundError:
                continue
            if before == after:
                taken.add((chain.split()[0], key.split()[0]))

    readers = [threading.Thread(target=read)]
    for reader in readers:
        reader.start()
    with GenerationFolder(tmp_path) as folder:
        for number in range(40):
            folder.put(files(str(number)))
            folder.settle()
    ended.set()
    for reader in readers:
        reader.join()

    assert len(taken) > 10
    assert {pair for pair in taken if pair[0] != pair[1]} == set()


def test_a_note_replaces_its_predecessor_and_follows_no_link(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    with GenerationFolder(tmp_path / "drop") as folder:
        (tmp_path / "drop/status.json").symlink_to(victim)
        (tmp_path / "drop/.status.json.new").symlink_to(victim)
        folder.note("status.json", b"one")
        folder.note("status.json", b"two")

    assert victim.read_text() == "untouched"
    assert (tmp_path / "drop/status.json").read_text() == "two"
    assert sorted(os.listdir(tmp_path / "drop")) == ["status.json"]


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
