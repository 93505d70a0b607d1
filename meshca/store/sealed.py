"""Sealed keys: what the database holds of the private keys of CAs, unreadable without the passphrase.

Rule: every change names the rows that its maker has seen, and changes nothing where they are others by now.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime

from sqlalchemy import Connection, delete, select, update

from meshca.authority import audit
from meshca.authority.audit import AuditEntry
from meshca.store.conditional import insert_missing, own_sealed_keys
from meshca.store.engine import Store, Transaction
from meshca.store.schema import SEALED_KEYS
from meshca.store.times import micros


class SealedKeys:
    """The sealed keys of one store; ``actor`` is who the audit log says changed their passphrase."""

    def __init__(self, store: Store, clock: Callable[[], datetime], actor: str = "server") -> None:
        self._store = store
        self._clock = clock
        self._actor = actor

    def all(self) -> dict[str, bytes]:
        """Return every sealed key by the id of its key."""
        with self._store.read() as connection:
            return _rows(connection)

    def add(self, key_id: str, role: str, blob: bytes, known: Mapping[str, bytes]) -> bool:
        """Add one; False, with nothing written, unless the others are exactly ``known``."""
        row = {"key_id": key_id, "role": role, "sealed": blob, "created_at": micros(self._clock())}

        def add(transaction: Transaction) -> bool:
            own_sealed_keys(transaction.connection)
            if _rows(transaction.connection) != known:
                return False
            return insert_missing(transaction.connection, SEALED_KEYS, row)

        return self._store.write(add)

    def replace(self, known: Mapping[str, bytes], changed: Mapping[str, bytes]) -> bool:
        """Change rows, all or nothing; False, with nothing changed, unless the rows are exactly ``known``."""

        def replace(transaction: Transaction) -> bool:
            own_sealed_keys(transaction.connection)
            if _rows(transaction.connection) != known:
                return False
            for key_id, blob in changed.items():
                mine = SEALED_KEYS.c.key_id == key_id
                transaction.connection.execute(update(SEALED_KEYS).where(mine).values(sealed=blob))
                transaction.audit(AuditEntry(audit.REWRAP, f"key {key_id}", audit.OK, "", self._actor))
            return True

        return self._store.write(replace)

    def remove(self, key_id: str) -> None:
        """Remove one, if it is there."""
        gone = delete(SEALED_KEYS).where(SEALED_KEYS.c.key_id == key_id)
        self._store.write(lambda transaction: transaction.connection.execute(gone) and None)


def _rows(connection: Connection) -> dict[str, bytes]:
    query = select(SEALED_KEYS.c.key_id, SEALED_KEYS.c.sealed).order_by(SEALED_KEYS.c.key_id)
    return {row.key_id: bytes(row.sealed) for row in connection.execute(query)}
