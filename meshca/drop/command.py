"""The command that makes a consumer read the new files.

The rules this module keeps:
- It is split like argv and never given to a shell.
- It ends in time or is killed, with all that it started.
- Its environment carries no secret of ours; what it prints goes to stderr, so that stdout stays ours.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
from collections.abc import Mapping, Sequence

from meshca.errors import InvalidInputError, MeshcaError

_SECRET_NAME = re.compile(r"^(MESHCA|BAO|VAULT)_|PASS(WORD|PHRASE|WD)|TOKEN|SECRET|CREDENTIAL|PRIVATE", re.IGNORECASE)
_STDERR = 2


class CommandError(MeshcaError):
    """The command failed; the files are in place, and it will be run again."""


def split_command(text: str) -> tuple[str, ...]:
    """Split a command line into argv.

    Raises:
        InvalidInputError: a quotation is not closed, or there is no word in it.
    """
    try:
        argv = tuple(shlex.split(text))
    except ValueError as error:
        raise InvalidInputError(str(error).lower(), field="--on-change", value=text) from error
    if not argv or not argv[0]:
        raise InvalidInputError("names no command", field="--on-change", value=text)
    if "\0" in text:
        raise InvalidInputError("holds a NUL byte", field="--on-change", value=text)
    return argv


def harmless(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment without the variables that hold, or lead to, a secret."""
    return {name: value for name, value in environment.items() if not _SECRET_NAME.search(name)}


def run_command(argv: Sequence[str], environment: Mapping[str, str], timeout: float) -> None:
    """Run the command to its end.

    Raises:
        CommandError: it could not be started, ended with another code than 0, or took longer than ``timeout`` seconds.
    """
    try:
        process = subprocess.Popen(  # noqa: S603 - argv is the operator's own, and no shell sees it
            list(argv),
            env=harmless(environment),
            stdin=subprocess.DEVNULL,
            stdout=_STDERR,
            stderr=_STDERR,
            start_new_session=True,
        )
    except OSError as error:
        raise CommandError(f"cannot run {argv[0]}: {error.strerror}") from error
    try:
        code = process.wait(timeout)
    except BaseException as error:
        _kill(process)
        if isinstance(error, subprocess.TimeoutExpired):
            raise CommandError(f"{argv[0]} was still running after {timeout:g} s and has been killed") from error
        raise
    if code != 0:
        raise CommandError(f"{argv[0]} ended with {_ending(code)}")


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _ending(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"
