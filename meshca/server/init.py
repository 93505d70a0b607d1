"""Making a home: configuration, keys, ledger, CA.

Rules kept here:
- A home that holds anything is refused, and nothing is changed.
- The home appears whole: it is built beside (or, where the folder exists already, inside) and renamed into place; what
  fails on the way is taken away again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from meshca.authority.create import Created, NewRealm, create, create_below, create_waiting
from meshca.authority.lifetimes import Lifetimes
from meshca.errors import InvalidInputError, MeshcaError
from meshca.keys.files import KeyFolder, write_new
from meshca.keys.passphrase import Passphrase
from meshca.keys.place import FilePlace, StorePlace, parse_place, require_key_type
from meshca.keys.root_files import BroughtRoot, read_root
from meshca.keys.stores import KeyStores
from meshca.keys.upstream_place import OfflineRoot, PkiMount, RootFiles, UpstreamPlace, parse_upstream
from meshca.server.building import new_home, require_free
from meshca.server.config import DEFAULT_ISSUING_KEY, DEFAULT_ROOT_KEY, Config, write_config
from meshca.server.home import PRIVATE_FOLDER, Home
from meshca.server.house import SystemClock, placement_of, store_url, upstream_of
from meshca.server.warnings import OFFLINE_NEXT
from meshca.spiffe.id import TrustDomain
from meshca.store.engine import open_store, upgrade
from meshca.store.ledger import SqlLedger
from meshca.store.sealed import SealedKeys


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
    root_key: str = DEFAULT_ROOT_KEY
    issuing_key: str = DEFAULT_ISSUING_KEY
    key_type: str = ""  # empty: P-256, or whatever the keys are that exist
    upstream: str = ""


@dataclass(frozen=True, slots=True)
class Initialised:
    """What was made."""

    home: Home
    trust_domain: TrustDomain
    root_id: str  # "" where an offline root is to come
    issuing_id: str  # "" likewise
    passphrase_file: Path | None  # the generated one, if one was generated
    warnings: tuple[str, ...]


def initialise(home: Home, options: InitOptions) -> Initialised:
    """Make a home.

    Raises:
        HomeExistsError: Something is there; nothing was changed.
        MeshcaError: It could not be made; nothing is left behind.
    """
    place = _require_possible(home, options)
    root = read_root(place.folder, os.environ) if isinstance(place, RootFiles) else None
    config = Config(
        lifetimes=options.lifetimes,
        store_url=options.database,
        root_key=options.root_key,
        issuing_key=options.issuing_key,
        key_type=options.key_type,
        upstream=f"files:{place.folder.absolute()}" if isinstance(place, RootFiles) else options.upstream,
    )
    with new_home(home) as folder:
        building = Home(folder)
        passphrase = options.passphrase(folder) if config.seals_keys else None
        write_new(building.config, write_config(config).encode())
        created = _create(building, config, options, _Brought(passphrase, root))
    generated = home.passphrase if passphrase is not None and passphrase.generated else None
    return Initialised(
        home=home,
        trust_domain=options.trust_domain,
        root_id=created.root.id if created else "",
        issuing_id=created.issuing.id if created else "",
        passphrase_file=generated,
        warnings=tuple(_warnings(options, generated, root)),
    )


@dataclass(frozen=True, slots=True)
class _Brought:
    """What is secret of all that comes from outside."""

    passphrase: Passphrase | None = field(repr=False)
    root: BroughtRoot | None = field(repr=False)


def _create(building: Home, config: Config, options: InitOptions, brought: _Brought) -> Created | None:
    """Make the realm; None where it waits for an offline root."""
    clock, url, passphrase, root = SystemClock(), store_url(building, config), brought.passphrase, brought.root
    building.keys.mkdir(mode=PRIVATE_FOLDER)
    new = NewRealm(
        trust_domain=options.trust_domain,
        lifetimes=options.lifetimes,
        name_constraint=options.name_constraint,
        actor=f"uid:{os.getuid()}",
        root_certificate=root.certificate if root else b"",
    )
    upgrade(url)
    with open_store(url, clock=clock.now) as store:
        keys = KeyStores(
            trust_domain=options.trust_domain,
            folder=KeyFolder(building.keys),
            passphrase=lambda: passphrase.value if passphrase else b"",
            environ=os.environ,
            placement=placement_of(config),
            rows=SealedKeys(store, clock.now),
            brought=root.key if root else None,
        )
        with closing(keys):
            try:
                return _realm(new, config, keys, SqlLedger(store))
            except MeshcaError:
                keys.take_back()
                raise


def _realm(new: NewRealm, config: Config, keys: KeyStores, ledger: SqlLedger) -> Created | None:
    clock = SystemClock()
    match parse_upstream(config.upstream):
        case OfflineRoot():
            create_waiting(new, clock, keys, ledger)
            return None
        case PkiMount():
            return create_below(new, upstream_of(config, keys), clock, keys, ledger)
    return create(new, clock, os.urandom, keys, ledger)


def _require_possible(home: Home, options: InitOptions) -> UpstreamPlace:
    root, issuing = parse_place(options.root_key, "--root-key"), parse_place(options.issuing_key, "--issuing-key")
    if root == issuing and not isinstance(root, (FilePlace, StorePlace)):
        raise InvalidInputError("root and issuing CA need a key each", field="--issuing-key", value=str(issuing))
    if options.key_type:
        require_key_type(options.key_type)
    upstream = parse_upstream(options.upstream, "--upstream")
    if options.name_constraint and isinstance(upstream, (PkiMount, OfflineRoot)):
        remedy = "leave it out; whoever signs there decides about constraints"
        raise InvalidInputError("not with a root that isn't ours", field="--name-constraint", remedy=remedy)
    require_free(home)
    return upstream


def _warnings(options: InitOptions, generated: Path | None, root: BroughtRoot | None) -> Iterator[str]:
    if root is not None:
        yield from root.warnings
    if parse_upstream(options.upstream) == OfflineRoot():
        yield OFFLINE_NEXT
    if generated:
        yield (
            f"a passphrase was generated and lies beside the keys it seals, in {generated}: whoever reads the home has "
            "the CA; for more, give --passphrase-file from elsewhere"
        )
    if options.name_constraint:
        yield "CAs carry a URI name constraint: some verifiers refuse every such chain (docs: name constraints)"
