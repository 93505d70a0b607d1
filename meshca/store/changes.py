"""What has changed, in the order in which it has committed: by it each replica finds out what others have done.

Rules:
- A row says what kind of thing has changed and, where a reader cannot find that out, which one. What it is now is read
  where it stands.
- Numbers have no gap and become visible in their order: they are given at the very end of a transaction, under a lock
  that lasts until it has committed (SQLite's writers take turns anyway). Who has read a number has missed none below.
- Only what replicas must hear of at once is written here, never an issued leaf or an acknowledgement.
- On PostgreSQL a notification goes out with the commit. It wakes and says nothing, so a lost one costs time alone.
- The newest few thousand are kept. A reader that is further behind is told so, and reads everything anew.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import Connection, delete, func, insert, select, text

from meshca.spiffe.id import SpiffeId
from meshca.store.conditional import own_changes
from meshca.store.schema import CHANGES

if TYPE_CHECKING:
    from meshca.store.engine import Store

CHANNEL = "meshca_changes"
MESH, TRUST, JWT = "mesh", "trust", "jwt"
REGISTRATIONS, ENDPOINTS, FEDERATIONS = "registrations", "endpoints", "federations"
SUSPENSIONS, EPOCHS, FREEZE = "suspensions", "epochs", "freeze"
REVOKED, ROTATE, REJECTED = "revoked", "rotate", "rejected"
_KEPT = 10_000
_SERIALS = 500  # in one row


@dataclass(frozen=True, slots=True)
class Change:
    """What kind of thing has changed, and for ``rotate``, ``revoked`` and ``rejected`` which one."""

    topic: str
    subject: str = ""


@dataclass(frozen=True, slots=True)
class Revocations:
    """Certificates of one identity that are dead, and whether it is suspended."""

    spiffe_id: SpiffeId
    serials: frozenset[str]
    suspended: bool

    @classmethod
    def of(cls, change: Change) -> Revocations:
        """Read them from a change."""
        spiffe_id, suspended, serials = json.loads(change.subject)
        return cls(SpiffeId.parse(spiffe_id), frozenset(serials), bool(suspended))

    def changes(self) -> Iterator[Change]:
        """Yield the changes that say so."""
        serials = sorted(self.serials)
        for at in range(0, max(len(serials), 1), _SERIALS):
            said = [str(self.spiffe_id), self.suspended, serials[at : at + _SERIALS]]
            yield Change(REVOKED, json.dumps(said, separators=(",", ":")))


@dataclass(frozen=True, slots=True)
class News:
    """What others have changed since a number. ``whole`` is false where older changes are not known any more."""

    newest: int
    changes: tuple[Change, ...]
    whole: bool = True


class ChangeLog:
    """The changes of one database, as one replica reads them."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def newest(self) -> int:
        """Return the number of the last change; 0 before the first."""
        with self._store.read() as connection:
            return _newest(connection)

    def since(self, number: int) -> News:
        """Return what other writers than this process have changed after that number."""
        after = select(CHANGES).where(CHANGES.c.number > number).order_by(CHANGES.c.number)
        with self._store.read() as connection:
            rows = connection.execute(after).all()
        if not rows:
            return News(number, ())
        others = (Change(row.topic, row.subject) for row in rows if row.origin != self._store.writer)
        return News(rows[-1].number, tuple(others), whole=rows[0].number == number + 1)


def append(connection: Connection, origin: str, changes: Iterable[Change]) -> None:
    """Write what a transaction has changed; nothing else of it may come after this."""
    wanted: Sequence[Change] = list(dict.fromkeys(changes))
    if not wanted:
        return
    own_changes(connection)
    newest = _newest(connection)
    rows = [
        {"number": number, "origin": origin, "topic": change.topic, "subject": change.subject}
        for number, change in enumerate(wanted, start=newest + 1)
    ]
    connection.execute(insert(CHANGES), rows)
    connection.execute(delete(CHANGES).where(CHANGES.c.number <= newest + len(rows) - _KEPT))
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_notify(:channel, '')"), {"channel": CHANNEL})


def _newest(connection: Connection) -> int:
    return connection.execute(select(func.max(CHANGES.c.number))).scalar() or 0
