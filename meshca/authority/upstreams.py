"""Where an issuing CA is certified when its root isn't ours.

Rules: what an upstream returns is checked before anything is stored (x509/foreign.py): it certifies our key, allows
what an issuing CA needs, and leads to a root; its CAs become records without a key, and their CRLs are never made here.
A number of a CRL never goes back, and a CRL that would end every handshake is not put in force.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Protocol

from cryptography import x509

from meshca.authority.certify import CaWish
from meshca.authority.crls import serials_on
from meshca.authority.ports import CertifiedKey, Move, Reparent
from meshca.authority.records import INTERMEDIATE, ROOT, AuthorityRecord
from meshca.authority.trust import ca_of, in_use, same_key
from meshca.errors import MeshcaError, UnavailableError
from meshca.x509.crl import Crl
from meshca.x509.foreign import Expected, ForeignChain, ForeignChainError, check_chain
from meshca.x509.foreigncrl import ForeignCrlError, foreign_crl, is_signed_by
from meshca.x509.issuer import CaCertificate
from meshca.x509.plan import BACKDATING

_CEREMONY = "make a request with `meshca ca csr`, have it signed, and bring it with `meshca ca import`"


class UpstreamError(UnavailableError):
    """The upstream does not certify our CA now, or not as it has to be; nothing was changed."""


@dataclass(frozen=True, slots=True)
class Certification:
    """What an upstream is asked for."""

    csr: bytes  # DER
    organization: str
    common_name: str
    uri: str
    life: timedelta
    now: datetime


class Upstream(Protocol):
    """A CA elsewhere that certifies our issuing CAs. Any thread may call it."""

    def require_ready(self) -> None:
        """Check that it would answer, before a key is made for it.

        Raises:
            UnavailableError: It would not.
        """

    def certify(self, wanted: Certification) -> tuple[bytes, ...]:
        """Return the certificates (DER): our CA's first, then upward, the root last.

        Raises:
            UnavailableError: It does not answer, or refuses.
        """

    def crls(self, cas: Sequence[CaCertificate]) -> tuple[bytes, ...]:
        """Return the CRLs (DER) of those of its CAs that it has them for.

        Raises:
            UnavailableError: It does not answer.
        """


class NoUpstream:
    """There is none that answers: the root is ours, or an operator brings each chain."""

    def require_ready(self) -> None:
        """Refuse.

        Raises:
            UpstreamError: Always.
        """
        raise UpstreamError("no key of ours can certify a new issuing CA, and no upstream answers", remedy=_CEREMONY)

    def certify(self, wanted: Certification) -> tuple[bytes, ...]:
        """Refuse.

        Raises:
            UpstreamError: Always.
        """
        raise UpstreamError("no upstream is configured that certifies", value=wanted.common_name, remedy=_CEREMONY)

    def crls(self, cas: Sequence[CaCertificate]) -> tuple[bytes, ...]:
        """Return none: an operator brings them."""
        del cas
        return ()


@dataclass(frozen=True, slots=True)
class UpstreamChain:
    """A new issuing CA, and those of the CAs above it that are new, come back or have a renewed CA above themselves.

    ``cas`` are all of the chain.
    """

    issuing: AuthorityRecord
    above: tuple[AuthorityRecord, ...]
    returning: tuple[Move, ...]
    reparented: tuple[Reparent, ...]
    cas: tuple[CaCertificate, ...]


@dataclass(frozen=True, slots=True)
class Known:
    """What the ledger knows when a chain arrives."""

    records: Sequence[AuthorityRecord]
    crls: Mapping[str, Crl]


def accepted(ders: Sequence[bytes], wish: CaWish, key: CertifiedKey, known: Known) -> UpstreamChain:
    """Judge a chain for the key, and return what is to be stored of it.

    Raises:
        ForeignChainError: It breaks a rule, or some CA of it was revoked or is tainted.
    """
    ours = frozenset(ca_of(record).spki for record in known.records if record.is_ours)
    chain = check_chain(ders, Expected(key.spki, wish.trust_domain, wish.now, wish.least, ours))
    cas = (chain.issuing, *chain.above)
    _require_unrevoked(cas, known)
    issuing, above, returning = _records(chain, wish, key, known.records)
    return UpstreamChain(issuing, above, returning, tuple(_reparented(chain, known.records)), cas)


def travelling(chain: UpstreamChain, ders: Sequence[bytes], known: Known, now: datetime) -> NewerCrls:
    """Return the CRLs that come with a chain; also those of an upstream's other CAs in use.

    Raises:
        ForeignChainError: Some CA of the chain stands on one of them.
    """
    others = [ca for ca in foreign_in_use(known.records, now) if ca not in chain.cas]
    found = newer_crls(ders, [*chain.cas[1:], *others], known, now)
    _require_unrevoked(chain.cas, Known(known.records, {**known.crls, **{crl.issuer_id: crl for crl in found.crls}}))
    return found


def _records(
    chain: ForeignChain, wish: CaWish, key: CertifiedKey, known: Sequence[AuthorityRecord]
) -> tuple[AuthorityRecord, tuple[AuthorityRecord, ...], tuple[Move, ...]]:
    by_id = {record.id: record for record in known}
    parents = [*(ca.id for ca in chain.above), chain.above[-1].id]
    issuing = wish.record(chain.issuing.certificate, chain.issuing, parents[0], key, until=chain.not_after)
    added, returning = [], []
    for place, ca in enumerate(chain.above):
        record = by_id.get(ca.id)
        if record is None:
            role = ROOT if place == len(chain.above) - 1 else INTERMEDIATE
            added.append(wish.foreign_record(ca, role, parents[place + 1]))
        elif record.tainted_at is not None:
            raise ForeignChainError([f"certificate {place + 2} is of the CA {record.id}, which is tainted"])
        elif record.state in ("old", "removed"):
            returning.append(Move(record.id, record.state, "prepared", wish.now))
    return issuing, tuple(added), tuple(returning)


def _reparented(chain: ForeignChain, known: Sequence[AuthorityRecord]) -> Iterator[Reparent]:
    """Yield the known CAs of a chain whose signer's certificate was renewed: else that would never take office."""
    parents = {record.id: record.parent_id for record in known}
    for ca, parent in pairwise(chain.above):
        if parents.get(ca.id, parent.id) != parent.id:
            yield Reparent(ca.id, parents[ca.id], parent.id)


def _require_unrevoked(cas: Sequence[CaCertificate], known: Known) -> None:
    for place, (below, above) in enumerate(pairwise(cas), start=1):
        ids = {above.id, *_with_key_of(above, known.records)}
        crl = max((known.crls[ca_id] for ca_id in ids & known.crls.keys()), key=lambda crl: crl.number, default=None)
        if crl is not None and _serial(below) in serials_on(crl.der):
            raise ForeignChainError([f"certificate {place} stands on the CRL (number {crl.number}) of its own CA"])


def crls_of(upstream: Upstream, chain: UpstreamChain) -> tuple[bytes, ...]:
    """Return the CRLs of a new chain's CAs; without them only leaves are looked up until the next fetch."""
    try:
        return upstream.crls(chain.cas[1:])
    except UnavailableError:
        return ()


@dataclass(frozen=True, slots=True)
class NewerCrls:
    """Which CRLs are to be stored, and what is wrong with others."""

    crls: tuple[Crl, ...]
    faults: tuple[str, ...]


def newer_crls(ders: Iterable[bytes], cas: Sequence[CaCertificate], known: Known, now: datetime) -> NewerCrls:
    """Return those CRLs of an upstream's CAs that are newer than what is known of each, the newest of each."""
    newest: dict[str, Crl] = {}
    faults: list[str] = []
    for der in ders:
        signers = [ca for ca in cas if is_signed_by(der, ca)]
        if not signers:
            faults.append("a CRL is signed by no CA of the upstream that is in use")
        for ca in signers:
            try:
                crl = _usable(der, ca, known, now)
            except ForeignCrlError as error:
                faults.append(str(error))
                continue
            if crl is not None and (ca.id not in newest or crl.number > newest[ca.id].number):
                newest[ca.id] = crl
    return NewerCrls(tuple(newest.values()), tuple(dict.fromkeys(faults)))


def _usable(der: bytes, ca: CaCertificate, known: Known, now: datetime) -> Crl | None:
    """Return the CRL, or None where it is known already."""
    crl, latest = foreign_crl(der, ca), known.crls.get(ca.id)
    if latest is not None and latest.der == crl.der:
        return None
    if latest is not None and crl.number <= latest.number:
        raise ForeignCrlError(f"its number {crl.number} is not above {latest.number}, which is known already", ca.id)
    if crl.this_update > now:
        raise ForeignCrlError(f"it is valid from {crl.this_update.isoformat()} only: see to the clocks", ca.id)
    if crl.next_update <= now:
        raise ForeignCrlError(f"it ended at {crl.next_update.isoformat()}", ca.id)
    if revoked := list(_in_use_and_on(crl, ca, known.records, now)):
        raise ForeignCrlError(
            f"it revokes {', '.join(record.id for record in revoked)}, which is in use: put in force, it would end "
            "every handshake",
            ca.id,
            remedy=f"`meshca ca taint {revoked[0].id}` replaces it; the CRL follows",
        )
    return crl


def _in_use_and_on(
    crl: Crl, ca: CaCertificate, records: Sequence[AuthorityRecord], now: datetime
) -> Iterator[AuthorityRecord]:
    listed = serials_on(crl.der)
    signers = set(_with_key_of(ca, records)) if listed else set()
    for record in in_use(records, now) if listed else ():
        if record.parent_id in signers - {record.id} and _serial(ca_of(record)) in listed:
            yield record


def _with_key_of(ca: CaCertificate, records: Iterable[AuthorityRecord]) -> Iterator[str]:
    """Yield the upstream's CAs that have this one's key: an upstream may have renewed its certificate."""
    return (record.id for record in records if not record.is_ours and same_key(ca_of(record), ca))


def is_settled(crl: Crl, now: datetime) -> bool:
    """Whether a CRL is old enough for Envoys whose clock is behind: they refuse every handshake with a future one."""
    return crl.this_update <= now - BACKDATING


def foreign_in_use(records: Iterable[AuthorityRecord], now: datetime) -> tuple[CaCertificate, ...]:
    """Return the upstream's CAs that stand in a chain in use."""
    return tuple(ca_of(record) for record in in_use(records, now) if not record.is_ours)


def refused(error: MeshcaError) -> UpstreamError:
    """Return what is told of an upstream's answer that is not to be used."""
    return UpstreamError(f"what the upstream returned is not to be used: {error.message}", remedy=error.remedy)


def _serial(ca: CaCertificate) -> int:
    return x509.load_der_x509_certificate(ca.certificate).serial_number
