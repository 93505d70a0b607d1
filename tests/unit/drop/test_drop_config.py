"""The configuration of several drops: what it may say, and where exactly it is wrong."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from meshca.drop.config import DropConfigError, Target, parse_targets, read_targets
from meshca.drop.folders import Access
from meshca.drop.serving import Port
from meshca.drop.signalling import Signal
from meshca.errors import NotFoundError, RefusedError

BARE = '[[target]]\nnode = "front"\ndir = "/run/front"\n'
WHOLE = """
[[target]]
name = "web"
node = "mesh/m/virtualNode/front"
dir = "/run/meshca/web"
layout = "haproxy"
dns = ["front.m.test"]
subject = true
owner = "61001"
group = "61002"
mode = "0440"
key_mode = "0400"
debounce = 1.5
[target.reload]
signal = "USR2"
pid_file = "/run/haproxy.pid"
program = "/usr/sbin/haproxy"
[target.verify]
address = "[::1]:8443"
protocol = "postgres"
server_name = "front.m.test"
timeout = 3

[[target]]
node = "back"
dir = "/run/meshca/back"
reload = { command = "systemctl reload back" }
verify = { address = "back.m.test:443" }
"""


def one(text: str) -> Target:
    (target,) = parse_targets(text, "drop.toml")
    return target


def test_everything_that_a_target_may_say_is_read() -> None:
    web, back = parse_targets(WHOLE, "drop.toml")

    assert (web.label, web.folder, web.layout, web.dns) == (
        "web",
        Path("/run/meshca/web"),
        "haproxy",
        ("front.m.test",),
    )
    assert (web.subject, web.debounce) == (True, 1.5)
    assert web.access() == Access(61_001, 61_002, 0o440, 0o400)
    assert web.reload is not None
    assert web.reload.as_signal() == Signal(signal.SIGUSR2, Path("/usr/sbin/haproxy"), Path("/run/haproxy.pid"))
    assert web.verify is not None
    assert web.verify.as_port() == Port("::1", 8443, "postgres", "front.m.test", 3.0)
    assert back.label == "back"
    assert back.reload is not None
    assert back.reload.as_signal() is None
    assert back.verify is not None
    assert back.verify.as_port() == Port("back.m.test", 443)


def test_what_is_absent_is_narrow() -> None:
    target = one(BARE)

    assert target.access() == Access(-1, -1, 0o600, 0o600)
    assert (target.reload, target.verify, target.subject, target.dns) == (None, None, False, ())


@pytest.mark.parametrize(
    ("more", "access"),
    [
        ('group = "61002"', Access(-1, 61_002, 0o640, 0o640)),
        ('owner = "61001"', Access(61_001, 61_001, 0o640, 0o600)),
        ('owner = "root"', Access(0, 0, 0o640, 0o600)),
        ('group = "root"\nkey_mode = "0440"', Access(-1, 0, 0o640, 0o440)),
        ('key_mode = "0400"', Access(-1, -1, 0o600, 0o400)),
    ],
)
def test_who_is_named_may_read(more: str, access: Access) -> None:
    assert one(BARE + more).access() == access


@pytest.mark.parametrize(("more", "field"), [('owner = "no-such-user"', "owner: no such user"),
                                             ('group = "no-such-group"', "group: no such group"),
                                             ('owner = "4294967295"', "owner: no id"),
                                             ('group = "99999999999"', "group: no id")])  # fmt: skip
def test_who_does_not_exist_here_is_named(more: str, field: str) -> None:
    with pytest.raises(DropConfigError, match=field):
        one(BARE + more).access()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "drop.toml: target: Field required"),
        ("target = []", "target: .*at least 1 item"),
        ("[[target]\n", "drop.toml: not TOML"),
        ("[other]\n" + BARE, "other: Extra inputs"),
        ("target = [1]", "target 1: "),
        ('[[target]]\ndir = "/d"', r"target 1 \(/d\) node: Field required"),
        (BARE + "nodes = 1", r"target 1 \(/run/front\) nodes: Extra inputs"),
        (BARE.replace("/run/front", "run"), r"target 1 \(run\) dir: is an absolute path"),
        (BARE + 'layout = "der"', "layout: Input should be 'pem', 'haproxy' or 'grpc'"),
        (BARE + 'subject = "yes"', "subject: Input should be a valid boolean"),
        (BARE + 'dns = "front.m.test"', "dns: Input should be a valid array"),
        (BARE + 'name = "a/b"', "name: String should match"),
        (BARE + "debounce = -1", "debounce: Input should be greater"),
        (BARE + "debounce = nan", "debounce: "),
        (BARE + "debounce = 1979-05-27", "debounce: Input should be a valid number"),
        (BARE + 'mode = "0644"', "mode: Input should be"),
        (BARE + "mode = 416", "mode: Input should be"),
        (BARE + 'mode = "0640"', "a mode that lets a group read needs an owner or a group"),
        (BARE + "reload = {}", "reload: needs either a command or a signal"),
        (BARE + 'reload = { command = "a", signal = "HUP" }', "reload: needs either"),
        (BARE + 'reload = { command = "\'a" }', "reload command: no closing quotation"),
        (BARE + 'reload = { command = "a", pid = 5 }', "a command needs no pid_file"),
        (BARE + 'reload = { signal = "HUP", pid = 5 }', "and the program that it is for"),
        (BARE + 'reload = { signal = "HUP", program = "/a" }', "needs a pid_file or a pid"),
        (BARE + 'reload = { signal = "HUP", program = "/a", pid = 5, pid_file = "/b" }', "needs a pid_file or a pid"),
        (BARE + 'reload = { signal = "KILL", program = "/a", pid = 5 }', "reload signal: Input should be"),
        (BARE + 'reload = { signal = "HUP", program = "a", pid = 5 }', "reload program: is an absolute path"),
        (BARE + 'verify = { address = "8443" }', "verify address: is host:port"),
        (BARE + 'verify = { address = "h:65536" }', "verify address: is host:port"),
        (BARE + 'verify = { address = "h:1", protocol = "smtp" }', "verify protocol: Input should be"),
        (BARE + BARE, "two targets have this dir.*/run/front"),
        (BARE + BARE.replace("/run/front", "/run/front/"), "two targets have this dir"),
        (BARE + BARE.replace("/run/front", "/srv/front"), "two targets have this name.*'front'"),
    ],
)
def test_what_is_wrong_is_named_with_its_target_and_key(text: str, words: str) -> None:
    with pytest.raises(DropConfigError, match=words):
        parse_targets(text, "drop.toml")


def test_a_file_that_others_may_write_to_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "drop.toml"
    path.write_text(BARE)
    for mode in (0o620, 0o602):
        path.chmod(mode)
        with pytest.raises(RefusedError, match=r"others may write to it, and it says what to run.*chmod go-w"):
            read_targets(path)
    path.chmod(0o644)
    assert read_targets(path) == (one(BARE),)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give files away")
def test_a_file_of_somebody_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "drop.toml"
    path.write_text(BARE)
    path.chmod(0o600)
    os.chown(path, 61_000, 61_000)

    with pytest.raises(RefusedError, match="others may write"):
        read_targets(path)


def test_what_is_no_configuration_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="No such file"):
        read_targets(tmp_path / "none")
    with pytest.raises(DropConfigError, match="not a file"):
        read_targets(tmp_path)
    for content, words in ((b"\xff", "not UTF-8"), (b"#" * ((1 << 20) + 1), "larger than")):
        (tmp_path / "drop.toml").write_bytes(content)
        (tmp_path / "drop.toml").chmod(0o600)
        with pytest.raises(DropConfigError, match=words):
            read_targets(tmp_path / "drop.toml")
