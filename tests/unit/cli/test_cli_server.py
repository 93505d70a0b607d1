"""`init` and `serve`: what they refuse, and what they never write down."""

from __future__ import annotations

import io
import stat
from typing import TYPE_CHECKING

import pytest
import structlog

from meshca.cli.serve import drop_secrets, log_to_stderr

if TYPE_CHECKING:
    from pathlib import Path

    from fakes.shell import Shell

INIT = ["init", "--trust-domain", "m.test"]


def contents(home: Path) -> dict[str, bytes]:
    return {str(file.relative_to(home)): file.read_bytes() for file in home.rglob("*") if file.is_file()}


@pytest.fixture
def empty(alone: Shell) -> Shell:
    (alone.home / "run").rmdir()
    return alone


def test_init_generates_a_passphrase_where_nobody_can_be_asked_and_warns(empty: Shell) -> None:
    document = empty.json(*INIT, "--lifetimes", "leaf=10m")

    passphrase = empty.home / "passphrase"
    assert document["trust_domain"] == "m.test"
    assert document["home"] == str(empty.home)
    assert document["passphrase_file"] == str(passphrase)
    assert "passphrase was generated" in document["warnings"][0]
    assert stat.S_IMODE(passphrase.stat().st_mode) == 0o600
    assert 'leaf = "10m"' in (empty.home / "meshca.toml").read_text()
    assert [key.stem for key in (empty.home / "keys").iterdir()] == [document["root"]]  # the other is in the store

    before = contents(empty.home)
    assert "nothing was changed" in empty.run(*INIT, code=1).stderr
    assert contents(empty.home) == before


def test_init_takes_a_passphrase_from_a_file_and_leaves_none(empty: Shell, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("correct horse\n")
    result = empty.run(*INIT, "--passphrase-file", str(tmp_path / "secret"))

    assert "correct horse" not in result.output
    assert not (empty.home / "passphrase").exists()
    assert not any(b"correct horse" in content for content in contents(empty.home).values())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--trust-domain", "M.test"], "trust domain"),
        (["--trust-domain", "m.test", "--lifetimes", "leaf=30d"], "lifetimes.leaf"),
        (["--trust-domain", "m.test", "--lifetimes", "leaf"], "leaf"),
        (["--trust-domain", "m.test", "--passphrase-file", "/no/such/file"], "/no/such/file"),
    ],
)
def test_init_refuses_what_is_wrong_and_leaves_nothing(empty: Shell, options: list[str], words: str) -> None:
    assert words in empty.run("init", *options, code=1).stderr
    assert contents(empty.home) == {}


def test_init_refuses_an_upstream_that_it_does_not_know(empty: Shell) -> None:
    assert "openbao:pki[/MOUNT]" in empty.run(*INIT, "--upstream", "vault:x", code=1).stderr
    assert contents(empty.home) == {}


def test_init_joins_the_database_of_another_home(empty: Shell, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("correct horse\n")
    given = ["--database", f"sqlite:///{tmp_path}/shared.db", "--passphrase-file", str(secret)]
    empty.run(*INIT, *given)
    second = ["--home", str(tmp_path / "second"), "init", "--join"]

    document = empty.json(*second, *given, "--replica", "two")

    assert (document["trust_domain"], document["replica"]) == ("m.test", "two")
    (warning,) = document["warnings"]
    assert "a file of another replica's home" in warning
    assert document["home"] == str(tmp_path / "second")
    assert 'name = "two"' in (tmp_path / "second/meshca.toml").read_text()
    assert "not empty" in empty.run(*second, *given, code=1).stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "--trust-domain"),
        (["--trust-domain", "m.test", "--replica", "two"], "--join"),
        (["--join", "--database", "sqlite:////nowhere/x.db", "--lifetimes", "leaf=1m"], "--lifetimes"),
    ],
)
def test_options_of_init_that_do_not_go_together(empty: Shell, options: list[str], words: str) -> None:
    assert words in empty.run("init", *options, code=2).stderr
    assert contents(empty.home) == {}


def test_serve_wants_a_home(alone: Shell) -> None:
    assert "meshca init" in alone.run("serve", code=1).stderr


def test_serve_refuses_a_wrong_passphrase_or_address_before_anything_listens(empty: Shell, tmp_path: Path) -> None:
    empty.run(*INIT)
    (tmp_path / "wrong").write_text("wrong")

    result = empty.run("serve", "--http", "127.0.0.1:0", "--passphrase-file", str(tmp_path / "wrong"), code=1)
    assert "passphrase" in result.stderr
    assert "--http" in empty.run("serve", "--http", "nowhere", code=1).stderr
    assert "--grpc" in empty.run("serve", "--grpc", "nowhere", code=1).stderr
    assert not (empty.home / "run" / "admin.sock").exists()


def test_no_log_line_carries_a_secret() -> None:
    event = {"event": "x", "serial": "0a", "passphrase": "p", "vault_token": "t", "private_key": "k", "Secret": "s"}

    assert drop_secrets(None, "", event) == {"event": "x", "serial": "0a"}


def test_a_traceback_on_a_terminal_shows_no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr("sys.stderr", terminal)
    try:
        log_to_stderr()
        fail("hunter2")
    finally:
        structlog.reset_defaults()
    assert "in fail" in terminal.getvalue()
    assert "hunter2" not in terminal.getvalue()


def fail(passphrase: str) -> None:
    try:
        passphrase.index("x")
    except ValueError:
        structlog.get_logger().exception("failed")
