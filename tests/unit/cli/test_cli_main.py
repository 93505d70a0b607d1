"""What holds for every command: the table, `-o`, the way to a server, exit codes."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import click
import pytest
import yaml
from click.testing import CliRunner

from meshca.cli.main import COMMANDS, cli
from meshca.errors import InvalidInputError, RefusedError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fakes.shell import Shell


def commands() -> Iterator[tuple[str, click.Command]]:
    context = click.Context(cli)
    for name in COMMANDS:
        command = cli.get_command(context, name)
        assert command is not None
        yield name, command


def leaves() -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name, command in commands():
        if isinstance(command, click.Group):
            for child, inner in command.commands.items():
                yield (name, child), inner
        else:
            yield (name,), command


def test_the_table_says_what_the_commands_say() -> None:
    assert {name: command.name for name, command in commands()} == {name: name for name in COMMANDS}
    assert {name: command.short_help for name, command in commands()} == {n: e.help for n, e in COMMANDS.items()}


def test_exactly_the_commands_of_this_release_are_offered() -> None:
    found = {" ".join(path) for path, _ in leaves()}

    assert found == {
        "init", "serve", "status", "demo", "apply", "validate", "get", "delete", "can", "register", "registrations",
        "unregister", "admin add", "issue", "freeze", "unfreeze", "drop", "certs", "verify", "revoke", "resume",
        "rotate leaf", "rotate issuing", "rotate root", "rotate jwt", "ca show", "ca taint", "ca csr",
        "federate",
            "ca import", "bundle", "keys rewrap", "agent", "token", "agents", "evict", "endpoint add", "endpoint list",
        "endpoint remove",
        "envoy bootstrap", "envoy inspect", "envoy list", "envoy render", "audit tail", "audit verify", "audit export",
        "backup", "restore", "db check", "db upgrade",
    }  # fmt: skip


def test_every_command_takes_an_output_form() -> None:
    for path, command in leaves():
        options = {opt: param for param in command.params for opt in param.opts}
        kind = options["--output"].type
        assert isinstance(kind, click.Choice), path
        assert list(kind.choices) == ["table", "json", "yaml"], path
        assert "-o" in options["--output"].opts


def test_help_lists_all_commands_and_imports_none() -> None:
    script = (
        "import sys; from meshca.cli.main import cli\n"
        "try: cli(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'grpc', 'rich', 'yaml', 'cryptography', 'pydantic', 'sqlalchemy', 'json', 'meshca.client',"
        " 'meshca.cli.output', 'dataclasses'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert done.stderr.strip() == "[]"
    for name, entry in COMMANDS.items():
        assert f"{name} " in done.stdout
        assert entry.help in done.stdout


def test_python_m_meshca_is_the_same() -> None:
    done = subprocess.run([sys.executable, "-m", "meshca", "--version"], capture_output=True, text=True, check=True)

    assert done.stdout.startswith("meshca, version ")


def test_an_unknown_command_is_a_usage_error() -> None:
    assert CliRunner().invoke(cli, ["nonsense"]).exit_code == 2


def test_without_a_home_the_remedy_is_init(alone: Shell, tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["--home", str(tmp_path / "none"), "certs"])

    assert result.exit_code == 1
    assert f"`meshca --home {tmp_path / 'none'} init`" in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(("command", "code"), [(["certs"], 1), (["can", "a", "b"], 3), (["bundle"], 1)])
def test_without_a_server_the_remedy_is_serve(alone: Shell, command: list[str], code: int) -> None:
    result = alone.run(*command, "-o", "json", code=code)

    assert f"`meshca --home {alone.home} serve`" in result.stderr
    assert result.stdout == ""


def test_the_home_comes_from_the_environment(shell: Shell) -> None:
    result = CliRunner().invoke(cli, ["resume", "front"], env={"MESHCA_HOME": str(shell.home)})

    assert result.exit_code == 0, result.stderr


@pytest.mark.parametrize("command", [["init", "--trust-domain", "x"], ["serve"], ["db", "check"], ["keys", "rewrap"]])
def test_what_is_for_a_home_is_not_for_a_remote_server(shell: Shell, command: list[str]) -> None:
    result = shell.run("--server", "host:1", *command, code=1)

    assert "--server" in result.stderr
    assert "on the server's host only" in result.stderr


@pytest.mark.parametrize(("command", "code"), [(["certs"], 1), (["can", "a", "b"], 3), (["audit", "tail"], 1)])
def test_a_remote_server_needs_an_identity(shell: Shell, command: list[str], code: int) -> None:
    result = shell.run("--server", "host:1", *command, code=code)

    assert "--identity" in result.stderr
    assert "admin add" in result.stderr
    assert shell.admin.calls == []


def test_a_refusal_is_one_and_in_words_on_stderr(shell: Shell) -> None:
    shell.admin.error = RefusedError("not you", field="NODE", value="x\n")

    for form in ("table", "json", "yaml"):
        result = shell.run("resume", "x", "-o", form, code=1)
        assert result.stderr == "Error: NODE: not you (got 'x\\n')\n"
        assert result.stdout == ""


def test_control_characters_of_an_error_do_not_reach_the_terminal(shell: Shell) -> None:
    shell.admin.error = InvalidInputError("\x1b[2J\x9b\u202e")

    assert shell.run("resume", "x", code=1).stderr == "Error: \\x1b[2J\\x9b\\u202e\n"


@pytest.mark.parametrize(("command", "code"), [(["resume", "x"], 1), (["can", "a", "b"], 3)])
def test_an_error_of_our_own_is_an_error_too(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, command: list[str], code: int
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(type(shell.admin), command[0], broken)
    result = shell.run(*command, code=code)

    assert "internal error (ZeroDivisionError)" in result.stderr


def test_yaml_says_the_same_as_json(shell: Shell) -> None:
    assert yaml.safe_load(shell.run("status", "-o", "yaml").stdout) == shell.json("status")
