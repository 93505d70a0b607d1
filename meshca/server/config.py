"""``meshca.toml``: what it may say, and where exactly it is wrong.

Rules: an unknown section or key is an error, as is a value of another type or unit; every error names the file, the
line and a remedy; a key that is absent has the default written here.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from meshca.authority.lifetimes import Lifetimes, format_duration, parse_duration
from meshca.authority.profiles import LIMITS, Configured, Limits
from meshca.errors import InvalidInputError, MeshcaError, NotFoundError
from meshca.keys.place import KEY_TYPES, parse_place, require_key_type
from meshca.keys.upstream_place import OfflineRoot, PkiMount, parse_upstream
from meshca.server.attestors import NOBODY, SECTION, Attestors, read_attestors
from meshca.server.attestors import written as written_attestors
from meshca.server.limits import read_limits, written

_KEYS: Mapping[str, tuple[str, ...]] = {
    "lifetimes": ("root", "issuing", "leaf"),
    "listen": ("grpc", "http"),
    "federation": ("listen", "certificate", "key"),
    "store": ("url", "retention"),
    "keys": ("root", "issuing", "type"),
    "authority": ("upstream", "ack_deadline", "jwt_issuer"),
    "replica": ("name",),
}
_PROFILES = "profiles"
_LARGEST_FILE = 1 << 20
_ISSUER = re.compile(r"https://[A-Za-z0-9.-]{1,253}(:[0-9]{1,5})?(/[A-Za-z0-9._~-]+){0,8}")

_REPLICA = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")

T = TypeVar("T")


class ConfigError(InvalidInputError):
    """The configuration breaks a rule; the message names file and line."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a TCP server listens; port 0 takes any."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


DEFAULT_GRPC = Address("127.0.0.1", 8443)
DEFAULT_HTTP = Address("127.0.0.1", 8080)
DEFAULT_ROOT_KEY, DEFAULT_ISSUING_KEY = "file", "store"
DEFAULT_RETENTION = timedelta(days=90)
FIRST_REPLICA = "server"
# Less would let a clock that jumps archive what is still good.
SHORTEST_RETENTION = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Config:
    """A whole, checked configuration."""

    lifetimes: Lifetimes = field(default_factory=Lifetimes)
    grpc: Address = DEFAULT_GRPC
    http: Address = DEFAULT_HTTP
    federation: Address | None = None  # of the bundle endpoint; None: there is none
    federation_files: tuple[Path, Path] | None = None  # certificate and key of web PKI; None: https_spiffe
    store_url: str = field(default="", repr=False)  # may hold a password; empty: SQLite in the home
    retention: timedelta = DEFAULT_RETENTION  # how long an expired certificate stays in the ledger
    root_key: str = DEFAULT_ROOT_KEY
    issuing_key: str = DEFAULT_ISSUING_KEY
    key_type: str = ""
    upstream: str = ""
    ack_deadline: timedelta | None = None
    jwt_issuer: str = ""  # by which readers of OpenID Connect know us; empty: none do
    profiles: Configured = field(default_factory=dict)
    attestors: Attestors = NOBODY
    replica: str = FIRST_REPLICA  # no two on one database have the same

    @property
    def seals_keys(self) -> bool:
        """Whether new keys are sealed under the passphrase."""
        foreign = isinstance(parse_upstream(self.upstream), (PkiMount, OfflineRoot))
        places = {self.issuing_key} if foreign else {self.root_key, self.issuing_key}
        return not places.isdisjoint({"file", "store"})


def parse_address(text: str, *, what: str = "address") -> Address:
    """Read ``host:port``; an IPv6 host stands in brackets.

    Raises:
        ConfigError: It is not that, or the port is above 65535.
    """
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+)):([0-9]{1,5})", text)
    if match is None or int(match[3]) > 65535:
        raise ConfigError("not an address", field=what, value=text, remedy="write host:port, such as 127.0.0.1:8080")
    return Address(match[1] or match[2], int(match[3]))


def require_replica(name: str, *, what: str) -> str:
    """Return the name of a replica: a segment of its SPIFFE ID, and that of its audit chain.

    Raises:
        ConfigError: It is none.
    """
    if not _REPLICA.fullmatch(name):
        raise ConfigError("no name of a replica", field=what, value=name, remedy="up to 40 of a-z, 0-9 and -")
    return name


def read_config(path: Path) -> Config:
    """Read a configuration file.

    Raises:
        NotFoundError: There is none.
        ConfigError: It breaks a rule.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise NotFoundError(f"{path}: {error.strerror}", remedy="run `meshca init`, or give --home") from error
    if len(raw) > _LARGEST_FILE:
        raise ConfigError(f"{path}: larger than {_LARGEST_FILE} bytes")
    try:
        return parse_config(raw.decode(), str(path))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8", remedy="save it as UTF-8") from error


def parse_config(text: str, name: str) -> Config:
    """Parse the text of a configuration file; ``name`` is how errors call it."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        at = re.search(r"\(at line ([0-9]+)", str(error))
        line = at[1] if at else str(len(text.splitlines()))  # else "at end of document"
        raise ConfigError(f"{name}:{line}: not TOML: {error}") from error
    attest = document.pop(SECTION, {})
    reader = _Reader(document, text, name)
    reader.require_known()
    key_type = reader.key_type()
    return Config(
        lifetimes=reader.lifetimes(),
        grpc=reader.address("listen", "grpc", DEFAULT_GRPC),
        http=reader.address("listen", "http", DEFAULT_HTTP),
        federation=reader.federation(),
        federation_files=reader.federation_files(),
        store_url=reader.text("store", "url"),
        retention=reader.retention(),
        root_key=reader.key_place("root", DEFAULT_ROOT_KEY),
        issuing_key=reader.key_place("issuing", DEFAULT_ISSUING_KEY),
        key_type=key_type,
        upstream=reader.upstream(),
        ack_deadline=reader.duration("authority", "ack_deadline"),
        jwt_issuer=reader.jwt_issuer(),
        attestors=reader.attestors(attest),
        replica=reader.replica(),
        profiles=reader.profiles(dict.fromkeys(("root", "issuing"), key_type or KEY_TYPES[0])),
    )


def write_config(config: Config) -> str:
    """Return the text of a file that ``parse_config`` reads back as the same configuration."""
    lives = config.lifetimes.as_text()
    lines = ["[lifetimes]", *(f"{name} = {_quoted(life)}" for name, life in lives.items())]
    lines += ["", "[listen]", f"grpc = {_quoted(str(config.grpc))}", f"http = {_quoted(str(config.http))}"]
    lines += _federation_lines(config)
    store = [f"url = {_quoted(config.store_url)}"] if config.store_url else []
    if config.retention != DEFAULT_RETENTION:
        store.append(f"retention = {_quoted(format_duration(config.retention))}")
    lines += ["", "[store]", *store] if store else []
    if (config.root_key, config.issuing_key, config.key_type) != (DEFAULT_ROOT_KEY, DEFAULT_ISSUING_KEY, ""):
        lines += ["", "[keys]", f"root = {_quoted(config.root_key)}", f"issuing = {_quoted(config.issuing_key)}"]
    lines += [f"type = {_quoted(config.key_type)}"] if config.key_type else []
    authority = [f"upstream = {_quoted(config.upstream)}"] if config.upstream else []
    if config.ack_deadline:
        authority.append(f"ack_deadline = {_quoted(format_duration(config.ack_deadline))}")
    authority += [f"jwt_issuer = {_quoted(config.jwt_issuer)}"] if config.jwt_issuer else []
    lines += ["", "[authority]", *authority] if authority else []
    lines += ["", "[replica]", f"name = {_quoted(config.replica)}"] if config.replica != FIRST_REPLICA else []
    lines += written_attestors(config.attestors)
    for name, limits in config.profiles.items():
        lines += ["", f"[{_PROFILES}.{name}]", *written(limits)]
    return "\n".join(lines) + "\n"


def _federation_lines(config: Config) -> list[str]:
    lines = [f"listen = {_quoted(str(config.federation))}"] if config.federation else []
    if config.federation_files:
        names = zip(("certificate", "key"), config.federation_files, strict=True)
        lines += [f"{name} = {_quoted(str(path))}" for name, path in names]
    return ["", "[federation]", *lines] if lines else []


class _Reader:
    """Values out of a parsed document, each error with the line where its key stands."""

    def __init__(self, document: Mapping[str, Any], text: str, name: str) -> None:
        self._document = document
        self._lines = text.splitlines()
        self._name = name

    def require_known(self) -> None:
        for section, content in self._sections():
            known = LIMITS if section.startswith(f"{_PROFILES}.") else _KEYS.get(section)
            if known is None:
                every = ", ".join([*_KEYS, f"{_PROFILES}.NAME", f"{SECTION}.kubernetes.CLUSTER", f"{SECTION}.aws"])
                raise self._error(section, "", "unknown section", remedy=f"known are {every}")
            if not isinstance(content, dict):
                raise self._error("", section, "is a section", remedy=f"write it as [{section}]")
            for key in content.keys() - set(known):
                raise self._error(section, key, "unknown key", remedy=f"[{section}] knows {', '.join(known)}")

    def _sections(self) -> Iterator[tuple[str, Any]]:
        for section, content in self._document.items():
            if section == _PROFILES and not isinstance(content, dict):
                yield f"{_PROFILES}.NAME", content
            elif section == _PROFILES:
                yield from ((f"{_PROFILES}.{name}", inner) for name, inner in content.items())
            else:
                yield section, content

    def profiles(self, key_types: Mapping[str, str]) -> Configured:
        """Return the limits of each profile that is named; a role's configured key type has to be among its own."""
        return {name: self._limits(name, key_types.get(name)) for name in self._document.get(_PROFILES, {})}

    def _limits(self, name: str, key_type: str | None) -> Limits:
        section = f"{_PROFILES}.{name}"
        try:
            limits = read_limits(name, self._document[_PROFILES][name])
        except MeshcaError as error:
            text = str(error).removeprefix(f"{error.field}: ")
            raise self._error(section, error.field if error.field in LIMITS else "", text) from error
        if key_type and limits.key_types is not None and key_type not in limits.key_types:
            remedy = f"[keys] type is {key_type}, which new CAs are made with: let the two agree"
            raise self._error(section, "key_types", "the key type of new CAs is not among them", remedy=remedy)
        return limits

    def attestors(self, document: object) -> Attestors:
        """Return who may be an agent, beside the holders of join tokens."""
        try:
            return read_attestors(document)
        except MeshcaError as error:
            section, _, key = error.field.rpartition(".")
            text = str(error).removeprefix(f"{error.field}: ")
            raise self._error(section or SECTION, key if section else "", text) from error

    def _value(self, section: str, key: str) -> Any:
        return self._document.get(section, {}).get(key)

    def text(self, section: str, key: str) -> str:
        value = self._value(section, key)
        if value is None:
            return ""
        if not isinstance(value, str):
            raise self._error(section, key, f"is text, not {type(value).__name__}", remedy='put it in "quotes"')
        return value

    def replica(self) -> str:
        return self._read("replica", "name", lambda text: require_replica(text, what="name")) or FIRST_REPLICA

    def address(self, section: str, key: str, default: Address) -> Address:
        return self._read(section, key, lambda text: parse_address(text, what=key)) or default

    def federation(self) -> Address | None:
        return self._read("federation", "listen", lambda text: parse_address(text, what="listen"))

    def federation_files(self) -> tuple[Path, Path] | None:
        certificate, key = self.text("federation", "certificate"), self.text("federation", "key")
        if bool(certificate) != bool(key):
            raise self._error("federation", "certificate", "certificate and key stand together")
        return (Path(certificate), Path(key)) if certificate else None

    def duration(self, section: str, key: str) -> timedelta | None:
        return self._read(section, key, lambda text: parse_duration(text, field=key))

    def retention(self) -> timedelta:
        found = self.duration("store", "retention") or DEFAULT_RETENTION
        if found < SHORTEST_RETENTION:
            raise self._error("store", "retention", "shorter than a day", remedy="write at least 1d; 90d is usual")
        return found

    def key_place(self, role: str, default: str) -> str:
        self._read("keys", role, lambda text: parse_place(text, role))
        return self.text("keys", role) or default

    def upstream(self) -> str:
        self._read("authority", "upstream", lambda text: parse_upstream(text, "upstream"))
        return self.text("authority", "upstream")

    def jwt_issuer(self) -> str:
        return self._read("authority", "jwt_issuer", _require_issuer) or ""

    def key_type(self) -> str:
        return self._read("keys", "type", lambda text: require_key_type(text, "type")) or ""

    def lifetimes(self) -> Lifetimes:
        for key in _KEYS["lifetimes"]:
            self.duration("lifetimes", key)
        lives = {key: text for key in _KEYS["lifetimes"] if (text := self.text("lifetimes", key))}
        try:
            return Lifetimes.from_text(lives)
        except MeshcaError as error:
            raise self._error("lifetimes", "", str(error)) from error

    def _read(self, section: str, key: str, parse: Callable[[str], T]) -> T | None:
        text = self.text(section, key)
        if not text:
            return None
        try:
            return parse(text)
        except MeshcaError as error:
            raise self._error(section, key, str(error).removeprefix(f"{key}: ")) from error

    def _error(self, section: str, key: str, message: str, *, remedy: str = "") -> ConfigError:
        where = f"[{section}] {key}".strip() if section else key
        return ConfigError(f"{self._name}:{self._line(section, key)}: {where}: {message}", remedy=remedy)

    def _line(self, section: str, key: str) -> int:
        """Return the line of a key, of its section, or 1 (tomllib keeps no positions)."""
        at, found = "", 1
        for number, line in enumerate(self._lines, start=1):
            if header := re.match(r"\s*\[+\s*\"?([^\]\"]+?)\"?\s*\]", line):
                at = header[1]
                found = number if at == section else found
            elif at in {section, ""} and _is_key(line, section, key):
                return number
        return found


def _require_issuer(text: str) -> str:
    """Return the URL of an issuer (OpenID Connect Discovery §3: https, without query and fragment)."""
    if not _ISSUER.fullmatch(text):
        raise ConfigError(
            "not the URL of an issuer (OpenID Connect Discovery §3)",
            field="jwt_issuer",
            value=text,
            remedy="write it like https://oidc.example.com, without a final slash",
        )
    return text


def _is_key(line: str, section: str, key: str) -> bool:
    section, key = re.escape(section), re.escape(key)
    return bool(key and re.match(rf"\s*(?:\"?{section}\"?\s*\.\s*)?\"?{key}\"?\s*[=.]", line))


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    if any(ord(character) < 32 or ord(character) == 127 for character in escaped):
        raise ConfigError("a configuration value holds no control characters", value=text)
    return f'"{escaped}"'
