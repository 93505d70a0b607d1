"""The public socket: never wider than asked for, and nothing of somebody else's is removed."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshca.attest.listener import (
    MAX_PATH_BYTES,
    SocketInUseError,
    SocketPathError,
    listen,
    remove_own,
    remove_stale,
    require_path,
)


@pytest.fixture(params=[0o000, 0o022, 0o077], ids=["umask-000", "umask-022", "umask-077"])
def _umask(request: pytest.FixtureRequest) -> Iterator[None]:
    former = os.umask(request.param)
    yield
    os.umask(former)


@pytest.mark.usefixtures("_umask")
@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
def test_the_mode_is_the_one_asked_for_whatever_the_umask(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "s"
    with listen(path, mode):
        assert stat.S_IMODE(path.stat().st_mode) == mode


def test_what_a_dead_server_left_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        dead.listen()

    with listen(path, 0o600), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_a_socket_somebody_listens_on_stays(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with listen(path, 0o600):
        with pytest.raises(SocketInUseError, match="stop it first"):
            listen(path, 0o600)

        assert path.is_socket()


def test_a_socket_whose_queue_is_full_stays(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as waiting:
        busy.bind(str(path))
        busy.listen(0)
        waiting.connect(str(path))

        with pytest.raises(SocketInUseError):
            listen(path, 0o600)


@pytest.mark.parametrize("kind", ["file", "folder", "link to a socket"])
def test_anything_but_a_socket_stays(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "s"
    if kind == "file":
        path.write_text("precious")
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(tmp_path / "elsewhere")

    with pytest.raises(SocketPathError, match="something other than a socket"):
        listen(path, 0o600)
    assert path.lstat()


def test_nothing_there_is_nothing_to_remove(tmp_path: Path) -> None:
    remove_stale(tmp_path / "s")
    remove_own(tmp_path / "s", 1)


def test_a_successors_socket_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with listen(path, 0o600):
        remove_own(path, path.lstat().st_ino + 1)
        assert path.is_socket()

        remove_own(path, path.lstat().st_ino)
        assert not path.exists()


def test_the_longest_path_the_kernel_holds_is_taken_and_one_byte_more_refused(tmp_path: Path) -> None:
    room = MAX_PATH_BYTES - len(os.fsencode(tmp_path)) - 1
    longest = tmp_path / ("x" * room)
    with listen(longest, 0o600), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(longest))

    with pytest.raises(SocketPathError, match=r"at most 107 bytes, this one has 108.*choose a shorter --home"):
        listen(tmp_path / ("x" * (room + 1)), 0o600)


def test_the_length_is_counted_in_bytes() -> None:
    require_path(Path("/" + "ö" * 53))
    with pytest.raises(SocketPathError):
        require_path(Path("/" + "ö" * 54))
