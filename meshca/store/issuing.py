"""Intents and results: the two writes of every certificate.

Rules: an intent is inserted only where no suspension of its identity exists, its CA is not out of office, and issuance
is not frozen, by the inserting statement itself. A result replaces the intent's TBS, which the certificate contains
byte for byte, and only while the intent is pending and not revoked, its CA as before, and issuance not frozen. Both run
as prepared statements: this path bounds how many certificates a second can be issued.

A CA is out of office once it has been removed, or has been replaced and is believed stolen: another process may have
done that since ours has read its trust, or while a slow key store signed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    and_,
    bindparam,
    exists,
    insert,
    literal_column,
    null,
    or_,
    select,
    update,
)

from meshca.authority.ports import Abandoned, Intent, Result
from meshca.errors import ConflictError
from meshca.store.agents import burn
from meshca.store.conditional import share_suspensions
from meshca.store.errors import breaks_constraint
from meshca.store.freezing import IS_FROZEN
from meshca.store.prepared import Prepared
from meshca.store.schema import AUTHORITIES, CERTIFICATES, SUSPENSIONS
from meshca.store.times import micros

_PENDING: ColumnElement[str] = literal_column("'pending'")
_FIELDS = "serial spiffe_id issuer_id tbs not_before not_after holder kind requested_by created_at"
_GIVEN = [CERTIFICATES.c[name] for name in _FIELDS.split()]


def _out_of_office(issuer_id: ColumnElement[str]) -> ColumnElement[bool]:
    replaced = and_(AUTHORITIES.c.tainted_at.is_not(None), AUTHORITIES.c.state == literal_column("'old'"))
    gone = or_(AUTHORITIES.c.state == literal_column("'removed'"), replaced)
    return exists(literal_column("1")).where(AUTHORITIES.c.id == issuer_id, gone).correlate(CERTIFICATES)


_INSERT_INTENT = Prepared(
    insert(CERTIFICATES).from_select(
        [*_GIVEN, CERTIFICATES.c.state],
        select(*[bindparam(column.name, type_=column.type) for column in _GIVEN], _PENDING).where(
            ~exists(literal_column("1"))
            .where(SUSPENSIONS.c.spiffe_id == bindparam("spiffe_id", type_=SUSPENSIONS.c.spiffe_id.type))
            .correlate(None),
            ~_out_of_office(bindparam("issuer_id", type_=CERTIFICATES.c.issuer_id.type)),
            ~IS_FROZEN,
        ),
    )
)

_OPEN = (
    CERTIFICATES.c.serial == bindparam("intent", type_=CERTIFICATES.c.serial.type),
    CERTIFICATES.c.state == _PENDING,
    CERTIFICATES.c.revoked_at.is_(None),
)
_ISSUE = Prepared(
    update(CERTIFICATES)
    .where(*_OPEN, ~_out_of_office(CERTIFICATES.c.issuer_id), ~IS_FROZEN)
    .values(
        state=literal_column("'issued'"),
        tbs=null(),
        certificate=bindparam("der", type_=CERTIFICATES.c.certificate.type),
    )
)
_ABANDON = Prepared(update(CERTIFICATES).where(*_OPEN).values(state=literal_column("'abandoned'")))


def insert_intents(connection: Connection, intents: Sequence[Intent]) -> list[bool]:
    """Write the intents; False for each whose identity is suspended or whose CA is out of office, for all while frozen.

    Raises:
        ConflictError: a serial has been used before; none of the intents was written.
    """
    share_suspensions(connection)
    try:
        counts = iter(
            _INSERT_INTENT.run_each(connection, [_intent_row(intent) for intent in intents if not intent.claim])
        )
        return [_claimed(connection, intent) if intent.claim else next(counts) == 1 for intent in intents]
    except Exception as error:
        if breaks_constraint(error):
            raise ConflictError(
                "a serial number has been used before", remedy="call again: a new one is drawn"
            ) from error
        raise


def _claimed(connection: Connection, intent: Intent) -> bool:
    """Write an intent and use up what it claims, both or neither."""
    both = connection.begin_nested()
    [count] = _INSERT_INTENT.run_each(connection, [_intent_row(intent)])
    if count == 1 and intent.claim and burn(connection, intent.claim, micros(intent.created_at)):
        both.commit()
        return True
    both.rollback()
    return False


def finish_intents(connection: Connection, results: Sequence[Result | Abandoned]) -> list[bool]:
    """Turn pending intents into certificates or give them up; False for each that is not pending, or revoked.

    While issuance is frozen none becomes a certificate, nor does one of a CA that is out of office.
    """
    share_suspensions(connection)
    issued = [{"intent": result.serial, "der": result.certificate} for result in results if isinstance(result, Result)]
    given_up = [{"intent": result.serial} for result in results if isinstance(result, Abandoned)]
    done = iter(_ISSUE.run_each(connection, issued))
    gone = iter(_ABANDON.run_each(connection, given_up))
    return [next(done if isinstance(result, Result) else gone) == 1 for result in results]


def _intent_row(intent: Intent) -> dict[str, Any]:
    return {
        "serial": intent.serial,
        "spiffe_id": str(intent.spiffe_id),
        "issuer_id": intent.issuer_id,
        "tbs": intent.tbs,
        "not_before": micros(intent.not_before),
        "not_after": micros(intent.not_after),
        "holder": intent.holder,
        "kind": intent.kind,
        "requested_by": intent.requested_by,
        "created_at": micros(intent.created_at),
    }
