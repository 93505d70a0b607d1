"""The realm and its trust: CAs, CRLs, the generation that counts their changes.

Rules: the generation grows by one with each change, by a conditional update that also makes two writers take turns;
a CRL number only grows; the newest CRL of each issuer is kept, and a few before it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, Table, delete, func, insert, select, update

from meshca.authority.lifetimes import Lifetimes
from meshca.authority.ports import Move, MovedOnError, Reparent
from meshca.authority.records import AuthorityRecord, Realm
from meshca.errors import ConflictError
from meshca.spiffe.id import TrustDomain
from meshca.store.conditional import insert_missing
from meshca.store.revocation import mark_listed
from meshca.store.schema import AUTHORITIES, CRLS, REALM
from meshca.store.times import micros, moment
from meshca.x509.crl import Crl

_KEPT_CRLS = 4
_MOMENTS = ("prepared_at", "activate_at", "activated_at", "retired_at", "tainted_at")
_STAMPS = {"active": "activated_at", "old": "retired_at"}


def load_realm(connection: Connection) -> Realm | None:
    """Return the realm, or None where there is none yet."""
    row = connection.execute(select(REALM)).first()
    if row is None:
        return None
    return Realm(
        trust_domain=TrustDomain(row.trust_domain),
        lifetimes=Lifetimes.from_text(json.loads(row.lifetimes)),
        created_at=moment(row.created_at),
    )


def insert_realm(connection: Connection, realm: Realm) -> None:
    """Write the realm with trust generation 1.

    Raises:
        ConflictError: there is one already.
    """
    row = {
        "id": 1,
        "trust_domain": realm.trust_domain.name,
        "created_at": micros(realm.created_at),
        "trust_generation": 1,
        "mesh_revision": 0,
        "lifetimes": json.dumps(realm.lifetimes.as_text(), sort_keys=True, separators=(",", ":")),
    }
    if not insert_missing(connection, REALM, row):
        raise ConflictError(
            "this database holds a trust domain already; nothing was changed", remedy="choose another home or database"
        )


def load_generation(connection: Connection) -> int:
    """Return the trust generation; 0 where there is no realm."""
    return connection.execute(select(REALM.c.trust_generation)).scalar() or 0


def advance_generation(connection: Connection, generation: int) -> None:
    """Make this the trust generation.

    Raises:
        MovedOnError: it is not the next one.
    """
    advanced = connection.execute(
        update(REALM).where(REALM.c.trust_generation == generation - 1).values(trust_generation=generation)
    )
    if advanced.rowcount != 1:
        raise MovedOnError(
            f"trust generation {generation} does not follow {load_generation(connection)}",
            remedy="read the trust again and repeat the change",
        )


def load_authorities(connection: Connection) -> list[AuthorityRecord]:
    """Return every CA, oldest generation first."""
    rows = connection.execute(
        select(AUTHORITIES).order_by(AUTHORITIES.c.generation, AUTHORITIES.c.role.desc(), AUTHORITIES.c.id)
    )
    return [_authority(row) for row in rows]


def insert_authority(connection: Connection, record: AuthorityRecord) -> None:
    """Add one CA.

    Raises:
        ConflictError: its id is known, or another CA of its role is active.
    """
    row = {
        "id": record.id,
        "role": record.role,
        "state": record.state,
        "generation": record.generation,
        "certificate": record.certificate,
        "parent_id": record.parent_id,
        "key_ref": record.key_ref,
        "not_before": micros(record.not_before),
        "not_after": micros(record.not_after),
        **moments_row(record),
    }
    if not insert_missing(connection, AUTHORITIES, row):
        raise ConflictError(f"CA {record.id} is known, or another {record.role} CA is {record.state} already")


def move_authority(connection: Connection, move: Move, table: Table = AUTHORITIES) -> None:
    """Change the state of one CA, or signing key.

    Raises:
        ConflictError: it is not in the state it is to leave.
    """
    values: dict[str, Any] = {"state": move.after}
    if stamp := _STAMPS.get(move.after):
        values[stamp] = micros(move.at)
    unchanged = (table.c.id == move.id) & (table.c.state == move.before)
    if connection.execute(update(table).where(unchanged).values(values)).rowcount != 1:
        what = "CA" if table is AUTHORITIES else "key"
        raise ConflictError(f"{what} {move.id} is not {move.before} any more")


def reparent(connection: Connection, wanted: Reparent) -> None:
    """Let one CA stand below another.

    Raises:
        ConflictError: it does not stand below the one that it is to leave.
    """
    unchanged = (AUTHORITIES.c.id == wanted.id) & (AUTHORITIES.c.parent_id == wanted.before)
    if connection.execute(update(AUTHORITIES).where(unchanged).values(parent_id=wanted.after)).rowcount != 1:
        raise ConflictError(f"CA {wanted.id} does not stand below {wanted.before} any more")


def hasten(connection: Connection, ca_id: str, at: datetime, table: Table = AUTHORITIES) -> bool:
    """Make the activation of a prepared CA, or signing key, due at this time, unless it is earlier already."""
    later = table.c.activate_at.is_(None) | (table.c.activate_at > micros(at))
    due = update(table).where(table.c.id == ca_id, table.c.state == "prepared", later)
    return connection.execute(due.values(activate_at=micros(at))).rowcount == 1


def taint(connection: Connection, ca_ids: Sequence[str], at: datetime, table: Table = AUTHORITIES) -> list[str]:
    """Mark those of the CAs, or signing keys, that are in use and not tainted yet, and return which these are."""
    wanted = (
        update(table)
        .where(table.c.id.in_(ca_ids), table.c.state != "removed", table.c.tainted_at.is_(None))
        .values(tainted_at=micros(at))
        .returning(table.c.id)
    )
    return sorted(connection.execute(wanted).scalars())


def insert_crls(connection: Connection, crls: Sequence[Crl]) -> None:
    """Store the CRLs and forget the oldest ones, once `advance_generation` has made writers take turns.

    Raises:
        ConflictError: a number is not higher than the issuer's newest.
    """
    for crl in sorted(crls, key=lambda crl: crl.issuer_id):
        newest = connection.execute(select(func.max(CRLS.c.number)).where(CRLS.c.issuer_id == crl.issuer_id)).scalar()
        if newest is not None and crl.number <= newest:
            raise ConflictError(f"CRL number {crl.number} of CA {crl.issuer_id} is not higher than {newest}")
        connection.execute(insert(CRLS).values(_crl_row(crl)))
        connection.execute(
            delete(CRLS).where(CRLS.c.issuer_id == crl.issuer_id, CRLS.c.number <= crl.number - _KEPT_CRLS)
        )
        mark_listed(connection, crl.issuer_id, crl.this_update)


def load_latest_crls(connection: Connection) -> dict[str, Crl]:
    """Return the newest CRL of each issuer, by CA id."""
    newest = select(CRLS.c.issuer_id, func.max(CRLS.c.number).label("number")).group_by(CRLS.c.issuer_id).subquery()
    same = (CRLS.c.issuer_id == newest.c.issuer_id) & (CRLS.c.number == newest.c.number)
    return {row.issuer_id: _crl(row) for row in connection.execute(select(CRLS).join(newest, same))}


def _authority(row: Row[Any]) -> AuthorityRecord:
    return AuthorityRecord(
        id=row.id,
        role=row.role,
        state=row.state,
        generation=row.generation,
        certificate=row.certificate,
        parent_id=row.parent_id,
        key_ref=row.key_ref,
        not_before=moment(row.not_before),
        not_after=moment(row.not_after),
        **moments_of(row),
    )


def moments_row(record: AuthorityRecord) -> dict[str, Any]:
    """Return when a CA, or a signing key, did what, as its row has it."""
    found = {name: getattr(record, name) for name in _MOMENTS}
    return {name: None if at is None else micros(at) for name, at in found.items()}


def moments_of(row: Row[Any]) -> dict[str, Any]:
    """Return the same as its record has it."""
    found = {name: getattr(row, name) for name in _MOMENTS}
    return {name: None if at is None else moment(at) for name, at in found.items()}


def _crl_row(crl: Crl) -> dict[str, Any]:
    return {
        "issuer_id": crl.issuer_id,
        "number": crl.number,
        "this_update": micros(crl.this_update),
        "next_update": micros(crl.next_update),
        "der": crl.der,
    }


def _crl(row: Row[Any]) -> Crl:
    return Crl(
        der=row.der,
        number=row.number,
        this_update=moment(row.this_update),
        next_update=moment(row.next_update),
        issuer_id=row.issuer_id,
    )
