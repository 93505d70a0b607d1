"""From what the ledger holds to the next trust.

Rules: all CRLs that are due are built, the whole trust is checked with them, and only then is anything stored; what
cannot be made or is unsound changes nothing. The trust generation grows by one with each change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from meshca.authority import audit
from meshca.authority.audit import AuditEntry
from meshca.authority.crls import next_plan, serials_on, sign_crl
from meshca.authority.issuing import signer_of
from meshca.authority.ports import Ledger, Signer
from meshca.authority.records import AuthorityRecord
from meshca.authority.trust import Trust, build_trust, in_use
from meshca.x509.crl import Crl
from meshca.x509.issuer import Issuer
from meshca.x509.serial import serial_hex

ACTOR = "authority"


@dataclass(frozen=True, slots=True)
class Publishing:
    """Makes the next trust. It keeps no state; its caller lets one publication run at a time."""

    ledger: Ledger
    signers: Mapping[str, Signer]

    def stored(self, at: datetime) -> Trust:
        """Return the trust as it stands in the ledger, unchecked.

        Raises:
            NoActiveAuthorityError: No issuing CA can sign now.
        """
        return build_trust(self.ledger.generation(), self.ledger.authorities(), self.ledger.latest_crls(), at)

    def next(self, current: Trust | None, at: datetime) -> Trust:
        """Return a sound trust that lists all that is revoked, having stored what is new in it.

        Raises:
            UnsoundTrustError: Nothing was stored.
            KeyUnavailableError: A CRL is due whose CA cannot sign now; nothing was stored.
            ConflictError: Another process was faster; nothing was stored.
        """
        generation, records = self.ledger.generation(), in_use(self.ledger.authorities(), at)
        latest = self.ledger.latest_crls()
        fresh = self._fresh_crls(records, latest, at)
        if not fresh and not _set_changed(current, generation, records):
            trust = build_trust(generation, records, latest, at)
            trust.require_sound(at)
            return trust
        trust = build_trust(generation + 1, records, {**latest, **fresh}, at)
        trust.require_sound(at, after=latest)
        self.ledger.store_crls(list(fresh.values()), trust.generation, _entries(trust, list(fresh.values())))
        return trust

    def _fresh_crls(
        self, records: Sequence[AuthorityRecord], latest: Mapping[str, Crl], at: datetime
    ) -> dict[str, Crl]:
        fresh = {}
        for record in records:
            issuer = Issuer.from_der(record.id, record.certificate)
            plan = next_plan(issuer, latest.get(record.id), self.ledger.revoked(record.id, at), at)
            if plan is not None:
                fresh[record.id] = sign_crl(plan, signer_of(self.signers, record.key_ref))
        return fresh


def listed_since(before: Trust | None, trust: Trust) -> frozenset[str]:
    """Return the serials (hex) that stand on this trust's CRLs and did not before; none where there is no before."""
    if before is None:
        return frozenset()
    return frozenset(
        serial_hex(serial)
        for ca_id, crl in trust.crls.items()
        for serial in serials_on(crl.der) - (serials_on(before.crls[ca_id].der) if ca_id in before.crls else set())
    )


def _set_changed(current: Trust | None, generation: int, records: Sequence[AuthorityRecord]) -> bool:
    """Whether a CA has left (expired) or entered without a new generation; another generation says it all itself."""
    if current is None or current.generation != generation:
        return False
    return {issuer.id for issuer in current.authorities} != {record.id for record in records}


def _entries(trust: Trust, crls: Sequence[Crl]) -> list[AuditEntry]:
    reason = f"trust generation {trust.generation}"
    return [
        AuditEntry(audit.PUBLISH_CRL, crl.issuer_id, audit.OK, f"number {crl.number}, {reason}", ACTOR) for crl in crls
    ] or [AuditEntry(audit.ROTATE, "trust", audit.OK, f"the set of CAs changed, {reason}", ACTOR)]
