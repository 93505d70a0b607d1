"""Node agents, and what they join with.

Rules: a join token lets one key in: the first that comes with it while it is good, and for a minute again that one (an
answer may be lost). It is burnt by one conditional statement, in the transaction that writes the intent of the agent's
first certificate, so that whatever happens after it there is a record of whose key it was.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, and_, delete, func, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from meshca.authority.audit import AuditEntry
from meshca.authority.ports import Claim
from meshca.store.engine import Store, Transaction
from meshca.store.schema import AGENTS, JOIN_TOKENS
from meshca.store.times import micros, moment

REPEATED_WITHIN = timedelta(seconds=60)


@dataclass(frozen=True, slots=True)
class AgentRow:
    """An agent that has attested; serial and end are of its newest certificate."""

    id: str
    method: str
    attested_at: datetime
    serial: str
    not_after: datetime


class Agents:
    """The agents of one store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def list(self) -> list[AgentRow]:
        """Return every agent that has attested, by id."""
        with self._store.read() as connection:
            rows = connection.execute(select(AGENTS).order_by(AGENTS.c.id)).all()
        return [AgentRow(r.id, r.method, moment(r.attested_at), r.serial, moment(r.not_after)) for r in rows]

    def put(self, agent: AgentRow) -> None:
        """Note that an agent has attested, or has a newer certificate; a renewal has no method, and keeps the first."""
        row = {
            "id": agent.id,
            "method": agent.method,
            "attested_at": micros(agent.attested_at),
            "serial": agent.serial,
            "not_after": micros(agent.not_after),
        }
        changed = ("serial", "not_after", *(("method", "attested_at") if agent.method else ()))

        def put(transaction: Transaction) -> None:
            insert = postgresql.insert if transaction.connection.dialect.name == "postgresql" else sqlite.insert
            added = insert(AGENTS).values(row)
            values = {key: added.excluded[key] for key in changed}
            transaction.connection.execute(added.on_conflict_do_update(index_elements=["id"], set_=values))

        self._store.write(put)

    def forget(self, agent_id: str, audit: AuditEntry) -> None:
        """Remove an agent and the tokens that wait for it; its certificates are the ledger's matter."""

        def forget(transaction: Transaction) -> None:
            transaction.connection.execute(delete(AGENTS).where(AGENTS.c.id == agent_id))
            waiting = and_(JOIN_TOKENS.c.agent_id == agent_id, JOIN_TOKENS.c.burnt_at.is_(None))
            transaction.connection.execute(delete(JOIN_TOKENS).where(waiting))
            transaction.audit(audit)

        self._store.write(forget)

    # ---- join tokens

    def add_token(self, secret_hash: bytes, agent_id: str, expires: datetime, at: datetime, audit: AuditEntry) -> None:
        """Let an agent join; tokens that ended long ago are forgotten."""
        row = {
            "secret_hash": secret_hash.hex(),
            "agent_id": agent_id,
            "created_at": micros(at),
            "created_by": audit.actor,
            "expires_at": micros(expires),
        }
        over = JOIN_TOKENS.c.expires_at < micros(at - timedelta(days=1))

        def add(transaction: Transaction) -> None:
            transaction.connection.execute(delete(JOIN_TOKENS).where(over))
            transaction.connection.execute(JOIN_TOKENS.insert().values(row))
            transaction.audit(audit)

        self._store.write(add)

    def token_agent(self, secret_hash: bytes) -> str | None:
        """Return which agent a token is for, good or not; None: it is no token of ours."""
        query = select(JOIN_TOKENS.c.agent_id).where(JOIN_TOKENS.c.secret_hash == secret_hash.hex())
        with self._store.read() as connection:
            found: str | None = connection.execute(query).scalar()
            return found


def burn(connection: Connection, claim: Claim, at: int) -> bool:
    """Use up what a claim rests on; False where it is not, or no longer, good for this key."""
    fresh = and_(JOIN_TOKENS.c.burnt_at.is_(None), JOIN_TOKENS.c.expires_at > at)
    again = and_(JOIN_TOKENS.c.burnt_by == claim.key, JOIN_TOKENS.c.burnt_at > at - micros_of(REPEATED_WITHIN))
    used = (
        update(JOIN_TOKENS)
        .where(JOIN_TOKENS.c.secret_hash == claim.secret_hash, or_(fresh, again))
        .values(burnt_by=claim.key, burnt_at=func.coalesce(JOIN_TOKENS.c.burnt_at, at))
        .returning(JOIN_TOKENS.c.agent_id)
    )
    return connection.execute(used).first() is not None


def micros_of(span: timedelta) -> int:
    """Return a length of time in the unit of the store's times."""
    return span // timedelta(microseconds=1)
