"""The fence: what a transaction of scheduled work asks for first, so that a late leader writes nothing (leases.py)."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, and_, select

from meshca.authority.ports import OvertakenError
from meshca.store.schema import LEASES


@dataclass(frozen=True, slots=True)
class Fence:
    """The epoch in which somebody holds a lease."""

    name: str
    epoch: int


def is_in_force(fence: Fence) -> ColumnElement[bool]:
    """Return the condition under which a row of leases is this one."""
    return and_(LEASES.c.name == fence.name, LEASES.c.epoch == fence.epoch)


def require_in_force(connection: Connection, fence: Fence) -> None:
    """Check that the lease is still held in this epoch, and keep it so until the transaction has ended.

    Raises:
        OvertakenError: It is not; nothing was changed.
    """
    # A share lock, since READ COMMITTED lets a takeover commit between two statements; SQLite ignores it.
    wanted = select(LEASES.c.epoch).where(is_in_force(fence)).with_for_update(read=True)
    if connection.execute(wanted).first() is None:
        raise OvertakenError(f"another replica has taken over the {fence.name}; nothing was changed")
