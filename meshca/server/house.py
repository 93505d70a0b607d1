"""Everything a server works with, opened in order and closed in reverse.

Rules: opening changes no schema; keys are opened before anything listens, so that a wrong passphrase is an error at
start and not at the first certificate (a key store elsewhere that does not answer is a warning: it may come back; so is
a root's key that lies in another replica's home); what was opened is closed again when a later step fails.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime

from meshca.authority.authority import Authority, Settings
from meshca.authority.ports import Ports
from meshca.authority.profiles import profiles_in_force
from meshca.authority.records import ISSUING, Realm
from meshca.authority.upstreams import NoUpstream, Upstream
from meshca.errors import NotFoundError
from meshca.keys.files import KeyFolder
from meshca.keys.openbao_pki import PkiUpstream
from meshca.keys.place import parse_place, require_key_type
from meshca.keys.stores import KeyStores, Placement
from meshca.keys.upstream_place import PkiMount, parse_upstream
from meshca.server.clockwatch import ClockWatch, Reading
from meshca.server.config import Config
from meshca.server.home import Home
from meshca.store.acknowledgements import Acknowledgements
from meshca.store.audit import AuditLog, CheckpointPolicy
from meshca.store.endpoints import Endpoints
from meshca.store.engine import Store, open_store
from meshca.store.epochs import Epochs
from meshca.store.federation import Federations
from meshca.store.jwt import JwtHolders
from meshca.store.ledger import SqlLedger
from meshca.store.meshes import Meshes
from meshca.store.registrations import Registrations
from meshca.store.restoring import Restoration, restoration_of
from meshca.store.sealed import SealedKeys

# The passphrase of sealed keys, or where to read it each time: `keys rewrap` may change it under a running server.
Secret = bytes | Callable[[], bytes]


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        """Return the time, aware, in UTC."""
        return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class House:
    """The opened parts of one server."""

    home: Home
    config: Config
    clock: SystemClock
    store: Store = field(repr=False)
    ledger: SqlLedger = field(repr=False)
    authority: Authority = field(repr=False)
    meshes: Meshes = field(repr=False)
    keys: KeyStores = field(repr=False)
    registrations: Registrations = field(repr=False)
    epochs: Epochs = field(repr=False)
    endpoints: Endpoints = field(repr=False)
    federations: Federations = field(repr=False)
    acknowledgements: Acknowledgements = field(repr=False)
    jwt_holders: JwtHolders = field(repr=False)
    audit: AuditLog = field(repr=False)
    clock_watch: ClockWatch = field(repr=False)
    restored: Restoration | None  # where the store was made from a backup
    closing: ExitStack = field(repr=False)

    def close(self) -> None:
        """Close everything."""
        self.closing.close()


def store_url(home: Home, config: Config) -> str:
    """Return where the store is: as configured, else SQLite in the home."""
    return config.store_url or f"sqlite:///{home.database}"


def open_house(home: Home, config: Config, passphrase: Secret) -> House:
    """Open the parts of a server.

    Raises:
        MeshcaError: The schema is not current, there is no realm, or a key does not open.
    """
    with ExitStack() as opened:
        clock = SystemClock()
        store = opened.enter_context(open_store(store_url(home, config), writer=config.replica, clock=clock.now))
        store.require_current()
        if restored := restoration_of(store):
            store.write_as(restored.writer_of(config.replica))
        ledger = SqlLedger(store)
        realm = realm_of(ledger)
        keys = KeyStores(
            trust_domain=realm.trust_domain,
            folder=KeyFolder(home.keys),
            passphrase=passphrase if callable(passphrase) else lambda: passphrase,
            environ=os.environ,
            placement=placement_of(config),
            rows=SealedKeys(store, clock.now),
        )
        opened.callback(keys.close)
        _open_keys(keys, ledger)
        profiles = profiles_in_force(realm.lifetimes, config.profiles)
        settings = Settings(profiles, config.ack_deadline, upstream_of(config, keys), config.jwt_issuer)
        acknowledgements, jwt_holders = Acknowledgements(store), JwtHolders(store)
        authority = Authority(Ports(ledger, acknowledgements, keys, clock, os.urandom, jwt_holders), settings)
        policy = CheckpointPolicy(signer=lambda: keys.signer(authority.trust.active_record), file=home.checkpoint)
        audit = AuditLog(store, policy)
        return House(
            home=home,
            config=config,
            clock=clock,
            store=store,
            ledger=ledger,
            authority=authority,
            keys=keys,
            meshes=Meshes(store),
            registrations=Registrations(store),
            epochs=Epochs(store),
            endpoints=Endpoints(store),
            federations=Federations(store),
            acknowledgements=acknowledgements,
            jwt_holders=jwt_holders,
            audit=audit,
            clock_watch=ClockWatch(clock.now, time.monotonic, lambda: Reading(audit.newest_at(), store.server_time())),
            restored=restored,
            closing=opened.pop_all(),
        )


def upstream_of(config: Config, keys: KeyStores) -> Upstream:
    """Return who certifies issuing CAs where the root isn't ours."""
    match parse_upstream(config.upstream, "[authority] upstream"):
        case PkiMount(mount):
            return PkiUpstream(keys.openbao, mount)
    return NoUpstream()


def placement_of(config: Config) -> Placement:
    """Return where new keys go."""
    return Placement(
        root=parse_place(config.root_key, "[keys] root"),
        issuing=parse_place(config.issuing_key, "[keys] issuing"),
        kind=require_key_type(config.key_type) if config.key_type else None,
    )


def realm_of(ledger: SqlLedger) -> Realm:
    """Return the realm.

    Raises:
        NotFoundError: There is none.
    """
    realm = ledger.realm()
    if realm is None:
        raise NotFoundError("the store holds no certificate authority", remedy="run `meshca init`")
    return realm


def _open_keys(keys: KeyStores, ledger: SqlLedger) -> None:
    for record in (*ledger.authorities(), *ledger.jwt_keys()):
        if record.state == "removed" or not record.key_ref:
            continue
        if (record.role, record.state) == (ISSUING, "active"):
            keys.signer(record)
        else:
            keys.open_present(record)
