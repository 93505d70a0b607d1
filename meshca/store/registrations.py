"""Registration entries: which selectors entitle to which identity.

Rules: the same selectors for the same identity under the same parent are registered once; a unique constraint holds
that, whatever two processes do at once. Selectors are kept as sorted JSON text, so that equal sets are equal text.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

from sqlalchemy import Row, delete, select

from meshca.authority.audit import AuditEntry
from meshca.errors import ConflictError, NotFoundError
from meshca.policy.entitlement import Registration, Selector
from meshca.policy.selector import SELF
from meshca.spiffe.id import SpiffeId, TrustDomain
from meshca.store.certificates import parsed
from meshca.store.changes import REGISTRATIONS as TOPIC
from meshca.store.conditional import insert_missing
from meshca.store.engine import Store, Transaction
from meshca.store.schema import REGISTRATIONS
from meshca.store.times import micros


class Registrations:
    """The registrations of one store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def list(self) -> list[Registration]:
        """Return every registration, oldest first."""
        query = select(REGISTRATIONS).order_by(REGISTRATIONS.c.created_at, REGISTRATIONS.c.id)
        with self._store.read() as connection:
            return [_registration(row) for row in connection.execute(query)]

    def says_self(self, spiffe_id: SpiffeId) -> bool:
        """Whether a registration lets this identity renew its own certificate over TCP."""
        query = select(REGISTRATIONS.c.id).where(
            REGISTRATIONS.c.spiffe_id == str(spiffe_id),
            REGISTRATIONS.c.selectors == _selectors_text(frozenset({SELF})),
            REGISTRATIONS.c.parent == "",
        )
        with self._store.read() as connection:
            return connection.execute(query).first() is not None

    def add(self, registration: Registration, at: datetime, audit: AuditEntry) -> None:
        """Add one.

        Raises:
            ConflictError: its id, or the same selectors for the same identity, are registered already.
        """
        row = {
            "id": registration.id,
            "spiffe_id": str(registration.spiffe_id),
            "selectors": _selectors_text(registration.selectors),
            "parent": registration.parent,
            "created_at": micros(at),
            "federates_with": json.dumps(sorted(map(str, registration.federates_with))),
        }

        def add(transaction: Transaction) -> None:
            if not insert_missing(transaction.connection, REGISTRATIONS, row):
                raise ConflictError(
                    "these selectors are registered for this identity already",
                    value=str(registration.spiffe_id),
                    remedy="see `meshca registrations`",
                )
            transaction.audit(audit)
            transaction.changed(TOPIC)

        self._store.write(add)

    def remove(self, registration_id: str, audit: Callable[[Registration], AuditEntry]) -> Registration:
        """Remove one and return it.

        Raises:
            NotFoundError: there is none with this id.
        """

        def remove(transaction: Transaction) -> Registration:
            gone = delete(REGISTRATIONS).where(REGISTRATIONS.c.id == registration_id).returning(*REGISTRATIONS.c)
            row = transaction.connection.execute(gone).first()
            if row is None:
                raise NotFoundError("no such registration", value=registration_id, remedy="see `meshca registrations`")
            registration = _registration(row)
            transaction.audit(audit(registration))
            transaction.changed(TOPIC)
            return registration

        return self._store.write(remove)


def _selectors_text(selectors: frozenset[Selector]) -> str:
    return json.dumps(sorted([selector.type, selector.value] for selector in selectors), separators=(",", ":"))


def _registration(row: Row[Any]) -> Registration:
    return Registration(
        id=row.id,
        spiffe_id=parsed(row.spiffe_id),
        selectors=frozenset(Selector(type=kind, value=value) for kind, value in json.loads(row.selectors)),
        parent=row.parent,
        federates_with=frozenset(map(TrustDomain, json.loads(row.federates_with))),
    )
