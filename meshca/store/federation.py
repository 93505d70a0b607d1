"""Federated trust domains: where their bundles come from, and the newest bundle of each.

Rules kept here:
- A bundle is replaced by one conditional statement: only of the same endpoint, and never by a lower sequence, whatever
  two replicas do at once. An administrator who brings a bundle may set the sequence back.
- Who fetches has claimed it: one replica at a time asks a stranger's server.
- With a federation, in its own commit, go the connections that rest on it (drain epochs).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, delete, func, select, update

from meshca.authority.audit import AuditEntry
from meshca.errors import ExhaustedError, NotFoundError
from meshca.spiffe.id import SpiffeId, TrustDomain
from meshca.store.changes import FEDERATIONS as TOPIC
from meshca.store.conditional import bump, insert_missing
from meshca.store.engine import Store, Transaction
from meshca.store.schema import DRAIN_EPOCHS, FEDERATIONS
from meshca.store.times import micros, moment

HTTPS_SPIFFE, HTTPS_WEB = "https_spiffe", "https_web"
MOST = 64


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where the bundle of a trust domain is, and how its server is known."""

    trust_domain: TrustDomain
    url: str
    profile: str
    endpoint_id: SpiffeId | None = None
    """Of the server, with ``https_spiffe``."""


@dataclass(frozen=True, slots=True)
class Federation:
    """A federated trust domain."""

    endpoint: Endpoint
    bundle: bytes = field(repr=False)
    """As it was fetched; empty: none yet."""
    sequence: int | None
    due_at: datetime
    fetched_at: datetime | None
    failure: str = ""
    """Why the last attempt brought nothing."""


class Federations:
    """The federations of one store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def list(self) -> list[Federation]:
        """Return every federation, by trust domain."""
        with self._store.read() as connection:
            rows = connection.execute(select(FEDERATIONS).order_by(FEDERATIONS.c.trust_domain))
            return [_federation(row) for row in rows]

    def find(self, trust_domain: TrustDomain) -> Federation | None:
        """Return one, or None."""
        query = select(FEDERATIONS).where(FEDERATIONS.c.trust_domain == trust_domain.name)
        with self._store.read() as connection:
            row = connection.execute(query).first()
        return None if row is None else _federation(row)

    def put(self, federation: Federation, at: datetime, audit: AuditEntry) -> None:
        """Add one, or replace all that is known of it.

        Raises:
            ExhaustedError: There are as many as there may be.
        """
        endpoint = federation.endpoint
        row = {
            "trust_domain": endpoint.trust_domain.name,
            "url": endpoint.url,
            "profile": endpoint.profile,
            "endpoint_id": str(endpoint.endpoint_id or ""),
            "bundle": federation.bundle,
            "sequence": federation.sequence,
            "due_at": micros(federation.due_at),
            "fetched_at": None if federation.fetched_at is None else micros(federation.fetched_at),
            "failure": federation.failure,
            "added_at": micros(at),
        }

        def put(transaction: Transaction) -> None:
            if not insert_missing(transaction.connection, FEDERATIONS, row):
                this = FEDERATIONS.c.trust_domain == endpoint.trust_domain.name
                transaction.connection.execute(update(FEDERATIONS).where(this).values(**row))
            count = transaction.connection.execute(select(func.count()).select_from(FEDERATIONS)).scalar_one()
            if count > MOST:
                raise ExhaustedError(f"at most {MOST} federated trust domains", remedy="see `meshca federate`")
            transaction.audit(audit)
            transaction.changed(TOPIC)

        self._store.write(put)

    def remove(self, trust_domain: TrustDomain, scopes: Sequence[str], audit: AuditEntry) -> None:
        """Remove one, and end the connections of these drain scopes.

        Raises:
            NotFoundError: It is not federated.
        """

        def remove(transaction: Transaction) -> None:
            gone = delete(FEDERATIONS).where(FEDERATIONS.c.trust_domain == trust_domain.name)
            if transaction.connection.execute(gone).rowcount != 1:
                raise NotFoundError(
                    "not federated", field="trust domain", value=trust_domain.name, remedy="see `meshca federate`"
                )
            bump(transaction.connection, DRAIN_EPOCHS, scopes, "value")
            transaction.audit(audit)
            transaction.changed(TOPIC)

        self._store.write(remove)

    def claim(self, federation: Federation, until: datetime) -> bool:
        """Take it upon oneself to fetch a bundle that is due; say whether nobody else has."""
        claim = (
            update(FEDERATIONS)
            .where(_is(federation.endpoint), FEDERATIONS.c.due_at == micros(federation.due_at))
            .values(due_at=micros(until))
        )
        return bool(self._store.write(lambda transaction: transaction.connection.execute(claim).rowcount))

    def fetched(self, federation: Federation, audit: AuditEntry | None) -> bool:
        """Store what was fetched from an endpoint; say whether it is in force: no lower sequence, the same endpoint."""
        newer: ColumnElement[bool] = FEDERATIONS.c.sequence.is_(None)
        if federation.sequence is not None:
            newer |= FEDERATIONS.c.sequence <= federation.sequence
        store = (
            update(FEDERATIONS)
            .where(_is(federation.endpoint), newer)
            .values(
                bundle=federation.bundle,
                sequence=federation.sequence,
                due_at=micros(federation.due_at),
                fetched_at=None if federation.fetched_at is None else micros(federation.fetched_at),
                failure="",
            )
        )
        return self._written(store, audit, tell=audit is not None)

    def failed(self, endpoint: Endpoint, failure: str, due_at: datetime, audit: AuditEntry | None) -> bool:
        """Note why nothing was fetched; what was fetched before stays."""
        note = update(FEDERATIONS).where(_is(endpoint)).values(failure=failure, due_at=micros(due_at))
        return self._written(note, audit)

    def _written(self, statement: Any, audit: AuditEntry | None, *, tell: bool = False) -> bool:
        def write(transaction: Transaction) -> bool:
            if transaction.connection.execute(statement).rowcount != 1:
                return False
            if audit is not None:
                transaction.audit(audit)
            if tell:
                transaction.changed(TOPIC)
            return True

        return self._store.write(write)


def _is(endpoint: Endpoint) -> Any:
    return (
        (FEDERATIONS.c.trust_domain == endpoint.trust_domain.name)
        & (FEDERATIONS.c.url == endpoint.url)
        & (FEDERATIONS.c.profile == endpoint.profile)
        & (FEDERATIONS.c.endpoint_id == str(endpoint.endpoint_id or ""))
    )


def _federation(row: Row[Any]) -> Federation:
    endpoint_id = SpiffeId.parse(row.endpoint_id) if row.endpoint_id else None
    return Federation(
        Endpoint(TrustDomain(row.trust_domain), row.url, row.profile, endpoint_id),
        bytes(row.bundle),
        row.sequence,
        moment(row.due_at),
        None if row.fetched_at is None else moment(row.fetched_at),
        row.failure,
    )
