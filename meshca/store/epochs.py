"""Drain epochs: a number for each scope (`identity:<SPIFFE ID>`, `listener:…`, `backend:…`) that only grows.

A bump changes the names of filter chains and the metadata of clusters, and so ends connections that are open. Most
bumps happen inside the transaction that makes them necessary (revocation.py, meshes.py).
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select

from meshca.authority.audit import AuditEntry
from meshca.store.changes import EPOCHS
from meshca.store.conditional import bump
from meshca.store.engine import Store, Transaction
from meshca.store.schema import DRAIN_EPOCHS


class Epochs:
    """The drain epochs of one store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def load(self) -> dict[str, int]:
        """Return every epoch; a scope that is absent stands at 0."""
        with self._store.read() as connection:
            return {row.scope: row.value for row in connection.execute(select(DRAIN_EPOCHS))}

    def bump(self, scopes: Sequence[str], audit: Sequence[AuditEntry] = ()) -> None:
        """Add one to each scope, in one transaction."""

        def add(transaction: Transaction) -> None:
            bump(transaction.connection, DRAIN_EPOCHS, scopes, "value")
            transaction.audit(*audit)
            transaction.changed(EPOCHS)

        self._store.write(add)
