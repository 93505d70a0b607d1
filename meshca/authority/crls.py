"""Planning and making CRLs.

Rules: thisUpdate is back-dated five minutes, because one that is in the future by a peer's clock refuses every
handshake; nextUpdate is the issuer's own notAfter, because once it has passed every handshake is refused (design §7);
numbers only grow (RFC 5280 §5.2.3); a new CRL is made only where one is missing, unfit, or lacks a revoked serial, so
that an entry that merely expired pushes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from functools import lru_cache

from cryptography import x509

from meshca.authority.ports import Signer
from meshca.authority.records import AuthorityRecord
from meshca.authority.trust import crl_faults
from meshca.x509.crl import Crl, CrlPlan, RevokedEntry, check_crl, finish_crl
from meshca.x509.issuer import Issuer
from meshca.x509.plan import whole_seconds
from meshca.x509.serial import serial_hex

BACK_DATING = timedelta(minutes=5)
FIRST_NUMBER = 1
_COMPROMISED = "cACompromise"


def next_plan(issuer: Issuer, latest: Crl | None, revoked: Iterable[RevokedEntry], at: datetime) -> CrlPlan | None:
    """Return the plan of the issuer's next CRL, or None while the latest still says all there is to say."""
    entries = tuple(revoked)
    if latest is not None and not crl_faults(issuer, latest, None, at) and not newly_listed(entries, latest):
        return None
    return plan_crl(issuer, FIRST_NUMBER if latest is None else latest.number + 1, entries, at)


def plan_crl(issuer: Issuer, number: int, revoked: tuple[RevokedEntry, ...], at: datetime) -> CrlPlan:
    """Return the plan of a CRL made at this moment."""
    return CrlPlan(
        issuer=issuer,
        number=number,
        this_update=whole_seconds(at - BACK_DATING),
        next_update=issuer.not_after,
        revoked=revoked,
    )


def tainted_children(parent_id: str, records: Iterable[AuthorityRecord], at: datetime) -> list[RevokedEntry]:
    """Return the CAs below one that were believed stolen and taken out of trust, until they expire."""
    return [
        RevokedEntry(x509.load_der_x509_certificate(record.certificate).serial_number, record.tainted_at, _COMPROMISED)
        for record in records
        if record.parent_id == parent_id != record.id
        if record.state == "removed" and record.tainted_at is not None and record.not_after > at
    ]


def united(*lists: Iterable[RevokedEntry]) -> tuple[RevokedEntry, ...]:
    """Return all entries by serial, each serial once."""
    by_serial = {entry.serial: entry for entries in lists for entry in entries}
    return tuple(by_serial[serial] for serial in sorted(by_serial))


def sign_crl(plan: CrlPlan, signer: Signer) -> Crl:
    """Make the CRL; the plan is checked before the signature, the CRL after it."""
    checked = check_crl(plan)
    return finish_crl(checked, signer.sign(checked.spend()))


def newly_listed(revoked: Iterable[RevokedEntry], latest: Crl | None) -> frozenset[str]:
    """Return the serials (hex) that the latest CRL does not list."""
    listed = frozenset() if latest is None else serials_on(latest.der)
    return frozenset(serial_hex(entry.serial) for entry in revoked if entry.serial not in listed)


@lru_cache(maxsize=8)
def serials_on(der: bytes) -> frozenset[int]:
    """Return the serials that a CRL lists; nothing for what is no CRL."""
    try:
        return frozenset(entry.serial_number for entry in x509.load_der_x509_crl(der))
    except ValueError:
        return frozenset()
