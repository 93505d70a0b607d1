"""Leases: which replica does the work that is to be done once, and how a late one is kept from writing.

Rules (design §3):
- A lease has a holder and an epoch. Whoever takes it raises the epoch, by one statement that names the row as it was
  seen: of two who try, one wins.
- No clock is compared with another's. The holder changes ``expires_at`` again and again; who has seen the same row for
  long enough, by their own monotonic clock, may take it.
- Work under a lease carries its epoch: each of its transactions begins by looking for the row ``WHERE epoch = …``, and
  keeps it as it is until it has committed. So a takeover waits for what has begun, and after it nothing begins: a
  leader that was stopped and goes on writes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import case, literal, select, update

from meshca.store.conditional import insert_missing
from meshca.store.engine import Store, Transaction
from meshca.store.fencing import Fence, is_in_force
from meshca.store.schema import LEASES
from meshca.store.times import micros


@dataclass(frozen=True, slots=True)
class Held:
    """A lease as it was seen."""

    holder: str
    epoch: int
    expires_at: int


class Leases:
    """The leases of one database."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def read(self, name: str) -> Held | None:
        """Return who holds a lease; None where nobody ever has."""
        query = select(LEASES.c.holder, LEASES.c.epoch, LEASES.c.expires_at).where(LEASES.c.name == name)
        with self._store.read() as connection:
            row = connection.execute(query).first()
        return None if row is None else Held(*row)

    def take(self, name: str, seen: Held | None, until: datetime) -> Fence | None:
        """Take the lease as it was seen; None where it has changed since."""
        holder = self._store.writer

        def take(transaction: Transaction) -> Fence | None:
            row = {"name": name, "holder": holder, "epoch": 1, "expires_at": micros(until)}
            if seen is None:
                return Fence(name, 1) if insert_missing(transaction.connection, LEASES, row) else None
            same = (LEASES.c.name == name, LEASES.c.epoch == seen.epoch, LEASES.c.expires_at == seen.expires_at)
            taken = {"holder": holder, "epoch": seen.epoch + 1, "expires_at": micros(until)}
            won = transaction.connection.execute(update(LEASES).where(*same).values(taken)).rowcount == 1
            return Fence(name, seen.epoch + 1) if won else None

        return self._store.write(take)

    def renew(self, fence: Fence, until: datetime) -> bool:
        """Show that the holder is there; False where it holds the lease no more."""
        later = case((LEASES.c.expires_at < micros(until), literal(micros(until))), else_=LEASES.c.expires_at + 1)

        def renew(transaction: Transaction) -> bool:
            renewed = update(LEASES).where(is_in_force(fence)).values(expires_at=later)
            return transaction.connection.execute(renewed).rowcount == 1

        return self._store.write(renew)

    def release(self, fence: Fence) -> None:
        """Give the lease back: whoever comes next need not wait."""

        def release(transaction: Transaction) -> None:
            transaction.connection.execute(update(LEASES).where(is_in_force(fence)).values(holder=""))

        self._store.write(release)
