"""From what the ledger holds to the next trust.

Rules: all CRLs that are due are built, the whole trust is checked with them, and only then is anything stored; what
cannot be made or is unsound changes nothing; save that leaves don't wait for a root: where its key does not sign now
and its last CRL is still good, the others are published, and it is named. The trust generation grows by one with each
change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from types import MappingProxyType

from meshca.authority import audit
from meshca.authority.audit import AuditEntry
from meshca.authority.certify import issuer_of
from meshca.authority.crls import next_plan, serials_on, sign_crl, tainted_children, united
from meshca.authority.ports import Keys, KeyUnavailableError, Ledger
from meshca.authority.records import ROOT, AuthorityRecord
from meshca.authority.trust import Trust, build_trust, ca_of, crl_faults, in_use
from meshca.x509.crl import Crl
from meshca.x509.serial import serial_hex

ACTOR = "authority"
_NONE: Mapping[str, Crl] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Published:
    """A sound trust, and why a root's CRL in it does not say all yet."""

    trust: Trust
    overdue: KeyUnavailableError | None = None


@dataclass(frozen=True, slots=True)
class Publishing:
    """Makes the next trust. It keeps no state; its caller lets one publication run at a time."""

    ledger: Ledger
    keys: Keys

    def stored(self, at: datetime) -> Trust:
        """Return the trust as it stands in the ledger, unchecked.

        Raises:
            NoActiveAuthorityError: No issuing CA can sign now.
        """
        return build_trust(self.ledger.generation(), self.ledger.authorities(), self.ledger.latest_crls(), at)

    def next(self, current: Trust | None, at: datetime, foreign: Mapping[str, Crl] = _NONE) -> Published:
        """Return a sound trust that lists all revoked leaves, having stored what is new in it.

        ``foreign`` holds an upstream's CRLs that have just come. Before the first CA there is nothing that could be
        sound or unsound, and the empty trust is returned.

        Raises:
            UnsoundTrustError: Nothing was stored.
            KeyUnavailableError: A CRL is due whose CA cannot sign now, and not a root's alone; nothing was stored.
            ConflictError: Another process was faster; nothing was stored.
        """
        generation, known = self.ledger.generation(), self.ledger.authorities()
        records, latest = in_use(known, at), self.ledger.latest_crls()
        made, overdue = self._fresh_crls(records, known, latest, at)
        fresh = {**made, **_newer(foreign, latest, records)}
        trust = build_trust(generation, records, {**latest, **fresh}, at)
        if not known:
            return Published(trust)
        if not fresh and not _set_changed(current, trust):
            trust.require_sound(at)
            return Published(trust, overdue)
        trust = replace(trust, generation=generation + 1)
        trust.require_sound(at, after=latest)
        self.ledger.store_crls(list(fresh.values()), trust.generation, _entries(trust, list(fresh.values())))
        return Published(trust, overdue)

    def _fresh_crls(
        self,
        records: Sequence[AuthorityRecord],
        known: Sequence[AuthorityRecord],
        latest: Mapping[str, Crl],
        at: datetime,
    ) -> tuple[dict[str, Crl], KeyUnavailableError | None]:
        fresh, overdue = {}, None
        for record in records:
            if not record.is_ours:
                continue  # its CRLs come from where its key is
            entries = united(self.ledger.revoked(record.id, at), tainted_children(record.id, known, at))
            plan = next_plan(issuer_of(record), latest.get(record.id), entries, at)
            if plan is None:
                continue
            try:
                fresh[record.id] = sign_crl(plan, self.keys.signer(record))
            except KeyUnavailableError as error:
                if record.role != ROOT or crl_faults(ca_of(record), latest.get(record.id), None, at):
                    raise
                overdue = error
        return fresh, overdue


def listed_since(before: Trust | None, trust: Trust) -> frozenset[str]:
    """Return the serials (hex) that stand on this trust's CRLs and did not before; none where there is no before."""
    if before is None:
        return frozenset()
    return frozenset(
        serial_hex(serial)
        for ca_id, crl in trust.crls.items()
        for serial in serials_on(crl.der) - (serials_on(before.crls[ca_id].der) if ca_id in before.crls else set())
    )


def _newer(foreign: Mapping[str, Crl], latest: Mapping[str, Crl], records: Sequence[AuthorityRecord]) -> dict[str, Crl]:
    """Return those that are still news: another process may have stored them, or the CA has gone."""
    wanted = {record.id for record in records if not record.is_ours}
    return {
        ca_id: crl
        for ca_id, crl in foreign.items()
        if ca_id in wanted and (ca_id not in latest or crl.number > latest[ca_id].number)
    }


def _set_changed(current: Trust | None, trust: Trust) -> bool:
    """Whether a CA, or an upstream's CRL, has left (ended) or entered without a new generation.

    Another generation says it all itself.
    """
    if current is None or current.generation != trust.generation:
        return False
    return _set(current) != _set(trust)


def _set(trust: Trust) -> tuple[set[str], set[str]]:
    return {ca.id for ca in trust.authorities}, {ca.id for ca in trust.without_crl}


def _entries(trust: Trust, crls: Sequence[Crl]) -> list[AuditEntry]:
    reason = f"trust generation {trust.generation}"
    return [
        AuditEntry(audit.PUBLISH_CRL, crl.issuer_id, audit.OK, f"number {crl.number}, {reason}", ACTOR) for crl in crls
    ] or [AuditEntry(audit.ROTATE, "trust", audit.OK, f"the set of CAs changed, {reason}", ACTOR)]
