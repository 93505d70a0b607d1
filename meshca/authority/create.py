"""Making a certificate authority: root, issuing CA, and an empty CRL for each; or an issuing CA below an upstream.

Rules: a ledger holds one realm; all of it is written in one transaction, or nothing; a second `init` refuses before it
makes a key. A new CA's empty CRL travels with it, since Envoy refuses a chain with a CA that has none (design §5).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime

from meshca.authority import audit
from meshca.authority.audit import AuditEntry
from meshca.authority.ceremony import new_request
from meshca.authority.certify import LEAST_CHILDREN, CaWish, certify, first_crl
from meshca.authority.lifetimes import Lifetimes
from meshca.authority.ports import Clock, Entropy, Keys, Ledger, Signer
from meshca.authority.profiles import profiles_in_force, require_lives
from meshca.authority.records import ISSUING, ROOT, AuthorityRecord, CaRequest, Realm, Role
from meshca.authority.rotation import certification
from meshca.authority.trust import build_trust
from meshca.authority.upstreams import Known, Upstream, accepted, crls_of, is_settled, refused, travelling
from meshca.errors import ConflictError
from meshca.spiffe.id import TrustDomain
from meshca.x509.foreign import Expected, ForeignChainError, check_root

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
    root_certificate: bytes = field(default=b"", repr=False)  # DER; of a root whose key was brought, not made


@dataclass(frozen=True, slots=True)
class Created:
    """What was made."""

    realm: Realm
    root: AuthorityRecord
    issuing: AuthorityRecord


def create(new: NewRealm, clock: Clock, entropy: Entropy, keys: Keys, ledger: Ledger) -> Created:
    """Make the realm.

    Raises:
        RealmExistsError: There is one already; nothing was changed.
        ProfileError: A life is longer than the profile of its certificates allows.
        ConflictError: Root and issuing CA were given the same key.
        KeyUnavailableError: A key could not be made or kept; the ledger is unchanged.
    """
    now = _begun(new, clock, ledger)
    root_key, issuing_key = (keys.create(role, new.trust_domain, FIRST_GENERATION) for role in (ROOT, ISSUING))
    if root_key.spki == issuing_key.spki:
        raise ConflictError("root and issuing CA need a key each", field="key", value=root_key.key_ref)
    if new.root_certificate:
        root = _active(_brought(new, root_key, now))
    else:
        root = _active(certify(_wish(new, ROOT, now), root_key, None, root_key, entropy))
    issuing = _active(certify(_wish(new, ISSUING, now), issuing_key, root, root_key, entropy))
    crls = [first_crl(record, key, now) for record, key in ((root, root_key), (issuing, issuing_key))]
    build_trust(FIRST_GENERATION, [root, issuing], {crl.issuer_id: crl for crl in crls}, now).require_sound(now)
    created = Created(Realm(new.trust_domain, new.lifetimes, now), root, issuing)
    ledger.create_realm(created.realm, [root, issuing], crls, _entries(new, root, issuing))
    return created


def create_below(new: NewRealm, upstream: Upstream, clock: Clock, keys: Keys, ledger: Ledger) -> Created:
    """Make the realm with an issuing CA that an upstream certifies; the root is the upstream's.

    Raises:
        RealmExistsError: There is one already; nothing was changed.
        UpstreamError: The upstream does not certify it, or not as it has to be; the ledger is unchanged.
        UnavailableError: It, or the key store, does not answer; the ledger is unchanged.
    """
    now = _begun(new, clock, ledger)
    upstream.require_ready()
    key = keys.create(ISSUING, new.trust_domain, FIRST_GENERATION)
    wish, known = _wish(new, ISSUING, now), Known((), {})
    try:
        chain = accepted(upstream.certify(certification(wish, key)), wish, key, known)
        foreign = travelling(chain, crls_of(upstream, chain), known, now).crls
    except ForeignChainError as error:
        raise refused(error) from error
    issuing, above = _active(chain.issuing), [_active(record) for record in chain.above]
    crls = [first_crl(issuing, key, now), *(crl for crl in foreign if is_settled(crl, now))]
    records = [*above, issuing]
    build_trust(FIRST_GENERATION, records, {crl.issuer_id: crl for crl in crls}, now).require_sound(now)
    created = Created(Realm(new.trust_domain, new.lifetimes, now), above[-1], issuing)
    ledger.create_realm(created.realm, records, crls, _entries(new, above[-1], issuing))
    return created


def create_waiting(new: NewRealm, clock: Clock, keys: Keys, ledger: Ledger) -> CaRequest:
    """Make the realm without any CA, and the request for an issuing CA's certificate that an offline root is to sign.

    Raises:
        RealmExistsError: There is one already; nothing was changed.
        KeyUnavailableError: The key could not be made or kept; the ledger is unchanged.
    """
    now = _begun(new, clock, ledger)
    request = new_request(new.trust_domain, FIRST_GENERATION, keys, clock)
    reason = f"issuing CA {request.key_id} waits for its chain"
    entry = AuditEntry(audit.INIT, str(new.trust_domain.id), audit.OK, reason, new.actor)
    ledger.create_realm(Realm(new.trust_domain, new.lifetimes, now), [], [], [entry])
    ledger.keep_request(request, AuditEntry(audit.REQUEST, request.key_id, audit.OK, "issuing CA", new.actor))
    return request


def _begun(new: NewRealm, clock: Clock, ledger: Ledger) -> datetime:
    """Return the time of a beginning that may go on."""
    if (existing := ledger.realm()) is not None:
        raise RealmExistsError("there is a certificate authority here already", value=str(existing.trust_domain))
    require_lives(new.lifetimes)
    return clock.now()


def _wish(new: NewRealm, role: Role, now: datetime) -> CaWish:
    profile, least = profiles_in_force(new.lifetimes)[role], LEAST_CHILDREN * new.lifetimes.leaf
    return CaWish(role, profile, new.trust_domain, FIRST_GENERATION, now, now, new.name_constraint, least)


def _brought(new: NewRealm, key: Signer, now: datetime) -> AuthorityRecord:
    """Return the record of a root that somebody brought.

    Raises:
        ForeignChainError: It is not to be used.
    """
    least = LEAST_CHILDREN * new.lifetimes.issuing
    root = check_root(new.root_certificate, Expected(key.spki, new.trust_domain, now, least))
    return _wish(new, ROOT, now).record(root.certificate, root, root.id, key)


def _active(record: AuthorityRecord) -> AuthorityRecord:
    """Nobody holds a leaf yet, so that nobody needs to acknowledge the first CAs."""
    return replace(record, state="active", activated_at=record.prepared_at)


def _entries(new: NewRealm, root: AuthorityRecord, issuing: AuthorityRecord) -> list[AuditEntry]:
    reason = f"root {root.id}, issuing CA {issuing.id}"
    return [AuditEntry(audit.INIT, str(new.trust_domain.id), audit.OK, reason, new.actor)]
