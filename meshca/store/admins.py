"""Remote administrators: a name, and what it may do.

Rule: a name has one role; to add it again changes the role. Certificates are the ledger's matter.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import select
from sqlalchemy.dialects import postgresql, sqlite

from meshca.authority.audit import AuditEntry
from meshca.store.engine import Store, Transaction
from meshca.store.schema import ADMINS
from meshca.store.times import micros


class Admins:
    """The administrators of one store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def role(self, name: str) -> str | None:
        """Return what somebody may do; None: there is no such administrator."""
        with self._store.read() as connection:
            found: str | None = connection.execute(select(ADMINS.c.role).where(ADMINS.c.name == name)).scalar()
            return found

    def put(self, name: str, role: str, at: datetime, audit: AuditEntry) -> None:
        """Add one, or give one another role."""
        row = {"name": name, "role": role, "added_at": micros(at), "added_by": audit.actor}

        def put(transaction: Transaction) -> None:
            insert = postgresql.insert if transaction.connection.dialect.name == "postgresql" else sqlite.insert
            added = insert(ADMINS).values(row)
            changed = {key: added.excluded[key] for key in ("role", "added_at", "added_by")}
            transaction.connection.execute(added.on_conflict_do_update(index_elements=["name"], set_=changed))
            transaction.audit(audit)

        self._store.write(put)
