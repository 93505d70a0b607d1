"""Everything a server works with, opened in order and closed in reverse.

Rules: opening changes no schema; keys are opened before anything listens, so that a wrong passphrase is an error at
start and not at the first certificate; what was opened is closed again when a later step fails.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime

from meshca.authority.authority import Authority
from meshca.authority.ports import Signer
from meshca.authority.records import AuthorityRecord
from meshca.errors import NotFoundError, UnavailableError
from meshca.keys.files import KeyFolder
from meshca.keys.sealed import KeyBinding
from meshca.server.config import Config
from meshca.server.home import Home
from meshca.store.acknowledgements import Acknowledgements
from meshca.store.audit import AuditLog, CheckpointPolicy
from meshca.store.engine import Store, open_store
from meshca.store.epochs import Epochs
from meshca.store.ledger import SqlLedger
from meshca.store.meshes import Meshes
from meshca.store.registrations import Registrations


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
    registrations: Registrations = field(repr=False)
    epochs: Epochs = field(repr=False)
    acknowledgements: Acknowledgements = field(repr=False)
    audit: AuditLog = field(repr=False)
    closing: ExitStack = field(repr=False)

    def close(self) -> None:
        """Close everything."""
        self.closing.close()


def store_url(home: Home, config: Config) -> str:
    """Return where the store is: as configured, else SQLite in the home."""
    return config.store_url or f"sqlite:///{home.database}"


def open_house(home: Home, config: Config, passphrase: bytes) -> House:
    """Open the parts of a server.

    Raises:
        MeshcaError: The schema is not current, there is no realm, or a key does not open.
    """
    with ExitStack() as opened:
        clock = SystemClock()
        store = opened.enter_context(open_store(store_url(home, config), clock=clock.now))
        store.require_current()
        ledger = SqlLedger(store)
        signers = _open_keys(home, passphrase, ledger)
        authority = Authority(ledger, signers, clock, os.urandom)
        policy = CheckpointPolicy(signer=lambda: _active_signer(authority, signers), file=home.checkpoint)
        return House(
            home=home,
            config=config,
            clock=clock,
            store=store,
            ledger=ledger,
            authority=authority,
            meshes=Meshes(store),
            registrations=Registrations(store),
            epochs=Epochs(store),
            acknowledgements=Acknowledgements(store),
            audit=AuditLog(store, policy),
            closing=opened.pop_all(),
        )


def _open_keys(home: Home, passphrase: bytes, ledger: SqlLedger) -> dict[str, Signer]:
    realm = ledger.realm()
    if realm is None:
        raise NotFoundError("the store holds no certificate authority", remedy="run `meshca init`")
    folder = KeyFolder(home.keys)

    def binding(record: AuthorityRecord) -> KeyBinding:
        return KeyBinding(record.key_ref, record.role, realm.trust_domain, record.generation)

    kept = [record for record in ledger.authorities() if record.state != "removed"]
    return {record.key_ref: folder.open(binding(record), passphrase) for record in kept}


def _active_signer(authority: Authority, signers: dict[str, Signer]) -> Signer:
    active = authority.trust.active.id
    if active not in signers:  # the id of a key is the id of its CA
        raise UnavailableError("this server does not hold the key of the active issuing CA", value=active)
    return signers[active]
