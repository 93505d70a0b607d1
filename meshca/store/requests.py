"""The request for an issuing CA's certificate that waits for its chain.

Rules: there is one row for the role, so that two replicas cannot have two requests pending; a request has been answered
when its CA is known, and only then gives its place to another.
"""

from __future__ import annotations

from sqlalchemy import Connection, select
from sqlalchemy.dialects import postgresql, sqlite

from meshca.authority.records import ISSUING, CaRequest
from meshca.store.schema import AUTHORITIES, CA_REQUESTS
from meshca.store.times import micros, moment

_ANSWERED = CA_REQUESTS.c.key_id.in_(select(AUTHORITIES.c.id))


def load_pending(connection: Connection) -> CaRequest | None:
    """Return the request whose CA is not known yet."""
    row = connection.execute(select(CA_REQUESTS).where(~_ANSWERED)).first()
    return None if row is None else CaRequest(row.key_id, row.key_ref, row.csr, moment(row.created_at))


def keep(connection: Connection, request: CaRequest) -> bool:
    """Keep a request, in the place of one that was answered; False while one is pending."""
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    row = {
        "key_id": request.key_id,
        "key_ref": request.key_ref,
        "csr": request.csr,
        "created_at": micros(request.created_at),
    }
    kept = insert(CA_REQUESTS).values(role=ISSUING, **row)
    kept = kept.on_conflict_do_update(index_elements=[CA_REQUESTS.c.role], set_=row, where=_ANSWERED)
    return connection.execute(kept.returning(CA_REQUESTS.c.role)).first() is not None
