"""A signal reaches the program that is named, through its pid file, and no other."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from meshca.drop.signalling import Signal, SignalError
from meshca.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAM = Path(os.path.realpath(sys.executable))
OTHER = Path(os.path.realpath(shutil.which("sleep") or "/bin/sleep"))
SAYS = "import signal,sys; signal.signal(signal.SIGHUP, lambda *_: print('HUP', flush=True)); print('up', flush=True)\n"
SAYS += "while True: signal.pause()"


@pytest.fixture
def daemon() -> Iterator[subprocess.Popen[str]]:
    """A program that says when it has been sent SIGHUP."""
    with subprocess.Popen([PROGRAM, "-S", "-c", SAYS], stdout=subprocess.PIPE, text=True) as process:
        assert line(process) == "up"
        yield process
        process.kill()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def pid_file(folder: Path, text: str) -> Path:
    path = folder / "daemon.pid"
    path.write_text(text)
    path.chmod(0o644)
    return path


@pytest.mark.parametrize("form", ["{}", "{}\n", " {}\n", "{}\n/var/lib/data\n1795617237\n5432\n"])
def test_the_process_in_the_pid_file_is_signalled(tmp_path: Path, daemon: subprocess.Popen[str], form: str) -> None:
    Signal(signal.SIGHUP, PROGRAM, pid_file(tmp_path, form.format(daemon.pid))).send()

    assert line(daemon) == "HUP"


def test_a_process_is_signalled_by_its_id_and_a_program_may_be_named_by_a_link(
    tmp_path: Path, daemon: subprocess.Popen[str]
) -> None:
    (tmp_path / "daemon").symlink_to(PROGRAM)
    Signal(signal.SIGHUP, tmp_path / "daemon", pid=daemon.pid).send()

    assert line(daemon) == "HUP"


def test_a_program_whose_file_was_replaced_by_an_upgrade_is_still_that_program(tmp_path: Path) -> None:
    copy = tmp_path / "sleep"
    shutil.copy(OTHER, copy)
    with subprocess.Popen([copy, "60"]) as process:
        copy.unlink()
        shutil.copy(OTHER, copy)
        Signal(signal.SIGHUP, copy, pid=process.pid).send()
        assert process.wait(10) == -signal.SIGHUP


def test_a_pid_file_that_leads_to_another_program_signals_nobody(tmp_path: Path) -> None:
    with subprocess.Popen([OTHER, "60"]) as process:
        with pytest.raises(RefusedError, match="runs another program"):
            Signal(signal.SIGHUP, PROGRAM, pid_file(tmp_path, str(process.pid))).send()
        assert process.poll() is None
        process.kill()


def test_a_link_in_place_of_a_pid_file_is_refused(tmp_path: Path, daemon: subprocess.Popen[str]) -> None:
    (tmp_path / "link").symlink_to(pid_file(tmp_path, str(daemon.pid)))

    with pytest.raises(RefusedError, match="is a link"):
        Signal(signal.SIGHUP, PROGRAM, tmp_path / "link").send()


def test_a_pid_file_that_everybody_may_write_to_or_that_is_no_file_is_refused(
    tmp_path: Path, daemon: subprocess.Popen[str]
) -> None:
    path = pid_file(tmp_path, str(daemon.pid))
    path.chmod(0o666)
    os.mkfifo(tmp_path / "fifo")

    for each in (path, tmp_path / "fifo"):
        with pytest.raises(RefusedError, match="is no file, or everybody may write to it"):
            Signal(signal.SIGHUP, PROGRAM, each).send()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give files away")
def test_a_pid_file_of_a_user_who_does_not_run_the_program_is_refused(
    tmp_path: Path, daemon: subprocess.Popen[str]
) -> None:
    path = pid_file(tmp_path, str(daemon.pid))
    os.chown(path, 61_000, 61_000)

    with pytest.raises(RefusedError, match="belongs to uid 61000"):
        Signal(signal.SIGHUP, PROGRAM, path).send()
    with subprocess.Popen([str(OTHER), "60"], user=61_000, group=61_000, extra_groups=[]) as own:
        path.write_text(str(own.pid))
        Signal(signal.SIGHUP, OTHER, path).send()
        assert own.wait(10) == -signal.SIGHUP


@pytest.mark.parametrize(("text", "words"), [("", "does not begin with"), ("x1", "does not begin"),
                                             ("-1", "does not begin"), ("12a", "does not begin"),
                                             ("0\n", "no process id"),
                                             ("999999999", "cannot signal process 999999999")])  # fmt: skip
def test_what_names_no_process_is_told(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(SignalError, match=words):
        Signal(signal.SIGHUP, PROGRAM, pid_file(tmp_path, text)).send()


def test_a_program_that_does_not_run_yet_is_told(tmp_path: Path) -> None:
    with pytest.raises(SignalError, match="is the program running"):
        Signal(signal.SIGHUP, PROGRAM, tmp_path / "none.pid").send()


def test_a_process_that_ends_before_it_is_signalled_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    process = subprocess.Popen([OTHER, "60"])

    def readlink(path: str) -> str:
        process.kill()
        process.wait(10)
        return str(OTHER)

    monkeypatch.setattr(os, "readlink", readlink)
    with pytest.raises(SignalError, match=r"cannot signal process .*No such process"):
        Signal(signal.SIGHUP, OTHER, pid=process.pid).send()
