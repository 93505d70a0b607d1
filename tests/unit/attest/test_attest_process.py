"""What the kernel says of the process behind a socket: real processes, other users, dead ones, reused numbers."""

from __future__ import annotations

import dataclasses
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import pytest

from meshca.attest.process import AttestationError, Process, attest, read_start_time, require_same

NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else")

CONNECT = """
import os, socket, sys
name, uid, mode = sys.argv[1], int(sys.argv[2]), sys.argv[3]
if uid:
    os.setgroups([uid + 1, uid + 2]); os.setgid(uid); os.setuid(uid)
s = socket.socket(socket.AF_UNIX); s.connect(chr(0) + name)
if mode == "leave":
    os._exit(0)
if mode == "drop":
    os.setuid(65534)
print("connected", flush=True)
sys.stdin.read()
"""


@contextmanager
def connected(uid: int = 0, mode: str = "stay") -> Iterator[tuple[socket.socket, subprocess.Popen[bytes]]]:
    """Give the accepting end of a connection that a child process made, and that process."""
    with socket.socket(socket.AF_UNIX) as listener:
        name = os.urandom(16).hex()
        listener.bind(f"\0{name}")
        listener.listen()
        listener.settimeout(20)
        command = [sys.executable, "-I", "-S", "-c", CONNECT, name, str(uid), mode]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
            try:
                connection, _ = listener.accept()
                with connection:
                    if mode != "leave":
                        assert child.stdout is not None
                        child.stdout.readline()
                    yield connection, child
            finally:
                child.kill()


def attested(connection: socket.socket) -> Process:
    process, pidfd = attest(connection)
    os.close(pidfd)
    return process


@as_root
def test_user_groups_and_number_are_those_of_the_process_that_connected() -> None:
    with connected(uid=NOBODY) as (connection, child):
        process = attested(connection)

    assert (process.pid, process.uid, process.gid) == (child.pid, NOBODY, NOBODY)
    assert process.groups == {NOBODY + 1, NOBODY + 2}
    assert process.start_time > 0


def test_a_live_process_is_the_same_a_moment_later() -> None:
    with connected() as (connection, child):
        process = attested(connection)
        require_same(process)

        assert process.start_time == read_start_time(child.pid)


def test_a_number_used_again_is_another_process() -> None:
    with connected() as (connection, _child):
        former = dataclasses.replace(attested(connection), start_time=1)

        with pytest.raises(AttestationError, match="is not the one that connected"):
            require_same(former)


@as_root
def test_who_has_changed_its_user_is_no_longer_the_one_that_connected() -> None:
    with connected(mode="drop") as (connection, _child):
        process = attested(connection)

        assert process.uid == 0, "credentials are those at connect"
        with pytest.raises(AttestationError, match=f"connected as uid 0 and is uid {NOBODY} now"):
            require_same(process)


def test_a_process_that_ended_and_was_reaped_is_refused() -> None:
    with connected(mode="leave") as (connection, child):
        child.wait(20)

        with pytest.raises(AttestationError, match="has ended"):
            attest(connection)


def test_a_zombie_is_refused() -> None:
    with connected(mode="leave") as (connection, child):
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)

        with pytest.raises(AttestationError, match="has ended"):
            attest(connection)


def test_a_refusal_leaves_no_descriptor_open() -> None:
    with connected(mode="leave") as (connection, child):
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        before = os.listdir("/proc/self/fd")
        with pytest.raises(AttestationError):
            attest(connection)

        assert os.listdir("/proc/self/fd") == before


def test_a_process_of_which_the_same_is_asked_after_its_end_is_refused() -> None:
    with connected() as (connection, child):
        process = attested(connection)
        child.kill()
        child.wait(20)

        with pytest.raises(AttestationError, match="has ended"):
            require_same(process)


class Foreign:
    """A socket whose peer is in a pid namespace we can't see into: the kernel says 0."""

    def getsockopt(self, _level: int, _option: int, _size: int = 0) -> bytes:
        return struct.pack("iII", 0, 1000, 1000)


def test_a_process_of_another_pid_namespace_is_refused() -> None:
    with pytest.raises(AttestationError, match="pid namespace"):
        attest(cast("socket.socket", Foreign()))


def test_a_command_name_of_blanks_and_parentheses_does_not_confuse() -> None:
    program = "import sys; open('/proc/self/comm', 'w').write(') R 1 (x'); print('named', flush=True); sys.stdin.read()"
    command = [sys.executable, "-I", "-S", "-c", program]
    with (
        connected() as (connection, _child),
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as odd,
    ):
        assert odd.stdout is not None
        odd.stdout.readline()
        ordinary = attested(connection).start_time

        assert 0 <= read_start_time(odd.pid) - ordinary < 100 * os.sysconf("SC_CLK_TCK")
        odd.kill()
