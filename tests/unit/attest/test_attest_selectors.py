"""Selectors, each by a real process: what holds, what doesn't, and who is no longer itself."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from unit.attest.processes import IDLE, PYTHON, as_root, connecting, program

from meshca.attest.executable import Executables, running_file
from meshca.attest.process import AttestationError, Process
from meshca.attest.selectors import Reader, is_slow, selectors
from meshca.errors import UnavailableError
from meshca.policy.entitlement import Registration, Selector, entitled
from meshca.policy.selector import parse_selector
from meshca.spiffe.id import SpiffeId, TrustDomain

SOMEBODY = 4711
WEB = SpiffeId(TrustDomain("example.org"), "/web")
MINE = f"unix:uid:{os.geteuid()}"


def registration(*texts: str) -> Registration:
    return Registration("1", WEB, frozenset(parse_selector(text) for text in texts))


def holds(process: Process, *texts: str, reader: Reader | None = None) -> bool:
    """Say whether a registration of these selectors is satisfied, as the server would ask."""
    wanted = registration(*texts)
    return bool(entitled((reader or Reader()).selectors(process, [wanted]), [wanted]))


def sha256(path: Path) -> str:
    return f"unix:sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


@pytest.fixture
def folder() -> Iterator[Path]:
    # Not tmp_path: that is closed to other users.
    path = Path(tempfile.mkdtemp(prefix="meshca-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


# -- user and groups


@as_root
def test_user_group_and_supplementary_groups() -> None:
    become = ["setpriv", f"--reuid={SOMEBODY}", f"--regid={SOMEBODY + 1}", f"--groups={SOMEBODY + 2},{SOMEBODY + 3}"]
    with connecting(before=become) as caller:
        held = selectors(caller.process)

        assert held == {
            Selector("unix:uid", "4711"),
            *(Selector("unix:gid", str(group)) for group in (4712, 4713, 4714)),
        }
        assert holds(caller.process, "unix:gid:4713", "unix:gid:4714")
        assert not holds(caller.process, "unix:gid:4711")
        assert not holds(caller.process, "unix:uid:4712")


# -- the program


def test_the_path_of_the_program(folder: Path) -> None:
    ours = program(folder)
    with connecting(ours) as caller:
        assert holds(caller.process, MINE, f"unix:path:{ours}")
        assert not holds(caller.process, MINE, f"unix:path:{PYTHON}")
        assert not holds(caller.process, f"unix:uid:{SOMEBODY}", f"unix:path:{ours}")


def test_a_path_is_that_of_the_file_not_of_a_link_to_it(folder: Path) -> None:
    ours = program(folder)
    (folder / "link").symlink_to(ours)
    with connecting(folder / "link") as caller:
        assert holds(caller.process, MINE, f"unix:path:{ours}")
        assert not holds(caller.process, MINE, f"unix:path:{folder}/link")


def test_the_sha256_of_the_program(folder: Path) -> None:
    ours, other = program(folder, extra=b"ours"), program(folder, "other", b"other")
    with connecting(ours) as caller:
        assert holds(caller.process, MINE, sha256(ours))
        assert holds(caller.process, MINE, sha256(ours), f"unix:path:{ours}")
        assert not holds(caller.process, MINE, sha256(other))


def test_the_program_of_a_deleted_file_has_its_sha256_and_no_path(folder: Path) -> None:
    ours = program(folder)
    digest = sha256(ours)
    with connecting(ours) as caller:
        ours.unlink()
        assert holds(caller.process, MINE, digest)
        assert not holds(caller.process, MINE, f"unix:path:{ours}")
        assert not holds(caller.process, MINE, f"unix:path:{ours} (deleted)")


def test_a_file_laid_over_the_former_path_is_not_the_program_that_runs(folder: Path) -> None:
    ours, trusted = program(folder, "ours", b"ours"), program(folder, "trusted", b"trusted")
    with connecting(ours) as caller:
        trusted.rename(ours)
        assert not holds(caller.process, MINE, f"unix:path:{ours}")
        assert not holds(caller.process, MINE, sha256(ours))


def test_an_upgrade_does_not_take_the_path_from_who_had_it(folder: Path) -> None:
    ours, upgrade = program(folder, "ours"), program(folder, "upgrade", b"2")
    reader = Reader()
    with connecting(ours) as caller:
        assert holds(caller.process, MINE, f"unix:path:{ours}", reader=reader)
        upgrade.rename(ours)
        assert holds(caller.process, MINE, f"unix:path:{ours}", reader=reader)
        ours.unlink()
        assert holds(caller.process, MINE, f"unix:path:{ours}", reader=reader)
        (folder / "idle.py").write_text(IDLE)
        assert caller.order(f"exec {PYTHON} -I -S {folder}/idle.py") == "running"
        assert not holds(caller.process, MINE, f"unix:path:{ours}", reader=reader)


@as_root
def test_a_file_bound_over_the_path_in_another_mount_namespace_is_not_the_one_here(folder: Path) -> None:
    trusted, hostile = program(folder / "opt", "trusted", b"good"), program(folder / "hostile", "hostile", b"evil")
    script = 'mount --bind "$0" "$1" && shift && exec "$@"'
    before = ["unshare", "--mount", "sh", "-c", script, str(hostile), str(trusted)]
    with connecting(trusted, before) as caller:
        assert os.readlink(f"/proc/{caller.process.pid}/exe") == str(trusted), "the kernel's word, in its namespace"
        assert not holds(caller.process, MINE, f"unix:path:{trusted}")
        assert not holds(caller.process, MINE, sha256(trusted))
        assert holds(caller.process, MINE, sha256(hostile))


def test_a_program_larger_than_the_limit_has_no_sha256(folder: Path) -> None:
    ours = program(folder)
    size = ours.stat().st_size
    with connecting(ours) as caller:
        assert holds(caller.process, MINE, sha256(ours), reader=Reader(Executables(most_bytes=size)))
        small = Executables(most_bytes=size - 1)
        assert not holds(caller.process, MINE, sha256(ours), reader=Reader(small))
        assert small.read == 0
        assert holds(caller.process, MINE, f"unix:path:{ours}", reader=Reader(small))


@as_root
def test_a_program_that_cannot_be_read_has_neither(folder: Path) -> None:
    ours = program(folder)
    code = f"""
import os, sys
sys.path.insert(0, {os.getcwd()!r})
from meshca.attest.executable import Executables, running_file
from meshca.attest.process import Process
os.setgroups([]); os.setgid(65534); os.setuid(65534)
pid = int(sys.argv[1])
file = running_file(pid)
process = Process(pid, 0, 0, frozenset(), 1, file)
print(file, set(Executables().selectors(process, {{"unix:path", "unix:sha256"}})))
"""
    with connecting(ours) as caller:
        command = [sys.executable, "-c", code, str(caller.process.pid)]
        told = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)

        assert told.stdout == "None set()\n"
        unknown = dataclasses.replace(caller.process, executable=None)
        assert not holds(unknown, MINE, f"unix:path:{ours}")
        assert not holds(unknown, MINE, sha256(ours))
        assert holds(unknown, MINE)


def test_a_program_on_no_known_file_system_has_no_sha256(folder: Path) -> None:
    # A memfd is on no mount; the program there is a copy of a trusted one, and still doesn't count.
    ours = program(folder)
    with connecting(ours) as caller:
        launch = (
            "import os,sys;m=os.memfd_create('m',0);m2=open(sys.argv[1],'rb').read();os.write(m,m2);"
            "os.execve(m,sys.argv[2:],{})"
        )
        (folder / "launch.py").write_text(launch)
        (folder / "idle.py").write_text(IDLE)
        arguments = f"{ours} -I -S {folder}/launch.py {ours} {ours} -I -S {folder}/idle.py"
        assert caller.order(f"exec {arguments}") == "running"
        now = dataclasses.replace(caller.process, executable=running_file(caller.process.pid))
        assert os.readlink(f"/proc/{now.pid}/exe").startswith("/memfd:")
        assert hashlib.sha256(Path(f"/proc/{now.pid}/exe").read_bytes()).digest() == bytes.fromhex(sha256(ours)[12:])
        assert not holds(now, MINE, sha256(ours))


# -- what is remembered


def test_a_settled_program_is_read_once(folder: Path) -> None:
    ours = program(folder)
    executables = Executables(clock=lambda: ours.stat().st_ctime + 2.5)
    reader = Reader(executables)
    for _ in range(3):
        with connecting(ours) as caller:
            assert holds(caller.process, MINE, sha256(ours), reader=reader)
    assert executables.read == 1


def test_a_program_that_has_just_changed_is_not_remembered(folder: Path) -> None:
    ours = program(folder)
    executables = Executables(clock=lambda: ours.stat().st_ctime + 1.5)
    with connecting(ours) as caller:
        for _ in range(3):
            assert holds(caller.process, MINE, sha256(ours), reader=Reader(executables))
    assert executables.read == 3


def test_another_content_with_the_same_times_is_read_anew(folder: Path) -> None:
    ours = program(folder, extra=b"good")
    good, times = sha256(ours), ours.stat()
    executables = Executables(clock=lambda: ours.stat().st_ctime + 60)
    reader = Reader(executables)
    with connecting(ours) as caller:
        assert holds(caller.process, MINE, good, reader=reader)
    with ours.open("r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(b"evil")
    os.utime(ours, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert (ours.stat().st_ino, ours.stat().st_size, ours.stat().st_mtime_ns) == (
        times.st_ino, times.st_size, times.st_mtime_ns,
    )  # fmt: skip
    with connecting(ours) as caller:
        assert not holds(caller.process, MINE, good, reader=reader)
        assert holds(caller.process, MINE, sha256(ours), reader=reader)


def test_what_nobody_asks_for_is_not_read(folder: Path) -> None:
    ours = program(folder)
    executables = Executables()
    reader = Reader(executables)
    others = [registration(f"unix:uid:{SOMEBODY}", sha256(ours)), registration(f"unix:gid:{SOMEBODY}", sha256(ours))]
    with connecting(ours) as caller:
        assert reader.selectors(caller.process, others) == selectors(caller.process)
        assert reader.selectors(caller.process, [registration(MINE, f"unix:path:{ours}")]) > selectors(caller.process)
        assert executables.read == 0
        assert not is_slow(caller.process, others)
        assert is_slow(caller.process, [registration(MINE, sha256(ours))])
        assert not is_slow(caller.process, [registration(MINE, f"unix:path:{ours}")])


def test_only_what_is_asked_for_is_told(folder: Path) -> None:
    ours = program(folder)
    with connecting(ours) as caller:
        asked = [registration(MINE, "unix:path:/opt/other")]
        assert Reader().selectors(caller.process, asked) == selectors(caller.process)


def test_a_file_that_changes_while_it_is_read_has_no_sha256(folder: Path) -> None:
    ours = program(folder)
    touched: list[Path] = []

    def clock() -> float:
        ours.chmod(0o700)  # the time is asked for just before the file is read
        touched.append(ours)
        return ours.stat().st_ctime + 60

    with connecting(ours) as caller:
        assert not holds(caller.process, MINE, sha256(ours), reader=Reader(Executables(clock=clock)))
    assert touched


# -- who is no longer itself


@pytest.mark.parametrize("trusted_runs", [True, False])
def test_a_process_that_became_the_trusted_program_after_it_connected_is_not_trusted(
    folder: Path, *, trusted_runs: bool
) -> None:
    hostile, trusted = program(folder, "hostile", b"evil"), program(folder, "trusted", b"good")
    with connecting(hostile) as caller:
        if trusted_runs:
            (folder / "idle.py").write_text(IDLE)
            assert caller.order(f"exec {trusted} -I -S {folder}/idle.py") == "running"
            assert os.readlink(f"/proc/{caller.process.pid}/exe") == str(trusted)
            assert running_file(caller.process.pid) != caller.process.executable
        assert not holds(caller.process, MINE, f"unix:path:{trusted}")
        assert not holds(caller.process, MINE, sha256(trusted))
        assert holds(caller.process, MINE, f"unix:path:{hostile}") is not trusted_runs
        assert holds(caller.process, MINE)


def test_a_number_used_again_is_refused() -> None:
    with connecting() as caller:
        former = dataclasses.replace(caller.process, start_time=caller.process.start_time - 1)
        with pytest.raises(AttestationError, match="is not the one that connected"):
            holds(former, MINE, f"unix:path:{PYTHON}")


def test_a_number_used_again_while_it_is_read_is_refused(folder: Path) -> None:
    with connecting() as caller:

        class Replaced(Executables):
            """The process ends while its program is read."""

            def selectors(self, process: Process, types: object) -> frozenset[Selector]:
                caller.child.kill()
                caller.child.wait(20)
                return frozenset({Selector("unix:path", str(PYTHON))})

        with pytest.raises(AttestationError, match="has ended"):
            holds(caller.process, MINE, f"unix:path:{PYTHON}", reader=Reader(Replaced()))


@as_root
def test_a_process_that_changed_its_user_is_refused(folder: Path) -> None:
    with connecting() as caller:
        assert caller.order(f"setuid {SOMEBODY}") == "done"
        with pytest.raises(AttestationError, match="is uid 4711 now"):
            holds(caller.process, MINE, f"unix:path:{PYTHON}")


def test_a_process_that_has_ended_is_refused() -> None:
    with connecting() as caller:
        caller.child.kill()
        caller.child.wait(20)
        with pytest.raises(AttestationError, match="has ended"):
            holds(caller.process, MINE, f"unix:path:{PYTHON}")


@pytest.mark.parametrize("pid", [0, -1])
def test_a_process_without_a_number_has_no_selectors_that_are_read(pid: int) -> None:
    nobody = Process(pid, os.geteuid(), os.getegid(), frozenset(), 1, running_file(os.getpid()))
    with pytest.raises((AttestationError, UnavailableError)):
        holds(nobody, MINE, f"unix:path:{PYTHON}")


def test_reading_leaves_no_descriptor_open(folder: Path) -> None:
    ours = program(folder)
    with connecting(ours) as caller:
        before = os.listdir("/proc/self/fd")
        assert holds(caller.process, MINE, sha256(ours), f"unix:path:{ours}")
        assert not holds(caller.process, MINE, "systemd:unit:x.service")
        assert os.listdir("/proc/self/fd") == before
