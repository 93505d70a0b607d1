"""The configuration of several drops: one ``[[target]]`` each.

The rules this module keeps:
- The whole file is read and checked before anything is done; an error names the file, the target and the key.
- Commands in it are run by whoever runs this, so nobody else may write to the file.
- An unknown key is an error. What is absent has the default written here, which is the narrower one.
"""

from __future__ import annotations

import grp
import json
import os
import pwd
import re
import signal
import stat
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from meshca.drop.command import split_command
from meshca.drop.folders import Access
from meshca.drop.serving import Port
from meshca.drop.signalling import Signal
from meshca.errors import InvalidInputError, MeshcaError, NotFoundError, RefusedError

_LARGEST_FILE = 1 << 20
_MODES = {"0400": 0o400, "0440": 0o440, "0600": 0o600, "0640": 0o640}
_ADDRESS = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+)):([0-9]{1,5})")
_LARGEST_ID = (1 << 32) - 2  # the one after it means 'leave it as it is'


class DropConfigError(InvalidInputError):
    """The configuration breaks a rule; nothing was done."""


def _absolute(text: str) -> str:
    if not text.startswith("/") or "\0" in text:
        raise ValueError("is an absolute path")
    return text


def _command(text: str) -> str:
    try:
        split_command(text)
    except MeshcaError as error:
        raise ValueError(error.message) from error
    return text


def _address(text: str) -> str:
    match = _ADDRESS.fullmatch(text)
    if match is None or not 0 < int(match[3]) < 65536:
        raise ValueError("is host:port, such as 127.0.0.1:8443")
    return text


AbsolutePath = Annotated[str, AfterValidator(_absolute)]
Seconds = Annotated[float, Field(ge=0, le=3600, allow_inf_nan=False)]
Mode = Literal["0400", "0440", "0600", "0640"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class ReloadPart(_Part):
    """How the program is told: a command, or a signal to the process in a pid file or with an id."""

    command: Annotated[str, AfterValidator(_command)] = ""
    signal: Literal["HUP", "USR1", "USR2", ""] = ""
    pid_file: AbsolutePath | None = None
    pid: Annotated[int, Field(ge=1)] | None = None
    program: AbsolutePath | None = None
    timeout: Annotated[float, Field(gt=0, le=3600)] = 60.0

    @model_validator(mode="after")
    def _one_way(self) -> ReloadPart:
        addressed = (self.pid_file is not None) + (self.pid is not None)
        if bool(self.command) == bool(self.signal):
            raise ValueError("needs either a command or a signal")
        if self.command and (addressed or self.program):
            raise ValueError("a command needs no pid_file, pid or program")
        if self.signal and (addressed != 1 or self.program is None):
            raise ValueError("a signal needs a pid_file or a pid, and the program that it is for")
        return self

    def as_signal(self) -> Signal | None:
        """Return which signal goes where, if one does."""
        if not self.signal or self.program is None:
            return None
        number = signal.Signals[f"SIG{self.signal}"]
        pid_file = None if self.pid_file is None else Path(self.pid_file)
        return Signal(number, Path(self.program), pid_file, self.pid or 0)


class VerifyPart(_Part):
    """Which port has to serve the new certificate."""

    address: Annotated[str, AfterValidator(_address)]
    protocol: Literal["tls", "postgres"] = "tls"
    server_name: str = ""
    timeout: Annotated[float, Field(gt=0, le=600)] = 10.0

    def as_port(self) -> Port:
        """Return the port."""
        match = _ADDRESS.fullmatch(self.address)
        if match is None:
            raise ValueError(self.address)
        return Port(match[1] or match[2], int(match[3]), self.protocol, self.server_name, self.timeout)


class Target(_Part):
    """One folder, for one program."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{0,64}$")] = ""
    node: Annotated[str, Field(min_length=1)]
    dir: AbsolutePath
    layout: Literal["pem", "haproxy", "grpc"] = "pem"
    dns: tuple[str, ...] = ()
    subject: bool = False
    owner: str = ""
    group: str = ""
    mode: Mode | None = None
    key_mode: Mode | None = None
    debounce: Seconds = 0.2
    reload: ReloadPart | None = None
    verify: VerifyPart | None = None

    @property
    def label(self) -> str:
        """How reports call it."""
        return self.name or Path(self.dir).name

    @property
    def folder(self) -> Path:
        """The folder."""
        return Path(self.dir)

    @model_validator(mode="after")
    def _modes(self) -> Target:
        for mode in (self.mode, self.key_mode):
            if mode is not None and _MODES[mode] & 0o070 and not (self.owner or self.group):
                raise ValueError("a mode that lets a group read needs an owner or a group")
        return self

    def access(self) -> Access:
        """Return whom the files are for, with the ids of this machine.

        Raises:
            DropConfigError: there is no such user or group here.
        """
        if not self.owner and not self.group:
            return Access(mode=_MODES[self.mode or "0600"], key_mode=_MODES[self.key_mode or "0600"])
        uid, gid = (-1, -1) if not self.owner else _user(self.owner)
        if self.group:
            gid = _group(self.group)
        # A key that belongs to its reader needs no group; PostgreSQL refuses one that has it.
        key_mode = self.key_mode or ("0600" if self.owner else "0640")
        return Access(uid, gid, _MODES[self.mode or "0640"], _MODES[key_mode])


class _File(_Part):
    target: Annotated[tuple[Target, ...], Field(min_length=1)]


def read_targets(path: Path) -> tuple[Target, ...]:
    """Read a configuration file.

    Raises:
        NotFoundError: there is none.
        RefusedError: others may write to it.
        DropConfigError: it breaks a rule.
    """
    try:
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
            _require_ours(os.fstat(file.fileno()), path)
            raw = file.read(_LARGEST_FILE + 1)
    except IsADirectoryError as error:
        raise DropConfigError(f"{path}: not a file") from error
    except OSError as error:
        raise NotFoundError(f"{path}: {error.strerror}", field="--config") from error
    if len(raw) > _LARGEST_FILE:
        raise DropConfigError(f"{path}: larger than {_LARGEST_FILE} bytes")
    try:
        return parse_targets(raw.decode(), str(path))
    except UnicodeDecodeError as error:
        raise DropConfigError(f"{path}: not UTF-8", remedy="save it as UTF-8") from error


def parse_targets(text: str, name: str) -> tuple[Target, ...]:
    """Parse the text of a configuration file; ``name`` is how errors call it.

    Raises:
        DropConfigError: it breaks a rule.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise DropConfigError(f"{name}: not TOML: {error}") from error
    try:
        # By way of JSON, since no Python type but a tuple is strictly a tuple.
        targets = _File.model_validate_json(json.dumps(document, default=str), strict=True).target
    except ValidationError as error:
        raise _in_words(error, document, name) from error
    _require_distinct(targets, name)
    return targets


def _require_ours(found: os.stat_result, path: Path) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise DropConfigError(f"{path}: not a file")
    if found.st_uid not in {0, os.geteuid()} or found.st_mode & 0o022:
        raise RefusedError(
            "others may write to it, and it says what to run",
            field="--config",
            value=str(path),
            remedy=f"let root or the user who runs this own it, and chmod go-w {path}",
        )


def _require_distinct(targets: tuple[Target, ...], name: str) -> None:
    for what, values in (("dir", [each.dir.rstrip("/") for each in targets]), ("name", [t.label for t in targets])):
        twice = next((value for value in values if values.count(value) > 1), None)
        if twice is not None:
            raise DropConfigError(f"{name}: two targets have this {what}", field=what, value=twice, remedy="name each")


def _in_words(error: ValidationError, document: dict[str, Any], name: str) -> DropConfigError:
    """Say the first thing that is wrong: which target, which key."""
    first = error.errors(include_url=False, include_input=False)[0]
    where = [str(part) for part in first["loc"] if part != "target"]
    message = first["msg"].removeprefix("Value error, ")
    if where and where[0].isdigit():
        number = int(where[0])
        found = document["target"][number]
        label = found.get("name") or found.get("dir") if isinstance(found, dict) else None
        where[0] = f"target {number + 1}" + (f" ({label})" if label else "")
    return DropConfigError(f"{name}: {' '.join(where) or 'target'}: {message}", remedy="docs/files.md has the keys")


def _user(name: str) -> tuple[int, int]:
    try:
        found = pwd.getpwuid(_id(name, "owner")) if name.isdecimal() else pwd.getpwnam(name)
    except KeyError as error:
        if name.isdecimal():
            return int(name), int(name)  # a container's user need not exist here
        raise DropConfigError("no such user", field="owner", value=name) from error
    return found.pw_uid, found.pw_gid


def _group(name: str) -> int:
    if name.isdecimal():
        return _id(name, "group")
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError as error:
        raise DropConfigError("no such group", field="group", value=name) from error


def _id(text: str, field: str) -> int:
    if len(text) > len(str(_LARGEST_ID)) or int(text) > _LARGEST_ID:
        raise DropConfigError("no id", field=field, value=text)
    return int(text)
