"""Where the passphrase of sealed keys comes from.

Order: ``--passphrase-file``, ``MESHCA_PASSPHRASE_FILE``, ``MESHCA_PASSPHRASE``, the file ``<home>/passphrase`` that
`init` may have made, a prompt on a terminal. What is named explicitly and does not work is an error; the next in order
is not tried. A final newline of a file is not part of the passphrase.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from meshca.errors import InvalidInputError
from meshca.keys.files import write_new

FILE_VARIABLE = "MESHCA_PASSPHRASE_FILE"
VARIABLE = "MESHCA_PASSPHRASE"
_MAX_BYTES = 4096
_GENERATED_BYTES = 32


class PassphraseError(InvalidInputError):
    """There is no usable passphrase."""


@dataclass(frozen=True, slots=True)
class Passphrase:
    """A passphrase, and where it came from; ``generated`` if `choose` made it up just now."""

    value: bytes = field(repr=False)
    source: str
    generated: bool = False


@dataclass(frozen=True, slots=True)
class Sources:
    """Where to look. ``prompt`` asks on the terminal and returns the answer; None: there is no terminal."""

    home: Path
    file: Path | None = None
    environ: Mapping[str, str] = field(default_factory=dict, repr=False)
    prompt: Callable[[str], str] | None = None

    @property
    def home_file(self) -> Path:
        """The file that `init` makes where nothing else is given."""
        return self.home / "passphrase"


def find(sources: Sources) -> Passphrase:
    """Return the passphrase of keys that exist.

    Raises:
        PassphraseError: none is found, or the one that is named cannot be used.
    """
    if named := _named(sources):
        return named
    if sources.home_file.exists():
        return _from_file(sources.home_file)
    if sources.prompt is not None:
        return _usable(sources.prompt("Passphrase: ").encode(), "the terminal")
    raise PassphraseError(
        f"no passphrase: neither --passphrase-file, {FILE_VARIABLE}, {VARIABLE} nor {sources.home_file} is there",
        remedy=f"give --passphrase-file or set {FILE_VARIABLE}",
    )


def choose(sources: Sources, entropy: Callable[[int], bytes] = os.urandom) -> Passphrase:
    """Return the passphrase for new keys; where none is given and nobody can be asked, make one and store it.

    Raises:
        PassphraseError: the one that is named cannot be used, or none can be stored.
    """
    if named := _named(sources):
        return named
    if sources.home_file.exists():
        return _from_file(sources.home_file)
    if sources.prompt is not None:
        return _asked_twice(sources.prompt)
    return _generated(sources.home_file, entropy)


def _named(sources: Sources) -> Passphrase | None:
    if sources.file is not None:
        return _from_file(sources.file)
    if FILE_VARIABLE in sources.environ:
        return _from_file(Path(sources.environ[FILE_VARIABLE]))
    if VARIABLE in sources.environ:
        return _usable(os.fsencode(sources.environ[VARIABLE]), VARIABLE)
    return None


def _from_file(path: Path) -> Passphrase:
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise PassphraseError(
            f"the passphrase file cannot be read: {error.strerror}",
            field=str(path),
            remedy="check the path, its owner and its mode",
        ) from error
    return _usable(content.removesuffix(b"\n").removesuffix(b"\r"), str(path))


def _usable(value: bytes, source: str) -> Passphrase:
    if not value:
        raise PassphraseError("the passphrase is empty", field=source)
    if len(value) > _MAX_BYTES:
        raise PassphraseError(f"the passphrase is longer than {_MAX_BYTES} bytes", field=source)
    return Passphrase(value, source)


def _asked_twice(prompt: Callable[[str], str]) -> Passphrase:
    first = prompt("New passphrase: ")
    if prompt("The same again: ") != first:
        raise PassphraseError("the two passphrases differ", field="the terminal", remedy="try again")
    return _usable(first.encode(), "the terminal")


def _generated(path: Path, entropy: Callable[[int], bytes]) -> Passphrase:
    value = base64.urlsafe_b64encode(entropy(_GENERATED_BYTES)).rstrip(b"=")
    try:
        write_new(path, value + b"\n")
    except OSError as error:
        raise PassphraseError(f"the passphrase cannot be stored: {error.strerror}", field=str(path)) from error
    return Passphrase(value, str(path), generated=True)
