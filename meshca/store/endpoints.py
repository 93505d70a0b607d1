"""Endpoints: where virtual nodes are that no DNS finds.

Rules: an address and port of a node stand once; a node has a bounded number; rows of a node that is gone from its mesh
stay, mean nothing, and come back with it, as when an apply is rolled back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from sqlalchemy import ColumnElement, and_, delete, func, select

from meshca.authority.audit import AuditEntry
from meshca.errors import ExhaustedError, NotFoundError
from meshca.mesh.model import VIRTUAL_NODE, ObjectKey
from meshca.store.changes import ENDPOINTS as TOPIC
from meshca.store.conditional import insert_missing
from meshca.store.engine import Store, Transaction
from meshca.store.schema import ENDPOINTS
from meshca.store.times import micros

MOST = 1000

Endpoint = tuple[str, int | None]
"""An IP address, and a port where it is not the listener's own."""


class Endpoints:
    """The endpoints of one store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def load(self) -> Mapping[ObjectKey, tuple[Endpoint, ...]]:
        """Return the endpoints of every node that has any, in order."""
        query = select(ENDPOINTS).order_by(ENDPOINTS.c.mesh, ENDPOINTS.c.node, ENDPOINTS.c.address, ENDPOINTS.c.port)
        found: dict[ObjectKey, list[Endpoint]] = {}
        with self._store.read() as connection:
            for row in connection.execute(query):
                key = ObjectKey(row.mesh, VIRTUAL_NODE, "", row.node)
                found.setdefault(key, []).append((row.address, row.port or None))
        return {key: tuple(endpoints) for key, endpoints in found.items()}

    def add(self, node: ObjectKey, endpoints: Sequence[Endpoint], at: datetime, audit: AuditEntry) -> None:
        """Add endpoints to a node; those that it has already stay.

        Raises:
            ExhaustedError: it would have more than a node may; nothing was added.
        """

        def add(transaction: Transaction) -> None:
            for address, port in endpoints:
                row = {"mesh": node.mesh, "node": node.name, "address": address, "port": port or 0}
                insert_missing(transaction.connection, ENDPOINTS, {**row, "created_at": micros(at)})
            count = select(func.count()).select_from(ENDPOINTS).where(_of(node))
            if (found := transaction.connection.execute(count).scalar_one()) > MOST:
                raise ExhaustedError(
                    f"a node has at most {MOST} endpoints, and this would have {found}",
                    field="endpoint",
                    value=str(node),
                )
            transaction.audit(audit)
            transaction.changed(TOPIC)

        self._store.write(add)

    def remove(self, node: ObjectKey, endpoints: Sequence[Endpoint], audit: AuditEntry) -> None:
        """Remove endpoints of a node, all or none.

        Raises:
            NotFoundError: one of them is not there.
        """

        def remove(transaction: Transaction) -> None:
            for address, port in endpoints:
                this = and_(_of(node), ENDPOINTS.c.address == address, ENDPOINTS.c.port == (port or 0))
                if transaction.connection.execute(delete(ENDPOINTS).where(this)).rowcount != 1:
                    raise NotFoundError(
                        "the node has no such endpoint",
                        field=str(node),
                        value=shown((address, port)),
                        remedy="see `meshca endpoint list`",
                    )
            transaction.audit(audit)
            transaction.changed(TOPIC)

        self._store.write(remove)


def shown(endpoint: Endpoint) -> str:
    """Return an endpoint as people write it."""
    address, port = endpoint
    if port is None:
        return address
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _of(node: ObjectKey) -> ColumnElement[bool]:
    return and_(ENDPOINTS.c.mesh == node.mesh, ENDPOINTS.c.node == node.name)
