"""The command of a drop: argv without a shell, an end in time, no secret in its environment."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

import pytest

from meshca.drop.command import CommandError, harmless, run_command, split_command
from meshca.errors import InvalidInputError

if TYPE_CHECKING:
    from pathlib import Path

PYTHON = sys.executable


def test_it_is_split_like_argv_and_no_shell_sees_it(tmp_path: Path) -> None:
    out = tmp_path / "a file"
    script = f"import sys; open({str(out)!r}, 'w').write(repr(sys.argv[1:]))"

    run_command([*split_command(f"{PYTHON} -c"), script, *split_command("'$HOME;' `id` '|' \"a b\"")], os.environ, 10)

    assert out.read_text() == "['$HOME;', '`id`', '|', 'a b']"


@pytest.mark.parametrize(("text", "words"), [("", "names no command"), ("  ", "names no command"), ("'a", "no closing"),
                                             ("''", "names no command"), ("a\0b", "NUL")])  # fmt: skip
def test_what_is_no_command_line_is_refused(text: str, words: str) -> None:
    with pytest.raises(InvalidInputError, match=words):
        split_command(text)


@pytest.mark.parametrize(
    "name",
    ["MESHCA_PASSPHRASE", "MESHCA_PASSPHRASE_FILE", "MESHCA_TOKEN", "BAO_TOKEN", "VAULT_TOKEN", "AWS_SECRET_ACCESS_KEY",
     "PGPASSWORD", "GITHUB_TOKEN", "Db_Password"],
)  # fmt: skip
def test_its_environment_carries_no_secret(name: str) -> None:
    assert harmless({name: "secret", "PATH": "/bin", "HOME": "/root"}) == {"PATH": "/bin", "HOME": "/root"}


def test_a_failure_is_told_with_its_code() -> None:
    with pytest.raises(CommandError, match="exit code 3"):
        run_command([PYTHON, "-c", "raise SystemExit(3)"], os.environ, 10)


def test_a_command_that_does_not_exist_is_told() -> None:
    with pytest.raises(CommandError, match="cannot run /no/such/command: No such file"):
        run_command(["/no/such/command"], os.environ, 10)


def test_a_command_that_does_not_end_is_killed_with_its_children(tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    script = f"import os,time; p=os.fork(); p and open({str(mark)!r},'w').write(str(p)); time.sleep(600)"

    with pytest.raises(CommandError, match="still running after 1 s"):
        run_command([PYTHON, "-c", script], os.environ, 1)

    child = int(mark.read_text())
    end = time.monotonic() + 10
    while _runs(child):
        assert time.monotonic() < end


def _runs(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
