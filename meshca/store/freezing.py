"""The freeze: one row says whether anything is issued at all.

Rules: both ways are one conditional statement. A freeze waits for every intent and result that is being written, as a
suspension does, so that nothing is issued after it has been answered; on SQLite writers take turns by themselves.
"""

from __future__ import annotations

from sqlalchemy import ColumnElement, Connection, exists, literal_column, select, update

from meshca.authority.records import Freeze
from meshca.errors import ConflictError
from meshca.store.conditional import own_suspensions
from meshca.store.schema import REALM
from meshca.store.times import micros, moment

IS_FROZEN: ColumnElement[bool] = exists(literal_column("1")).where(REALM.c.frozen_at.is_not(None)).correlate(None)
"""What an inserting or updating statement asks itself."""


def freeze(connection: Connection, wanted: Freeze) -> bool:
    """Let nothing be issued from here on; False when that is so already, or where there is no realm."""
    own_suspensions(connection)
    values = {"frozen_at": micros(wanted.at), "frozen_by": wanted.by, "frozen_reason": wanted.reason}
    return connection.execute(update(REALM).where(REALM.c.frozen_at.is_(None)).values(values)).rowcount == 1


def unfreeze(connection: Connection) -> bool:
    """Let certificates be issued again; False when they are."""
    values = dict.fromkeys(("frozen_at", "frozen_by", "frozen_reason"))
    return connection.execute(update(REALM).where(REALM.c.frozen_at.is_not(None)).values(values)).rowcount == 1


def require_thawed(connection: Connection) -> None:
    """Check that certificates are issued, once `advance_generation` has made a freeze wait for this transaction.

    Raises:
        ConflictError: they are not.
    """
    if load_freeze(connection) is not None:
        raise ConflictError("issuance was frozen meanwhile; nothing was changed", remedy="see meshca status")


def load_freeze(connection: Connection) -> Freeze | None:
    """Return since when nothing is issued, or None."""
    row = connection.execute(
        select(REALM.c.frozen_at, REALM.c.frozen_by, REALM.c.frozen_reason).where(REALM.c.frozen_at.is_not(None))
    ).first()
    return None if row is None else Freeze(moment(row.frozen_at), row.frozen_by or "", row.frozen_reason or "")
