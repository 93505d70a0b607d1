"""Making a home: configuration, keys, ledger, CA.

Rules kept here:
- A home that holds anything is refused, and nothing is changed.
- The home appears whole: it is built beside (or, where the folder exists already, inside) and renamed into place; what
  fails on the way is taken away again.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from meshca.authority.create import Created, NewRealm, create
from meshca.authority.lifetimes import Lifetimes
from meshca.authority.ports import Signer
from meshca.authority.records import Role
from meshca.errors import ConflictError, InvalidInputError, UnavailableError
from meshca.keys.files import KeyFolder, write_new
from meshca.keys.passphrase import Passphrase
from meshca.server.config import Config, write_config
from meshca.server.home import PRIVATE_FOLDER, PUBLIC_FOLDER, Home
from meshca.server.house import SystemClock, store_url
from meshca.spiffe.id import TrustDomain
from meshca.store.engine import open_store, upgrade
from meshca.store.ledger import SqlLedger

_HIDDEN = ".meshca-init-"


class HomeExistsError(ConflictError):
    """There is something at the home already."""


@dataclass(frozen=True, slots=True)
class InitOptions:
    """What `meshca init` was told; ``database`` empty: SQLite in the home.

    ``passphrase`` is called with the folder that becomes the home, and may leave a generated one there.
    """

    trust_domain: TrustDomain
    passphrase: Callable[[Path], Passphrase]
    lifetimes: Lifetimes = field(default_factory=Lifetimes)
    name_constraint: bool = False
    database: str = field(default="", repr=False)
    root_key: str = "file"
    issuing_key: str = "file"
    upstream: str = ""


@dataclass(frozen=True, slots=True)
class Initialised:
    """What was made."""

    home: Home
    trust_domain: TrustDomain
    root_id: str
    issuing_id: str
    passphrase_file: Path | None  # the generated one, if one was generated
    warnings: tuple[str, ...]


def initialise(home: Home, options: InitOptions) -> Initialised:
    """Make a home.

    Raises:
        HomeExistsError: Something is there; nothing was changed.
        MeshcaError: It could not be made; nothing is left behind.
    """
    _require_possible(home, options)
    config = Config(lifetimes=options.lifetimes, store_url=options.database)
    with _building(home) as folder:
        building = Home(folder)
        passphrase = options.passphrase(folder)
        write_new(building.config, write_config(config).encode())
        created = _create(building, config, options, passphrase)
    generated = home.passphrase if passphrase.generated else None
    warnings = tuple(_warnings(options, generated))
    return Initialised(home, options.trust_domain, created.root.id, created.issuing.id, generated, warnings)


def _create(building: Home, config: Config, options: InitOptions, passphrase: Passphrase) -> Created:
    clock, folder, url = SystemClock(), KeyFolder(building.keys), store_url(building, config)
    building.keys.mkdir(mode=PRIVATE_FOLDER)

    def make_key(role: Role, trust_domain: TrustDomain, generation: int) -> Signer:
        return folder.create(role, trust_domain, generation, passphrase.value)

    new = NewRealm(options.trust_domain, options.lifetimes, options.name_constraint, actor=f"uid:{os.getuid()}")
    upgrade(url)
    with open_store(url, clock=clock.now) as store:
        return create(new, clock, os.urandom, make_key, SqlLedger(store))


def _require_possible(home: Home, options: InitOptions) -> None:
    for field_name, value in (("--root-key", options.root_key), ("--issuing-key", options.issuing_key)):
        if value != "file":
            raise InvalidInputError("only sealed files in this release", field=field_name, value=value)
    if options.upstream:
        raise InvalidInputError("comes in a later release", field="--upstream", value=options.upstream)
    if home.path.is_symlink() or (home.path.exists() and not home.path.is_dir()):
        raise HomeExistsError(f"{home.path} is no folder; nothing was changed", remedy="choose another --home")
    if home.path.is_dir() and any(home.path.iterdir()):
        raise HomeExistsError(
            f"{home.path} is not empty; nothing was changed",
            remedy="`meshca serve` runs what is there; for a new one choose another --home",
        )
    home.require_short_sockets()


@contextmanager
def _building(home: Home) -> Iterator[Path]:
    """Lend a new folder that becomes the home at the end, or disappears."""
    inside = home.path.is_dir()
    parent = home.path if inside else home.path.parent
    folder = parent / f"{_HIDDEN}{os.urandom(6).hex()}"
    try:
        parent.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
        folder.mkdir(mode=PRIVATE_FOLDER)
    except OSError as error:
        raise UnavailableError(f"cannot make {folder}: {error.strerror}", remedy="choose another --home") from error
    try:
        yield folder
        _put_in_place(folder, home.path, inside=inside)
    except OSError as error:
        raise UnavailableError(f"cannot make {home.path}: {error.strerror}", remedy="nothing was changed") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _put_in_place(folder: Path, home: Path, *, inside: bool) -> None:
    if not inside:
        folder.chmod(PUBLIC_FOLDER)
        folder.rename(home)
        _sync(home.parent)
        return
    # The configuration comes last: without it there is no home (Home.require_initialised).
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.suffix == ".toml"):
        entry.rename(home / entry.name)
    home.chmod(PUBLIC_FOLDER)
    _sync(home)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _warnings(options: InitOptions, generated: Path | None) -> Iterator[str]:
    if generated:
        yield (
            f"a passphrase was generated and lies beside the keys it seals, in {generated}: whoever reads the home has "
            "the CA; for more, give --passphrase-file from elsewhere"
        )
    if options.name_constraint:
        yield "CAs carry a URI name constraint: some verifiers refuse every such chain (docs: name constraints)"
