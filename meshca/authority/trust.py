"""What everybody in the trust domain trusts at one moment: a set of CAs, with one CRL for each.

Rules: a trust is immutable and whole; a CA whose certificate has expired or that was removed is not in it; exactly one
issuing CA is active; before a trust is emitted ``require_sound`` holds, because Envoy acknowledges a CRL that is not
signed by its CA, not yet valid, expired or missing, and then refuses every handshake.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from types import MappingProxyType

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

from meshca.authority.records import ISSUING, ROOT, AuthorityRecord
from meshca.errors import MeshcaError, UnavailableError
from meshca.spiffe.bundle import pem
from meshca.x509.crl import Crl
from meshca.x509.issuer import Issuer

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
    """Roots, issuing CAs (prepared, active and old) and the newest CRL of each."""

    generation: int
    roots: tuple[Issuer, ...]
    issuing: tuple[Issuer, ...]
    active: Issuer
    active_key_ref: str  # which key signs for the active issuing CA
    crls: Mapping[str, Crl]
    bundle_pem: bytes = field(repr=False)
    crl_pem: bytes = field(repr=False)

    @property
    def authorities(self) -> tuple[Issuer, ...]:
        """Return every CA of every chain in use."""
        return self.roots + self.issuing

    @property
    def marks(self) -> tuple[object, ...]:
        """Return what differs wherever two trusts of one realm differ."""
        numbers = tuple((ca_id, crl.number) for ca_id, crl in self.crls.items())
        return (self.generation, tuple(issuer.id for issuer in self.authorities), self.active.id, numbers)

    @property
    def crl_number(self) -> int:
        """Return the CRL number of the active issuing CA."""
        return self.crls[self.active.id].number

    def authority(self, ca_id: str) -> Issuer | None:
        """Return the CA with this id."""
        return next((issuer for issuer in self.authorities if issuer.id == ca_id), None)

    def require_sound(self, now: datetime, *, after: Mapping[str, Crl] | None = None) -> None:
        """Check that nobody who is given this trust starts to refuse everybody.

        ``after`` holds the CRLs given out before; where one of them differs from this trust's, this one must be newer.

        Raises:
            UnsoundTrustError: With every reason.
        """
        faults = [f"the CRL of {stray} belongs to no CA in use" for stray in self._stray_crls()]
        for issuer in self.authorities:
            faults += crl_faults(issuer, self.crls.get(issuer.id), (after or {}).get(issuer.id), now)
        if not self.roots or not self.bundle_pem:
            faults.append("there is no root")
        if faults:
            raise UnsoundTrustError(faults)

    def _stray_crls(self) -> list[str]:
        return sorted(self.crls.keys() - {issuer.id for issuer in self.authorities})


def build_trust(generation: int, records: Iterable[AuthorityRecord], crls: Mapping[str, Crl], at: datetime) -> Trust:
    """Put together what is in use at this moment; ``require_sound`` is the caller's next step.

    Raises:
        NoActiveAuthorityError: There is no unexpired active issuing CA, or more than one.
    """
    records = in_use(records, at)
    issuers = {record.id: Issuer.from_der(record.id, record.certificate) for record in records}
    roots = tuple(issuers[record.id] for record in records if record.role == ROOT)
    issuing = tuple(issuers[record.id] for record in records if record.role == ISSUING)
    active = _active(records)
    kept = {issuer.id: crls[issuer.id] for issuer in roots + issuing if issuer.id in crls}
    return Trust(
        generation=generation,
        roots=roots,
        issuing=issuing,
        active=issuers[active.id],
        active_key_ref=active.key_ref,
        crls=MappingProxyType(kept),
        bundle_pem=pem([root.certificate for root in roots]),
        crl_pem=b"".join(crl.pem for crl in kept.values()),
    )


def in_use(records: Iterable[AuthorityRecord], at: datetime) -> list[AuthorityRecord]:
    """Return the CAs that stand in a chain somebody may present, in a stable order."""
    kept = [record for record in records if record.state in _IN_USE and record.not_after > at]
    return sorted(kept, key=lambda record: (record.generation, record.id))


def _active(records: Iterable[AuthorityRecord]) -> AuthorityRecord:
    active = [record for record in records if record.role == ISSUING and record.state == "active"]
    if len(active) != 1:
        found = ", ".join(record.id for record in active) or "none"
        raise NoActiveAuthorityError(
            "exactly one unexpired issuing CA must be active", value=found, remedy="see meshca ca show"
        )
    return active[0]


def crl_faults(issuer: Issuer, crl: Crl | None, before: Crl | None, now: datetime) -> list[str]:
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
def _content_faults(issuer: Issuer, crl: Crl) -> tuple[str, ...]:
    """Return where the DER, which is what Envoy reads, differs from what we believe of it.

    Remembered, because it is asked before every push and both are immutable.
    """
    try:
        parsed = x509.load_der_x509_crl(crl.der)
        number = parsed.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    except (ValueError, x509.ExtensionNotFound) as error:
        return (f"cannot be read: {error}",)
    faults = []
    if parsed.issuer.public_bytes() != issuer.subject:
        faults.append("issued by another name")
    if number != crl.number:
        faults.append(f"says number {number}, not {crl.number}")
    if parsed.last_update_utc != crl.this_update or parsed.next_update_utc != crl.next_update:
        faults.append("says other times than its record")
    if not _signed_by(parsed, issuer):
        faults.append("the signature is not the CA's")
    return tuple(faults)


def _signed_by(parsed: x509.CertificateRevocationList, issuer: Issuer) -> bool:
    key = issuer.public_key
    return isinstance(key, EllipticCurvePublicKey) and parsed.is_signature_valid(key)
