"""An issuing CA below an offline root: a request goes out, a chain comes in.

Rules: one request is pending at a time, its key is kept until a chain answers it, and asking again gives the same one;
a chain is judged whole before anything is stored, then it waits for acknowledgements like any other issuing CA; what
is refused changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from meshca.authority import audit
from meshca.authority.audit import AuditEntry
from meshca.authority.certify import first_crl
from meshca.authority.freezing import FrozenError
from meshca.authority.ports import Clock, Keys, Ports, TrustChange
from meshca.authority.records import ISSUING, AuthorityRecord, CaRequest
from meshca.authority.rotation import after, with_chain
from meshca.authority.slots import Prepare, Slots
from meshca.authority.succession import Succession
from meshca.authority.trust import Trust, build_trust
from meshca.authority.upstreams import Known, NewerCrls, accepted, foreign_in_use, is_settled, newer_crls, travelling
from meshca.errors import ConflictError, InvalidInputError
from meshca.spiffe.id import TrustDomain
from meshca.x509.carequest import RequestPlan
from meshca.x509.foreign import read_chain
from meshca.x509.foreigncrl import ForeignCrlError, read_crls
from meshca.x509.publickey import ca_id

_WHY = "its chain was imported"


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import brought; ``issuing`` is None where CRLs alone were brought."""

    issuing: AuthorityRecord | None
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Ceremony:
    """Requests and imports. Any thread may call it; it takes its turn with the other changes of trust."""

    succession: Succession

    @property
    def _ports(self) -> Ports:
        return self.succession.rotation.ports

    def pending(self) -> CaRequest | None:
        """Return the request that waits for its chain."""
        return self._ports.ledger.pending_request()

    def request(self, actor: str) -> tuple[CaRequest, bool]:
        """Return the pending request, and whether it was made just now.

        Raises:
            FrozenError: Issuance is frozen.
            KeyUnavailableError: A key could not be made or kept.
        """
        with self.succession.changing:
            ledger = self._ports.ledger
            if (pending := ledger.pending_request()) is not None:
                return pending, False
            if (freeze := ledger.frozen()) is not None:
                raise FrozenError(freeze)
            generation, trust_domain = ledger.generation() + 1, self.succession.rotation.trust_domain
            made = new_request(trust_domain, generation, self._ports.keys, self._ports.clock)
            if ledger.keep_request(made, AuditEntry(audit.REQUEST, made.key_id, audit.OK, "issuing CA", actor)):
                return made, True
            return ledger.pending_request() or made, False  # another process was faster

    def bring(self, chain: bytes, crls: Sequence[bytes], actor: str) -> Imported:
        """Take in a chain for the pending request, with CRLs, or CRLs alone (``chain`` empty).

        Raises:
            ForeignChainError: The chain breaks a rule.
            ForeignCrlError: A CRL does.
            ConflictError: No request is pending, or another process was faster.
            UnsoundTrustError: The next trust would stop handshakes.
        """
        ders = [der for content in crls for der in read_crls(content)]
        with self.succession.changing:
            if chain:
                imported = self._bring_chain(read_chain(chain), ders, actor)
            elif ders:
                imported = self._bring_crls(ders, actor)
            else:
                raise InvalidInputError(
                    "neither a chain nor a CRL", field="ca import", remedy="give CHAIN.pem or --crl F"
                )
            self.succession.settle()
        return imported

    def _bring_chain(self, chain: Sequence[bytes], ders: Sequence[bytes], actor: str) -> Imported:
        ledger, now = self._ports.ledger, self._ports.clock.now()
        if (freeze := ledger.frozen()) is not None:
            raise FrozenError(freeze)
        request, known = self._answered(), Known(ledger.authorities(), ledger.latest_crls())
        generation = ledger.generation() + 1
        wish = self.succession.rotation.wish(Prepare(ISSUING, now, _WHY), known.records, generation, now)
        judged = accepted(chain, wish, request, known)
        found = travelling(judged, ders, known, now)
        _require_no_faults(found)
        own = first_crl(judged.issuing, self._ports.keys.signer(judged.issuing), now)
        change = with_chain(judged, (own, *found.crls), generation)
        what = f"chain of {len(judged.cas)} certificates; trust generation {generation}"
        entry = AuditEntry(audit.IMPORT, judged.issuing.id, audit.OK, what, actor)
        return self._store(change, known, entry, now)

    def _bring_crls(self, ders: Sequence[bytes], actor: str) -> Imported:
        ledger, now = self._ports.ledger, self._ports.clock.now()
        known = Known(ledger.authorities(), ledger.latest_crls())
        found = newer_crls(ders, foreign_in_use(known.records, now), known, now)
        _require_no_faults(found)
        if not found.crls:
            return Imported(None, ("all of these CRLs were known already",))
        generation = ledger.generation() + 1
        what = ", ".join(f"CRL number {crl.number} of CA {crl.issuer_id}" for crl in found.crls)
        entry = AuditEntry(audit.IMPORT, "trust", audit.OK, f"{what}; trust generation {generation}", actor)
        return self._store(TrustChange(generation, crls=found.crls), known, entry, now)

    def _answered(self) -> CaRequest:
        """Return the pending request, which a chain is to answer; it takes the place of nothing that is under way."""
        ledger = self._ports.ledger
        slots = Slots.of(ledger.authorities(), self._ports.clock.now())
        if (prepared := slots.one(ISSUING, "prepared")) is not None:
            raise ConflictError(
                "another issuing CA is prepared, and waits for acknowledgements",
                field="ca import",
                value=prepared.id,
                remedy="see `meshca ca show`; import again once it is active",
            )
        if (request := ledger.pending_request()) is None:
            raise ConflictError("no request waits for a chain", field="ca import", remedy="make one: `meshca ca csr`")
        return request

    def _store(self, change: TrustChange, known: Known, entry: AuditEntry, now: datetime) -> Imported:
        crls = {**known.crls, **{crl.issuer_id: crl for crl in change.crls}}
        trust = build_trust(change.generation, after(change, known.records), crls, now)
        trust.require_sound(now, after=known.crls)
        self._ports.ledger.change_trust(change, [entry])
        self.succession.adopt(trust)
        issuing = next((record for record in change.added if record.role == ISSUING), None)
        return Imported(issuing, tuple(_warnings(change, trust, now)))


def new_request(trust_domain: TrustDomain, generation: int, keys: Keys, clock: Clock) -> CaRequest:
    """Make a key, and a request for it.

    Raises:
        KeyUnavailableError: The key could not be made or kept, or does not sign.
    """
    key = keys.create(ISSUING, trust_domain, generation)
    plan = RequestPlan(trust_domain, key.spki)
    return CaRequest(
        key_id=ca_id(key.spki),
        key_ref=keys.reference(key, generation),
        csr=plan.finish(key.sign(plan.tbs)),
        created_at=clock.now(),
    )


def _require_no_faults(found: NewerCrls) -> None:
    if found.faults:
        raise ForeignCrlError("; ".join(found.faults))


def _warnings(change: TrustChange, trust: Trust, now: datetime) -> Iterator[str]:
    young = {crl.issuer_id for crl in change.crls if not is_settled(crl, now)}
    for ca in trust.without_crl:
        if ca.id in young:
            yield f"the CRL of CA {ca.id} is used once it is a minute old, since clocks differ"
        else:
            yield f"CA {ca.id} has no usable CRL: Envoys look up leaves alone until one is brought"
    if any(ca.name_constrained for ca in trust.authorities if ca.id in trust.foreign):
        yield "a CA of the chain has name constraints: some verifiers refuse every such chain"
