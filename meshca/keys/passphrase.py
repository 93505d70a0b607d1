"""Where the passphrase of sealed keys comes from.

Order: ``--passphrase-file``, ``MESHCA_PASSPHRASE_FILE``, ``MESHCA_PASSPHRASE``, the file ``<home>/passphrase`` that
`init` may have made, a prompt on a terminal. What is named explicitly and does not work is an error; the next in order
is not tried. A final newline of a file (or CR LF) is not part of the passphrase; every other byte of it is, and so are
newlines before the last one.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
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

    def again(self, sources: Sources) -> Callable[[], bytes]:
        """Return what reads it again, since `keys rewrap` may change the file; it outlives the file."""
        if self.source not in {str(path) for path in (sources.file, sources.home_file, _file_of(sources)) if path}:
            return lambda: self.value

        def read() -> bytes:
            try:
                return _from_file(Path(self.source)).value
            except PassphraseError:
                return self.value

        return read


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

    @property
    def next_file(self) -> Path:
        """The file that `keys rewrap` makes, until it takes the other's place."""
        return self.home / "passphrase.new"


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


def replacement(
    sources: Sources, old: Passphrase, file: Path | None, entropy: Callable[[int], bytes] = os.urandom
) -> Passphrase:
    """Return the passphrase that is to take the old one's place; a generated one is durable, beside the old one.

    Raises:
        PassphraseError: The file cannot be used, nobody can be asked, or what can be had is the old one.
    """
    if file is not None:
        new = _from_file(file)
    elif sources.prompt is not None:
        new = _asked_twice(sources.prompt)
    elif old.source != str(sources.home_file):
        raise PassphraseError("no new passphrase, and no terminal to ask", remedy="give --new-passphrase-file")
    elif sources.next_file.exists():  # of a rewrap that was interrupted
        new = replace(_from_file(sources.next_file), source=old.source, generated=True)
    else:
        new = replace(_generated(sources.next_file, entropy), source=old.source)
    if new.value == old.value:
        raise PassphraseError("this is the present passphrase", field=new.source, remedy="choose another one")
    return new


def settle(sources: Sources, old: Passphrase, new: Passphrase) -> None:
    """Let the home's own passphrase file follow a change: it holds what was generated anew, or goes.

    Raises:
        PassphraseError: The home's file cannot be changed; the keys are under the new passphrase.
    """
    try:
        if new.generated:
            sources.next_file.replace(sources.home_file)
        elif sources.home_file.exists() and _from_file(sources.home_file).value == old.value:
            sources.home_file.unlink()
    except OSError as error:
        raise PassphraseError(
            f"the keys are under the new passphrase, and the old one's file cannot be changed: {error.strerror}",
            field=str(sources.home_file),
            remedy=f"remove it; the new passphrase is in {new.source}",
        ) from error


def passphrase_of(environ: Mapping[str, str], file_variable: str, variable: str) -> bytes | None:
    """Return the passphrase that these two variables lead to, the file's first; None where neither is set.

    Raises:
        PassphraseError: What is named cannot be used.
    """
    if file := environ.get(file_variable):
        return _from_file(Path(file)).value
    return _usable(os.fsencode(environ[variable]), variable).value if variable in environ else None


def _named(sources: Sources) -> Passphrase | None:
    if sources.file is not None:
        return _from_file(sources.file)
    if file := _file_of(sources):
        return _from_file(file)
    if VARIABLE in sources.environ:
        return _usable(os.fsencode(sources.environ[VARIABLE]), VARIABLE)
    return None


def _file_of(sources: Sources) -> Path | None:
    return Path(sources.environ[FILE_VARIABLE]) if FILE_VARIABLE in sources.environ else None


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
