"""Whether an authority that has started again is whole: its trust, its keys, and that everything goes on from there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from harness.faults.acts import Caller
from harness.faults.told import Told

from meshca.authority.crls import serials_on
from meshca.authority.records import ISSUING, ROOT, AuthorityRecord, CertificateFilter, CertificateRecord
from meshca.errors import MeshcaError
from meshca.keys.files import KeyFolder
from meshca.server.house import House
from meshca.store.sealed import SealedKeys
from meshca.x509.chain import ChainError, verify_svid


def faults_of_trust(house: House) -> Iterator[str]:
    """Yield what is wrong with the trust in force."""
    trust, now = house.authority.trust, house.clock.now()
    try:
        trust.require_sound(now)
    except MeshcaError as error:
        yield str(error)
    if trust.generation != house.ledger.generation():
        yield f"the trust in force is generation {trust.generation}, the ledger's {house.ledger.generation()}"
    latest = house.ledger.latest_crls()
    for ca_id, published in trust.crls.items():
        if latest[ca_id].der != published.der:
            yield f"the CRL in force of CA {ca_id} is not the ledger's newest"
    for record in house.ledger.certificates(CertificateFilter(at=now, status="revoked")):
        crl = trust.crls.get(record.issuer_id)
        if crl is not None and record.not_after > now and int(record.serial, 16) not in serials_on(crl.der):
            yield f"{record.serial} is revoked and on no CRL"
    yield from _faults_of_slots(house.ledger.authorities())


def _faults_of_slots(records: list[AuthorityRecord]) -> Iterator[str]:
    active = {record.role: record for record in records if record.state == "active"}
    if sorted(record.role for record in records if record.state == "active") != [ISSUING, ROOT]:
        yield f"active are {[(record.role, record.id) for record in records if record.state == 'active']}"
    elif active[ISSUING].parent_id != active[ROOT].id:
        yield "the active issuing CA is not below the active root"


def faults_of_leaves(house: House, told: Told) -> Iterator[str]:
    """Yield which certificates no longer prove what they did, though nobody revoked them."""
    trust, now = house.authority.trust, house.clock.now()
    issuing = {issuer.id: issuer.certificate for issuer in trust.issuing}
    roots, crls = [issuer.certificate for issuer in trust.roots], [crl.der for crl in trust.crls.values()]
    for serial, certificate in told.issued.items():
        record = house.ledger.certificate(serial)
        if record is None or record.status(now) != "valid" or not _is_trusted(record, house, issuing):
            continue
        try:
            verify_svid(bytes.fromhex(certificate), [issuing[record.issuer_id]], roots, crls, now)
        except ChainError as error:
            yield f"{serial} is valid in the ledger and proves nothing: {error}"


def _is_trusted(record: CertificateRecord, house: House, issuing: Mapping[str, bytes]) -> bool:
    if record.issuer_id in issuing:
        return True
    (issuer,) = (one for one in house.ledger.authorities() if one.id == record.issuer_id)
    # Its issuer may be gone before it only where it was believed stolen.
    assert issuer.tainted_at is not None, f"{record.serial} is valid, its issuer was removed"
    return False


def faults_of_keys(house: House) -> Iterator[str]:
    """Yield which CA cannot sign."""
    for record in house.ledger.authorities():
        if record.state != "removed":
            try:
                house.keys.signer(record).sign(b"x")
            except MeshcaError as error:
                yield f"the key of {record.role} CA {record.id}: {error}"


def orphans(house: House) -> int:
    """Return how many sealed keys belong to no CA, and how many files are what a dead process was writing."""
    keys = {*KeyFolder(house.home.keys).sealed(), *SealedKeys(house.store, house.clock.now).all()}
    drafts = [entry for entry in house.home.keys.iterdir() if entry.suffix != ".key"]
    drafts += house.home.path.glob("audit.checkpoint.*")
    return len(keys - {record.id for record in house.ledger.authorities()}) + len(drafts)


def faults_of_pending(house: House, unfinished: tuple[CertificateRecord, ...], told: Told) -> Iterator[str]:
    """Yield what is wrong with intents whose process died: seen at the start, given to nobody, and revocable."""
    now = house.clock.now()
    pending = house.ledger.certificates(CertificateFilter(at=now, status="pending"))
    if missed := {r.serial for r in pending if r.not_after > now} ^ {r.serial for r in unfinished}:
        yield f"pending, and not seen at the start: {sorted(missed)}"
    for record in unfinished:
        if record.serial in told.issued:
            yield f"{record.serial} was given to its holder, and is pending"
        if house.authority.revoke(record.serial, "superseded", "uid:0").serials != (record.serial,):
            yield f"{record.serial} is pending, and cannot be revoked"


def faults_from_here_on(house: House, told: Told) -> Iterator[str]:
    """Yield what does not go on: everything that can be asked for is asked for once more."""
    authority, before = house.authority, house.authority.trust
    if authority.freezing.frozen() is not None:
        authority.freezing.unfreeze("uid:0")
    caller = Caller(house, told.add)
    serials = caller.issue("probe", "probe")
    if len(serials) != 2:
        yield f"issued {serials} of two"
    authority.revoke(serials[0], "superseded", "uid:0")
    trust = authority.publish_crls()
    if trust.generation <= before.generation or trust.crl_number <= before.crl_number:
        yield f"the next CRL is number {trust.crl_number} of generation {trust.generation}"
    if not told.is_doing("rotate", "taint", "advance"):
        return
    successor = authority.succession.rotate(ISSUING, "uid:0")
    if successor not in {issuer.id for issuer in authority.trust.issuing}:
        yield "the issuing CA cannot be replaced"
    authority.succession.settle()
    yield from faults_of_trust(house)
