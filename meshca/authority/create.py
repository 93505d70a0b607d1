"""Making a certificate authority: root, issuing CA, and an empty CRL for each.

Rules: a ledger holds one realm; all of it is written in one transaction, or nothing; a second `init` refuses before it
makes a key. A new CA's empty CRL travels with it, since Envoy refuses a chain with a CA that has none (design §5).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from meshca.authority import audit
from meshca.authority.audit import AuditEntry
from meshca.authority.crls import FIRST_NUMBER, plan_crl, sign_crl
from meshca.authority.lifetimes import Lifetimes
from meshca.authority.ports import Clock, Entropy, KeyFactory, Ledger, Signer
from meshca.authority.records import ISSUING, ROOT, AuthorityRecord, Realm, Role
from meshca.authority.trust import build_trust
from meshca.errors import ConflictError
from meshca.spiffe.id import TrustDomain
from meshca.x509.checked import check_ca, finish
from meshca.x509.crl import Crl
from meshca.x509.issuer import Issuer, ca_id
from meshca.x509.lints import CaProfile
from meshca.x509.plan import CaPlan, validity
from meshca.x509.serial import SERIAL_BYTES, new_serial

FIRST_GENERATION = 1


class RealmExistsError(ConflictError):
    """There is a certificate authority here already."""


@dataclass(frozen=True, slots=True)
class NewRealm:
    """What `meshca init` decides."""

    trust_domain: TrustDomain
    lifetimes: Lifetimes = field(default_factory=Lifetimes)
    name_constraint: bool = False
    actor: str = "init"


@dataclass(frozen=True, slots=True)
class Created:
    """What was made."""

    realm: Realm
    root: AuthorityRecord
    issuing: AuthorityRecord


def create(new: NewRealm, clock: Clock, entropy: Entropy, key_factory: KeyFactory, ledger: Ledger) -> Created:
    """Make the realm.

    Raises:
        RealmExistsError: There is one already; nothing was changed.
        KeyUnavailableError: A key could not be made or kept; the ledger is unchanged.
    """
    if (existing := ledger.realm()) is not None:
        raise RealmExistsError("there is a certificate authority here already", value=str(existing.trust_domain))
    now = clock.now()
    root_key, issuing_key = (key_factory(role, new.trust_domain, FIRST_GENERATION) for role in (ROOT, ISSUING))
    root = _certify(new, ROOT, root_key, None, Signing(root_key, now, entropy))
    issuing = _certify(new, ISSUING, issuing_key, _issuer(root), Signing(root_key, now, entropy))
    crls = [_first_crl(record, key, now) for record, key in ((root, root_key), (issuing, issuing_key))]
    build_trust(FIRST_GENERATION, [root, issuing], {crl.issuer_id: crl for crl in crls}, now).require_sound(now)
    realm = Realm(new.trust_domain, new.lifetimes, now)
    ledger.create_realm(realm, [root, issuing], crls, _entries(new, root, issuing))
    return Created(realm, root, issuing)


@dataclass(frozen=True, slots=True)
class Signing:
    """Who signs, when, and with which chance."""

    signer: Signer
    now: datetime
    entropy: Entropy


def _certify(new: NewRealm, role: Role, key: Signer, issuer: Issuer | None, signing: Signing) -> AuthorityRecord:
    life = new.lifetimes.root if role == ROOT else new.lifetimes.issuing
    valid = validity(signing.now, life, issuer)
    plan = CaPlan(
        role=role,
        trust_domain=new.trust_domain,
        spki=key.spki,
        serial=new_serial(signing.entropy(SERIAL_BYTES)),
        not_before=valid.not_before,
        not_after=valid.not_after,
        issuer=issuer,
        name_constraint=new.name_constraint,
    )
    checked = check_ca(plan, CaProfile(max_ttl=life), signing.now)
    certificate = finish(checked, signing.signer.sign(checked.spend()))
    own_id = ca_id(key.spki)
    return AuthorityRecord(
        id=own_id,
        role=role,
        state="active",
        generation=FIRST_GENERATION,
        certificate=certificate.der,
        parent_id=issuer.id if issuer else own_id,
        key_ref=key.key_id,
        not_before=certificate.not_before,
        not_after=certificate.not_after,
    )


def _issuer(record: AuthorityRecord) -> Issuer:
    return Issuer.from_der(record.id, record.certificate)


def _first_crl(record: AuthorityRecord, signer: Signer, now: datetime) -> Crl:
    return sign_crl(plan_crl(_issuer(record), FIRST_NUMBER, (), now), signer)


def _entries(new: NewRealm, root: AuthorityRecord, issuing: AuthorityRecord) -> list[AuditEntry]:
    reason = f"root {root.id}, issuing CA {issuing.id}"
    return [AuditEntry(audit.INIT, str(new.trust_domain.id), audit.OK, reason, new.actor)]
