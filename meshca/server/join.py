"""Making a further replica's home: one more server on a database that holds a trust domain already.

Rules kept here:
- Nothing of the trust domain changes: realm, CAs and keys are the database's. The home gets a name that no other
  replica has, for its audit chain and its own SPIFFE ID; the first record of that chain is the joining.
- A passphrase that does not open the keys is refused here, and not at the first certificate. What lies in another
  home's folder of keys, the root's usually, does not come along: a warning names it.
- The home appears whole, or not at all, as with ``init``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

from meshca.authority import audit
from meshca.authority.audit import OK, AuditEntry
from meshca.authority.records import ISSUING, Realm
from meshca.errors import ConflictError, InvalidInputError
from meshca.keys.files import KeyFolder, KeyMissingError, write_new
from meshca.keys.passphrase import Passphrase
from meshca.keys.stores import KeyStores
from meshca.server.building import new_home, require_free
from meshca.server.config import Config, require_replica, write_config
from meshca.server.home import PRIVATE_FOLDER, Home
from meshca.server.house import SystemClock, placement_of, realm_of
from meshca.spiffe.id import TrustDomain
from meshca.store.engine import Store, open_store
from meshca.store.ledger import SqlLedger
from meshca.store.sealed import SealedKeys


@dataclass(frozen=True, slots=True)
class JoinOptions:
    """What `meshca init --join` was told; the configuration has the database, and where new keys go."""

    config: Config
    passphrase: Callable[[Path], Passphrase]
    trust_domain: TrustDomain | None = None  # which it has to be; None: whichever it is
    name: str = ""  # empty: one that is made up


@dataclass(frozen=True, slots=True)
class Joined:
    """What was made."""

    home: Home
    trust_domain: TrustDomain
    replica: str
    warnings: tuple[str, ...] = field(default=())


def join(home: Home, options: JoinOptions) -> Joined:
    """Make a home on a database that is in use.

    Raises:
        HomeExistsError: Something is there; nothing was changed.
        ConflictError: Another replica has this name, or the trust domain is another.
        MeshcaError: The database does not answer or holds nothing, or the keys do not open; nothing was changed.
    """
    url = options.config.store_url
    if not url:
        remedy = "give the URL that the other replicas have in meshca.toml"
        raise InvalidInputError("needed, to join the replicas on it", field="--database", remedy=remedy)
    name = require_replica(options.name or f"replica-{os.urandom(4).hex()}", what="--replica")
    require_free(home)
    clock = SystemClock()
    with open_store(url, writer=name, clock=clock.now) as store:
        store.require_current()
        realm = _require_fitting(store, options)
        config = replace(options.config, replica=name, lifetimes=realm.lifetimes)
        with new_home(home) as folder:
            building = Home(folder)
            building.keys.mkdir(mode=PRIVATE_FOLDER)
            passphrase = options.passphrase(folder) if config.seals_keys else None
            warnings = tuple(_open_keys(building, store, config, realm, passphrase))
            write_new(building.config, write_config(config).encode())
            entry = AuditEntry(audit.JOIN, name, OK, f"trust domain {realm.trust_domain}", f"uid:{os.getuid()}")
            SqlLedger(store).record_audit([entry])
    return Joined(home, realm.trust_domain, name, warnings)


def _require_fitting(store: Store, options: JoinOptions) -> Realm:
    realm = realm_of(SqlLedger(store))
    if options.trust_domain not in (None, realm.trust_domain):
        raise ConflictError(
            f"the database holds {realm.trust_domain}", field="--trust-domain", value=str(options.trust_domain)
        )
    if store.has_written():
        raise ConflictError("another replica has this name", field="--replica", value=store.writer)
    return realm


def _open_keys(
    building: Home, store: Store, config: Config, realm: Realm, passphrase: Passphrase | None
) -> Iterator[str]:
    """Open what can be opened, and yield what cannot."""
    keys = KeyStores(
        trust_domain=realm.trust_domain,
        folder=KeyFolder(building.keys),
        passphrase=lambda: passphrase.value if passphrase else b"",
        environ=os.environ,
        placement=placement_of(config),
        rows=SealedKeys(store, SystemClock().now),
    )
    with closing(keys):
        for record in SqlLedger(store).authorities():
            if record.state == "removed" or not record.key_ref:
                continue
            try:
                keys.signer(record)
            except KeyMissingError:
                if (record.role, record.state) == (ISSUING, "active"):
                    raise
                yield (
                    f"the key of the {record.role} CA {record.id} is a file of another replica's home: what needs it "
                    "is done there; with that file in keys/ it can be done here as well"
                )
