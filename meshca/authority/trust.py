"""What everybody in the trust domain trusts at one moment: a set of CAs, with one CRL for each.

Rules: a trust is immutable and whole; a CA whose certificate has expired or that was removed is not in it; exactly one
issuing CA is active; before a trust is emitted ``require_sound`` holds, because Envoy acknowledges a CRL that is not
signed by its CA, not yet valid, expired or missing, and then refuses every handshake. An upstream's CA may lack a CRL,
and one that ends before the next can have been fetched is left out: contexts then look up leaves alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import lru_cache
from types import MappingProxyType

from cryptography import x509

from meshca.authority.records import INTERMEDIATE, ISSUING, ROOT, AuthorityRecord
from meshca.errors import MeshcaError, UnavailableError
from meshca.spiffe.bundle import pem
from meshca.x509.crl import Crl
from meshca.x509.issuer import CaCertificate, Issuer
from meshca.x509.plan import BACKDATING
from meshca.x509.unreadable import UNREADABLE

# An upstream's CRL that ends within this time has left trust: more than two of the longest ticks, so that Envoys have
# the next one, or a context that does without, before it ends.
FOREIGN_MARGIN = timedelta(minutes=2)
_IN_USE = ("prepared", "active", "old")


class UnsoundTrustError(MeshcaError):
    """The trust would stop handshakes; it is not to be given to anybody. ``reasons`` names every fault."""

    def __init__(self, reasons: Iterable[str]) -> None:
        self.reasons = tuple(reasons)
        super().__init__("unsound trust: " + "; ".join(self.reasons))


class NoActiveAuthorityError(UnavailableError):
    """No issuing CA can sign now."""


@dataclass(frozen=True, slots=True)
class Trust:
    """Roots, an upstream's CAs, issuing CAs (prepared, active and old), and the newest CRL of each."""

    generation: int
    roots: tuple[CaCertificate, ...]
    intermediates: tuple[CaCertificate, ...]
    issuing: tuple[Issuer, ...]
    signing: AuthorityRecord | None  # the active issuing CA; None once it has expired
    chain: tuple[CaCertificate, ...]  # what a leaf of the active issuing CA carries: it, and an upstream's above it
    tainted: frozenset[str]  # CAs that are believed stolen
    foreign: frozenset[str]  # CAs whose keys, and so whose CRLs, are an upstream's
    crls: Mapping[str, Crl]
    bundle_pem: bytes = field(repr=False)
    crl_pem: bytes = field(repr=False)

    @property
    def active_record(self) -> AuthorityRecord:
        """Return the active issuing CA as the ledger has it.

        Raises:
            NoActiveAuthorityError: There is none that has not expired.
        """
        if self.signing is None:
            raise NoActiveAuthorityError("no unexpired issuing CA is active", remedy="see meshca status and ca show")
        return self.signing

    @property
    def active(self) -> Issuer:
        """Return the issuing CA that signs leaves.

        Raises:
            NoActiveAuthorityError: There is none that has not expired.
        """
        signing = self.active_record.id
        return next(issuer for issuer in self.issuing if issuer.id == signing)

    @property
    def authorities(self) -> tuple[CaCertificate, ...]:
        """Return every CA of every chain in use."""
        return (*self.roots, *self.intermediates, *self.issuing)

    @property
    def without_crl(self) -> tuple[CaCertificate, ...]:
        """Return the upstream's CAs that have no usable CRL."""
        return tuple(ca for ca in self.authorities if ca.id in self.foreign and ca.id not in self.crls)

    @property
    def leaf_crl_only(self) -> bool:
        """Whether an upstream offers no usable CRL of a CA of its own, so that only leaves can be looked up."""
        return bool(self.without_crl)

    @property
    def marks(self) -> tuple[object, ...]:
        """Return what differs wherever two trusts of one realm differ."""
        numbers = tuple((ca_id, crl.number) for ca_id, crl in self.crls.items())
        signing = "" if self.signing is None else self.signing.id
        return (self.generation, tuple(issuer.id for issuer in self.authorities), signing, numbers, self.tainted)

    @property
    def crl_number(self) -> int:
        """Return the CRL number of the active issuing CA; 0 where none is active."""
        return 0 if self.signing is None else self.crls[self.signing.id].number

    def authority(self, ca_id: str) -> CaCertificate | None:
        """Return the CA with this id."""
        return next((issuer for issuer in self.authorities if issuer.id == ca_id), None)

    def at(self, now: datetime) -> Trust:
        """Return this trust without the CAs that have expired since it was made: the next publication says the same.

        Their CRLs end with them, and a CRL that has ended keeps a context from Envoys (design §5).
        """
        if all(issuer.not_after > now for issuer in self.authorities):
            return self
        return _without_expired(self, now)

    def require_sound(self, now: datetime, *, after: Mapping[str, Crl] | None = None) -> None:
        """Check that nobody who is given this trust starts to refuse everybody.

        ``after`` holds the CRLs given out before; where one of them differs from this trust's, this one must be newer.
        A foreign CA may lack its CRL: then contexts say so (``leaf_crl_only``).

        Raises:
            UnsoundTrustError: With every reason.
        """
        faults = [f"the CRL of {stray} belongs to no CA in use" for stray in self._stray_crls()]
        for issuer in self.authorities:
            if issuer.id in self.crls or issuer.id not in self.foreign:
                faults += crl_faults(issuer, self.crls.get(issuer.id), (after or {}).get(issuer.id), now)
        if not self.roots or not self.bundle_pem:
            faults.append("there is no root")
        if faults:
            raise UnsoundTrustError(faults)

    def _stray_crls(self) -> list[str]:
        return sorted(self.crls.keys() - {issuer.id for issuer in self.authorities})


def build_trust(generation: int, records: Iterable[AuthorityRecord], crls: Mapping[str, Crl], at: datetime) -> Trust:
    """Put together what is in use at this moment; ``require_sound`` is the caller's next step.

    A foreign CA's CRL that cannot be used is left out, for Envoy would refuse every handshake with it.

    Raises:
        NoActiveAuthorityError: More than one issuing CA is active.
    """
    records = in_use(records, at)
    cas: dict[str, CaCertificate] = {record.id: ca_of(record) for record in records}
    foreign = frozenset(record.id for record in records if not record.is_ours)
    kept = {ca_id: crls[ca_id] for ca_id in cas if ca_id in crls and ca_id not in foreign}
    kept |= _usable_foreign([cas[ca_id] for ca_id in cas if ca_id in foreign], crls, at)
    signing = _active(records)
    roots, intermediates = (
        tuple(cas[record.id] for record in records if record.role == role) for role in (ROOT, INTERMEDIATE)
    )
    return Trust(
        generation=generation,
        roots=roots,
        intermediates=intermediates,
        issuing=tuple(_issuer(record) for record in records if record.role == ISSUING),
        signing=signing,
        chain=() if signing is None else _chain(signing, records, cas),
        tainted=frozenset(record.id for record in records if record.tainted_at is not None),
        foreign=foreign,
        crls=MappingProxyType(kept),
        bundle_pem=pem([root.certificate for root in roots]),
        crl_pem=_crl_pem(kept),
    )


def in_use(records: Iterable[AuthorityRecord], at: datetime) -> list[AuthorityRecord]:
    """Return the CAs that stand in a chain somebody may present, in a stable order."""
    kept = [record for record in records if record.state in _IN_USE and record.not_after > at]
    return sorted(kept, key=lambda record: (record.generation, record.id))


def _active(records: Iterable[AuthorityRecord]) -> AuthorityRecord | None:
    active = [record for record in records if record.role == ISSUING and record.state == "active"]
    if len(active) > 1:
        found = ", ".join(record.id for record in active)
        raise NoActiveAuthorityError("more than one issuing CA is active", value=found, remedy="see meshca ca show")
    return active[0] if active else None


def _chain(
    signing: AuthorityRecord, records: Iterable[AuthorityRecord], cas: Mapping[str, CaCertificate]
) -> tuple[CaCertificate, ...]:
    above = {record.id: record for record in records if record.role == INTERMEDIATE}
    found, record = [cas[signing.id]], signing
    while (parent := above.pop(record.parent_id, None)) is not None:
        found.append(cas[parent.id])
        record = parent
    return tuple(found)


def _without_expired(trust: Trust, now: datetime) -> Trust:
    roots, intermediates = (tuple(ca for ca in cas if ca.not_after > now) for cas in (trust.roots, trust.intermediates))
    issuing = tuple(issuer for issuer in trust.issuing if issuer.not_after > now)
    ids = {ca.id for ca in (*roots, *intermediates, *issuing)}
    crls = {ca_id: crl for ca_id, crl in trust.crls.items() if ca_id in ids}
    return replace(
        trust,
        roots=roots,
        intermediates=intermediates,
        issuing=issuing,
        signing=trust.signing if trust.signing and trust.signing.id in ids else None,
        tainted=trust.tainted & ids,
        foreign=trust.foreign & ids,
        crls=MappingProxyType(crls),
        bundle_pem=pem([root.certificate for root in roots]),
        crl_pem=_crl_pem(crls),
    )


def _usable_foreign(cas: Iterable[CaCertificate], crls: Mapping[str, Crl], at: datetime) -> dict[str, Crl]:
    """Return the CRLs of an upstream's CAs that Envoys can be given.

    An upstream may renew the certificate of a key: what that key has signed last is the CRL of both.
    """
    cas, found = list(cas), {}
    for ca in cas:
        twins = [crls[twin.id] for twin in cas if same_key(ca, twin) and twin.id in crls]
        newest = max(twins, key=lambda crl: crl.number, default=None)
        if newest is None or newest.next_update <= at + FOREIGN_MARGIN or newest.this_update > at - BACKDATING:
            continue  # ending, or so young that an Envoy whose clock is behind would refuse every handshake
        crl = replace(newest, issuer_id=ca.id)
        if not crl_faults(ca, crl, None, at):
            found[ca.id] = crl
    return found


def _crl_pem(crls: Mapping[str, Crl]) -> bytes:
    return b"".join({crl.der: crl.pem for crl in crls.values()}.values())


def same_key(one: CaCertificate, other: CaCertificate) -> bool:
    """Whether two are certificates of one CA, renewed say: what either has signed counts for both."""
    return (one.subject, one.spki) == (other.subject, other.spki)


@lru_cache(maxsize=64)
def _issuer(record: AuthorityRecord) -> Issuer:
    return Issuer.from_der(record.id, record.certificate)


@lru_cache(maxsize=64)
def ca_of(record: AuthorityRecord) -> CaCertificate:
    """Return the CA of a record as verifiers see it."""
    return _issuer(record) if record.is_ours else CaCertificate.foreign(record.certificate)


def crl_faults(issuer: CaCertificate, crl: Crl | None, before: Crl | None, now: datetime) -> list[str]:
    """Return what makes this CRL unfit (RFC 5280 §6.3.3; measured on Envoy 1.40, design §5)."""
    if crl is None:
        return [f"there is no CRL of CA {issuer.id}"]
    faults = []
    if before is not None and crl.der != before.der and crl.number <= before.number:
        faults.append(f"number {crl.number} is not above {before.number}")
    if crl.this_update > now:
        faults.append(f"thisUpdate {crl.this_update.isoformat()} is in the future")
    if crl.next_update <= now:
        faults.append(f"nextUpdate {crl.next_update.isoformat()} has passed")
    faults += _content_faults(issuer, crl)
    return [f"CRL of CA {issuer.id}: {fault}" for fault in faults]


@lru_cache(maxsize=32)
def _content_faults(issuer: CaCertificate, crl: Crl) -> tuple[str, ...]:
    """Return where the DER, which is what Envoy reads, differs from what we believe of it.

    Remembered, because it is asked before every push and both are immutable.
    """
    try:
        parsed = x509.load_der_x509_crl(crl.der)
        number = parsed.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    except UNREADABLE as error:
        return (f"cannot be read: {error}",)
    faults = []
    if parsed.issuer.public_bytes() != issuer.subject:
        faults.append("issued by another name")
    if number != crl.number:
        faults.append(f"says number {number}, not {crl.number}")
    if parsed.last_update_utc != crl.this_update or parsed.next_update_utc != crl.next_update:
        faults.append("says other times than its record")
    if not parsed.is_signature_valid(issuer.public_key):
        faults.append("the signature is not the CA's")
    return tuple(faults)
