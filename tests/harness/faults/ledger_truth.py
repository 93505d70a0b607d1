"""Whether ledger, archive and audit log say the same: nobody was told anything for this, it must hold at any moment."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from harness.faults.told import Event, Told

from meshca.authority import audit
from meshca.authority.records import CertificateFilter, CertificateRecord
from meshca.server.house import House
from meshca.store.chain import ChainRecord

_INITIAL = 1  # the generation that `init` makes


@dataclass(frozen=True)
class Books:
    """All records of one moment."""

    current: dict[str, CertificateRecord]
    archived: dict[str, CertificateRecord]
    log: list[ChainRecord]

    @classmethod
    def of(cls, house: House) -> Books:
        """Read them."""
        now = house.clock.now()
        tables = (house.ledger.certificates(CertificateFilter(at=now, archived=archived)) for archived in (False, True))
        current, archived = ({record.serial: record for record in table} for table in tables)
        return cls(current, archived, [record for records in house.audit.export() for record in records])

    @property
    def certificates(self) -> dict[str, CertificateRecord]:
        """Return what is current, and what is archived."""
        return {**self.archived, **self.current}

    def acts(self, action: str) -> list[ChainRecord]:
        """Return the records of acts that were done, oldest first."""
        return [record for record in self.log if (record.action, record.outcome) == (action, audit.OK)]

    def serials(self, action: str) -> list[str]:
        """Return the serials that acts were about."""
        found = (re.search(r"serial ([0-9a-f]+)", record.reason) for record in self.acts(action))
        return [match[1] for match in found if match]


def disagreements(house: House) -> Iterator[str]:
    """Yield where ledger and audit log contradict each other, or themselves."""
    books = Books.of(house)
    yield from house.audit.verify().findings
    yield from _certificates(books)
    yield from _switches(house, books)
    yield from _authorities(house, books)


def _certificates(books: Books) -> Iterator[str]:
    known = books.certificates.values()
    issued = {record.serial for record in known if record.state == "issued"}
    revoked = {record.serial for record in known if record.revoked_at is not None}
    yield from _unequal("issued", issued, books.serials(audit.ISSUE))
    yield from _unequal("revoked", revoked, books.serials(audit.REVOKE))
    for record in known:
        if (record.state == "issued") != bool(record.certificate):
            yield f"{record.serial} is {record.state} with a certificate of {len(record.certificate)} bytes"
    if both := books.current.keys() & books.archived.keys():
        yield f"in the ledger and in the archive: {sorted(both)}"
    counted = sum(int(record.reason.split()[0]) for record in books.acts(audit.ARCHIVE))
    if counted != len(books.archived):
        yield f"{len(books.archived)} are archived, the audit log says {counted}"


def _unequal(what: str, ledger: set[str], log: Iterable[str]) -> Iterator[str]:
    counted = Counter(log)
    if missing := ledger - counted.keys():
        yield f"{what} in the ledger, not in the audit log: {sorted(missing)}"
    if more := counted.keys() - ledger:
        yield f"{what} in the audit log, not in the ledger: {sorted(more)}"
    if twice := [serial for serial, times in counted.items() if times > 1]:
        yield f"{what} twice in the audit log: {twice}"


def _switches(house: House, books: Books) -> Iterator[str]:
    suspended = {str(spiffe_id) for spiffe_id in house.ledger.suspended()}
    said = _switched(books, audit.SUSPEND, audit.RESUME)
    if said != suspended:
        yield f"suspended are {sorted(suspended)}, the audit log says {sorted(said)}"
    frozen, said_frozen = house.ledger.frozen() is not None, bool(_switched(books, audit.FREEZE, audit.UNFREEZE))
    if frozen != said_frozen:
        yield f"frozen is {frozen}, the audit log says {said_frozen}"


def _switched(books: Books, on: str, off: str) -> set[str]:
    state: set[str] = set()
    for record in books.log:
        if (record.action, record.outcome) == (on, audit.OK):
            state.add(record.subject)
        elif (record.action, record.outcome) == (off, audit.OK):
            state.discard(record.subject)
    return state


def _authorities(house: House, books: Books) -> Iterator[str]:
    generation = house.ledger.generation()
    moves = [*books.acts(audit.ROTATE), *books.acts(audit.PUBLISH_CRL)]
    named = (re.search(r"trust generation ([0-9]+)", record.reason) for record in moves)
    said = {int(match[1]) for match in named if match}
    if said != set(range(_INITIAL + 1, generation + 1)):
        yield f"the trust generation is {generation}, the audit log says {sorted(said)}"
    stolen = {record.id for record in house.ledger.authorities() if record.tainted_at is not None}
    if stolen != {record.subject for record in books.acts(audit.TAINT)}:
        yield f"tainted are {sorted(stolen)}, which the audit log does not say"
    for record in house.ledger.authorities():
        steps = " ".join(one.reason for one in moves if one.subject == record.id)
        wanted = {"prepared": record.generation > _INITIAL, "removed": record.state == "removed"}
        wanted["activated"] = record.activated_at is not None and record.generation > _INITIAL
        for step, made in wanted.items():
            if made != (f"CA {step}" in steps):
                yield f"{record.role} CA {record.id} is {record.state}, the audit log says {steps!r}"


def broken_promises(house: House, told: Told) -> Iterator[str]:
    """Yield what somebody was told and what is not so."""
    books = Books.of(house)
    known = books.certificates
    for serial, certificate in told.issued.items():
        record = known.get(serial)
        if record is None or record.state != "issued" or record.certificate.hex() != certificate:
            yield f"{serial} was given to its holder and is not in the ledger as issued"
    if unknown := told.signed - known.keys():
        yield f"signed, and unknown to the ledger: {sorted(unknown)}"
    if lost := [serial for serial in told.revoked if known[serial].revoked_at is None]:
        yield f"revocations lost: {lost}"
    released = {record.serial for record in known.values() if record.state == "issued"}
    if told.is_all and (untold := released - told.issued.keys()) and not told.is_doing("issue"):
        yield f"issued, and told to nobody: {sorted(untold)}"
    yield from _promised_switches(house, told)
    yield from _promised_trust(house, told)
    if len(books.archived) < told.archived:
        yield f"{told.archived} were archived, {len(books.archived)} are"
    if books.log[-1].seq < told.checkpoint:
        yield f"record {told.checkpoint} had a checkpoint, the chain ends at {books.log[-1].seq}"


def _promised_switches(house: House, told: Told) -> Iterator[str]:
    suspended = {str(spiffe_id) for spiffe_id in house.ledger.suspended()}
    for spiffe_id, promised in told.suspended.items():
        if (spiffe_id in suspended) != promised and not told.is_doing("suspend", "resume"):
            yield f"{spiffe_id} was told to be suspended: {promised}"
    if (house.ledger.frozen() is not None) != told.frozen and not told.is_doing("freeze", "unfreeze"):
        yield f"issuance was told to be frozen: {told.frozen}"


def _promised_trust(house: House, told: Told) -> Iterator[str]:
    generation, known = house.ledger.generation(), {record.id: record for record in house.ledger.authorities()}
    for trust in told.trusts:
        if trust["generation"] > generation:
            yield f"trust generation {trust['generation']} was told, the ledger has {generation}"
        yield from _promised_crls(house, trust)
    for earlier, later in pairwise(told.trusts):
        if later["generation"] < earlier["generation"]:
            yield f"trust generation {later['generation']} was told after {earlier['generation']}"
    if strangers := told.successors - known.keys():
        yield f"told as successors, and not in the ledger: {sorted(strangers)}"
    if clean := [ca_id for ca_id in told.tainted if known[ca_id].tainted_at is None]:
        yield f"told as tainted, and not so: {clean}"


def _promised_crls(house: House, trust: Event) -> Iterator[str]:
    latest = house.ledger.latest_crls()
    for ca_id, (number, der) in trust["crls"].items():
        newest = latest[ca_id]
        if newest.number < number or (newest.number == number and newest.der.hex() != der):
            yield f"CRL {number} of CA {ca_id} was given out, the ledger has another number {newest.number}"
