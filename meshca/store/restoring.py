"""A database made from a backup, and what has to change in it before it may be used.

The original server went on after the backup: it issued, revoked, and published CRLs and trust that the backup does not
know. Rules that keep the restored one from contradicting it:
- No serial is used twice: serials are 152 random bits (x509/serial.py), so no counter has gone back with the database.
- No CRL number goes down: the newest CRL of each CA that we sign for counts as numbered max(N + 1, the restore in Unix
  seconds). Its bytes say another number, so it is unfit, and the first publication replaces it by one numbered higher.
- The trust generation goes on at least at the Unix seconds too, and nobody has acknowledged anything.
- The audit chain of the original goes on elsewhere: the restored server writes one of its own, whose first record is
  the restore.
- An empty database is the only one that is filled, in one transaction.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, delete, func, inspect, select, update

from meshca.authority import audit
from meshca.authority.audit import AuditEntry
from meshca.errors import ConflictError
from meshca.store import migrate
from meshca.store.appending import AuditAppender
from meshca.store.dump import DumpError, Loader
from meshca.store.engine import Store, briefly
from meshca.store.schema import ACKNOWLEDGEMENTS, AUTHORITIES, CRLS, JWT_HOLDERS, METADATA, REALM
from meshca.store.times import micros, moment

FIRST_WRITER = "server"


@dataclass(frozen=True, slots=True)
class Restoration:
    """When the database was restored, and when the backup was made that it was restored from."""

    restored_at: datetime
    backup_at: datetime

    @property
    def writer(self) -> str:
        """The name of the audit chain that began with the restore."""
        return self.writer_of(FIRST_WRITER)

    def writer_of(self, replica: str) -> str:
        """Return the name of a replica's audit chain after the restore."""
        return f"{replica}-restored-{_seconds(self.restored_at)}"


def restoration_of(store: Store) -> Restoration | None:
    """Return the newest restore of this database; None where there was none."""
    with store.read() as connection:
        row = connection.execute(select(REALM.c.restored_at, REALM.c.backup_at)).first()
    if row is None or row.restored_at is None:
        return None
    return Restoration(moment(row.restored_at), moment(row.backup_at))


def require_empty(url: str) -> None:
    """Raise unless the database holds no row of ours; one that does not exist is made.

    Raises:
        ConflictError: It holds something.
        SchemaError: Its schema is newer than this code.
        StoreError: It does not answer.
    """
    with briefly(url) as connection:
        _require_empty(connection)


def fill(url: str, lines: Iterator[Any], restoration: Restoration, actor: str) -> None:
    """Make the schema, load the lines, make the result safe to use and note the restore, all or nothing.

    Each line is a table's name and columns, a row, or the counts at the end, as ``dump`` has written them.

    Raises:
        ConflictError: The database holds something.
        DumpError: The lines are not a whole dump.
        StoreError: The database does not take them.
    """
    with briefly(url) as connection:
        # The upgrade holds a lock, so that of two restores the second finds what the first has written.
        migrate.upgrade(connection)
        _require_empty(connection)
        load(Loader(connection), lines)
        entry = _make_safe(connection, restoration, actor)
        AuditAppender(restoration.writer, lambda: restoration.restored_at).append(connection, [entry])


def load(loader: Loader, lines: Iterator[Any]) -> None:
    """Give every line to the loader.

    Raises:
        DumpError: They are not a whole dump.
    """
    whole = False
    for line in lines:
        if isinstance(line, list):
            loader.row(line)
        elif "table" in line:
            loader.begin(line["table"], line["columns"])
        else:
            loader.finish(line["counts"])
            whole = True
    if not whole:
        raise DumpError("the backup ends before its database does")


def _require_empty(connection: Connection) -> None:
    present = [table for name, table in METADATA.tables.items() if name in inspect(connection).get_table_names()]
    if present and migrate.revision(connection) is None:
        raise _taken(present[0].name)
    for table in present:
        # By its key alone: a table of an older schema lacks columns.
        if connection.execute(select(*table.primary_key.columns).limit(1)).first() is not None:
            raise _taken(table.name)


def _taken(table: str) -> ConflictError:
    return ConflictError(
        "the database holds something already; nothing was changed",
        field="--database",
        value=f"table {table}",
        remedy="restore into an empty database",
    )


def _make_safe(connection: Connection, restoration: Restoration, actor: str) -> AuditEntry:
    floor = _seconds(restoration.restored_at)
    _raise_crl_numbers(connection, floor)
    realm = connection.execute(select(REALM.c.trust_domain, REALM.c.trust_generation, REALM.c.jwt_generation)).first()
    if realm is None:
        raise DumpError("the backup holds no trust domain")
    generation = max(realm.trust_generation + 1, floor)
    connection.execute(
        update(REALM).values(
            trust_generation=generation,
            jwt_generation=max(realm.jwt_generation + 1, floor),  # who fetched the bundle takes no older one
            restored_at=micros(restoration.restored_at),
            backup_at=micros(restoration.backup_at),
        )
    )
    connection.execute(delete(ACKNOWLEDGEMENTS))
    connection.execute(delete(JWT_HOLDERS))
    made = restoration.backup_at.isoformat(timespec="seconds")
    reason = f"backup of {made}; trust generation {generation}, CRL numbers from {floor} on"
    return AuditEntry(audit.RESTORE, realm.trust_domain, audit.OK, reason, actor)


def _raise_crl_numbers(connection: Connection, floor: int) -> None:
    """Let the newest CRL of each CA whose key is ours count as one that its successor must not be below."""
    ours = select(AUTHORITIES.c.id).where(AUTHORITIES.c.key_ref != "")
    newest = select(CRLS.c.issuer_id, func.max(CRLS.c.number)).where(CRLS.c.issuer_id.in_(ours))
    for issuer_id, number in connection.execute(newest.group_by(CRLS.c.issuer_id)).all():
        # Above its own number in any case, so that its bytes never agree and it is replaced.
        raised = update(CRLS).where(CRLS.c.issuer_id == issuer_id, CRLS.c.number == number)
        connection.execute(raised.values(number=max(number + 1, floor)))


def _seconds(at: datetime) -> int:
    return int(at.timestamp())
