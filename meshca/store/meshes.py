"""Applied mesh objects and their revisions.

Rules: one apply is one transaction: objects, revision, drain epochs and audit, or none of it. It names the revision it
was computed from; whoever comes second gets a ConflictError and computes again. What the newest revisions replaced is
kept with them, so that each can be undone as long as nothing has come after it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from meshca.authority.audit import AuditEntry
from meshca.errors import ConflictError, NotFoundError
from meshca.mesh.model import ObjectKey
from meshca.store.changes import MESH
from meshca.store.conditional import bump
from meshca.store.engine import Store, Transaction
from meshca.store.schema import DRAIN_EPOCHS, OBJECTS, REALM, REPLACED, REVISIONS
from meshca.store.times import micros, moment

_UNDOABLE = 50
_LOOKED_UP = 100  # by name; more than that, and all objects of their meshes are read


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One object as canonical JSON text, and the revision that last changed it."""

    key: ObjectKey
    spec: str
    revision: int = 0


@dataclass(frozen=True, slots=True)
class StoredMeshes:
    """All objects at one revision."""

    revision: int
    objects: tuple[StoredObject, ...]


@dataclass(frozen=True, slots=True)
class Revision:
    """Who changed the meshes, when, and in one line how."""

    number: int
    at: datetime
    actor: str
    summary: str


@dataclass(frozen=True, slots=True)
class MeshChange:
    """One apply or delete, computed from the revision ``expected``."""

    expected: int
    changed: Sequence[StoredObject]
    removed: Sequence[ObjectKey]
    at: datetime
    actor: str
    summary: str
    audit: Sequence[AuditEntry] = ()
    bumps: Sequence[str] = ()  # drain epoch scopes


class Meshes:
    """The meshes of one store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def load(self) -> StoredMeshes:
        """Return every object and the revision they make up."""
        with self._store.read() as connection:
            rows = connection.execute(
                select(OBJECTS).order_by(OBJECTS.c.mesh, OBJECTS.c.kind, OBJECTS.c.parent, OBJECTS.c.name)
            )
            objects = tuple(
                StoredObject(ObjectKey(row.mesh, row.kind, row.parent, row.name), row.spec, row.revision)
                for row in rows
            )
            return StoredMeshes(_revision(connection), objects)

    def revision(self) -> int:
        """Return the mesh revision; 0 before the first apply."""
        with self._store.read() as connection:
            return _revision(connection)

    def revisions(self, count: int) -> list[Revision]:
        """Return the newest revisions, newest first."""
        newest = select(REVISIONS).order_by(REVISIONS.c.number.desc()).limit(count)
        with self._store.read() as connection:
            return [Revision(row.number, moment(row.at), row.actor, row.summary) for row in connection.execute(newest)]

    def replaced(self, revision: int) -> dict[ObjectKey, str | None]:
        """Return what a revision has replaced: each object as it was before, None where there was none.

        Raises:
            NotFoundError: it is not known any more.
        """
        query = select(REPLACED).where(REPLACED.c.revision == revision)
        with self._store.read() as connection:
            found = {ObjectKey(row.mesh, row.kind, row.parent, row.name): row.spec for row in connection.execute(query)}
        if not found:
            raise NotFoundError(
                "what came before this revision is not known",
                field="revision",
                value=str(revision),
                remedy=f"the newest {_UNDOABLE} are kept; apply the earlier specs again",
            )
        return found

    def apply(self, change: MeshChange) -> int:
        """Make the change and return its revision.

        Raises:
            ConflictError: another change has been applied since ``expected``; nothing was changed.
        """

        def apply(transaction: Transaction) -> int:
            number = _advance(transaction.connection, change)
            _keep_replaced(transaction.connection, change, number)
            _write_objects(transaction.connection, change, number)
            bump(transaction.connection, DRAIN_EPOCHS, change.bumps, "value")
            transaction.audit(*change.audit)
            transaction.changed(MESH)
            return number

        return self._store.write(apply)


def _revision(connection: Connection) -> int:
    return connection.execute(select(REALM.c.mesh_revision)).scalar() or 0


def _advance(connection: Connection, change: MeshChange) -> int:
    number = change.expected + 1
    advanced = connection.execute(
        update(REALM).where(REALM.c.mesh_revision == change.expected).values(mesh_revision=number)
    )
    if advanced.rowcount != 1:
        raise ConflictError(
            f"the meshes are at revision {_revision(connection)}, not {change.expected}: somebody else has applied",
            remedy="apply again",
        )
    connection.execute(
        insert(REVISIONS).values(number=number, at=micros(change.at), actor=change.actor, summary=change.summary)
    )
    return number


def _keep_replaced(connection: Connection, change: MeshChange, number: int) -> None:
    keys = sorted({*change.removed, *(stored.key for stored in change.changed)})
    before = select(OBJECTS).where(OBJECTS.c.mesh.in_({key.mesh for key in keys}))
    if len(keys) <= _LOOKED_UP:
        before = before.where(OBJECTS.c.name.in_({key.name for key in keys}))
    specs = {ObjectKey(row.mesh, row.kind, row.parent, row.name): row.spec for row in connection.execute(before)}
    rows = [{"revision": number, **_key(key), "spec": specs.get(key)} for key in keys]
    if rows:
        connection.execute(insert(REPLACED), rows)
    connection.execute(delete(REPLACED).where(REPLACED.c.revision <= number - _UNDOABLE))


def _write_objects(connection: Connection, change: MeshChange, number: int) -> None:
    for key in sorted(change.removed):
        connection.execute(delete(OBJECTS).where(*(OBJECTS.c[name] == value for name, value in _key(key).items())))
    rows = [
        {**_key(stored.key), "spec": stored.spec, "revision": number}
        for stored in sorted(change.changed, key=lambda stored: stored.key)
    ]
    if rows:
        upsert = (postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert)(OBJECTS)
        replaced = {"spec": upsert.excluded.spec, "revision": upsert.excluded.revision}
        connection.execute(
            upsert.on_conflict_do_update(index_elements=OBJECTS.primary_key.columns, set_=replaced), rows
        )


def _key(key: ObjectKey) -> dict[str, Any]:
    return {"mesh": key.mesh, "kind": key.kind, "parent": key.parent, "name": key.name}
