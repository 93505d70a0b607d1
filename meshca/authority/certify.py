"""Making the certificate and the first CRL of a CA of ours.

Rule: a new CA's empty CRL travels with it, since Envoy refuses a chain with a CA that has none (design §5).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache

from cryptography import x509
from cryptography.x509.oid import NameOID

from meshca.authority.crls import FIRST_NUMBER, plan_crl, sign_crl
from meshca.authority.ports import CertifiedKey, Entropy, Signer
from meshca.authority.records import AuthorityRecord, Role
from meshca.spiffe.id import TrustDomain
from meshca.x509.checked import check_ca, finish
from meshca.x509.crl import Crl
from meshca.x509.issuer import CaCertificate, Issuer, ca_id
from meshca.x509.plan import CaPlan, validity
from meshca.x509.profiles import Profile
from meshca.x509.serial import SERIAL_BYTES, new_serial

# A CA that others have signed is good for as long as so many certificates below it live after each other, which is
# what configured lives have to allow (design §7).
LEAST_CHILDREN = 3


@dataclass(frozen=True, slots=True)
class CaWish:
    """A CA that is to be: ``generation`` is the trust generation that will first carry it."""

    role: Role
    profile: Profile
    trust_domain: TrustDomain
    generation: int
    now: datetime
    activate_at: datetime | None = None
    name_constraint: bool = False
    least: timedelta = timedelta(0)  # how long a chain that others have signed has to be good for

    def record(
        self, certificate: bytes, issuer: Issuer, parent_id: str, key: CertifiedKey, *, until: datetime | None = None
    ) -> AuthorityRecord:
        """Return the record of the CA that was made of this wish, as one that is prepared.

        ``until``: where a CA above it ends earlier.
        """
        return AuthorityRecord(
            id=issuer.id,
            role=self.role,
            state="prepared",
            generation=self.generation,
            certificate=certificate,
            parent_id=parent_id,
            key_ref=key.key_ref,
            not_before=issuer.not_before,
            not_after=until or issuer.not_after,
            prepared_at=self.now,
            activate_at=self.activate_at,
        )

    def foreign_record(self, ca: CaCertificate, role: Role, parent_id: str) -> AuthorityRecord:
        """Return the record of an upstream's CA above it."""
        return AuthorityRecord(
            id=ca.id,
            role=role,
            state="prepared",
            generation=self.generation,
            certificate=ca.certificate,
            parent_id=parent_id,
            key_ref="",
            not_before=ca.not_before,
            not_after=ca.not_after,
            prepared_at=self.now,
            activate_at=self.activate_at,
        )


def certify(
    wish: CaWish, key: Signer, parent: AuthorityRecord | None, signer: Signer, entropy: Entropy
) -> AuthorityRecord:
    """Make the certificate of a root (``parent`` None) or of a CA below one of ours, and return its record.

    Raises:
        LintError: The certificate would break a rule; nothing was signed.
        KeyUnavailableError: ``signer`` does not sign now.
    """
    above = None if parent is None else issuer_of(parent)
    valid = validity(wish.now, wish.profile.max_ttl, above)
    plan = CaPlan(
        role="root" if above is None else "issuing",
        trust_domain=wish.trust_domain,
        spki=key.spki,
        serial=new_serial(entropy(SERIAL_BYTES)),
        not_before=valid.not_before,
        not_after=valid.not_after,
        issuer=above,
        name_constraint=wish.name_constraint,
    )
    checked = check_ca(plan, wish.profile, wish.now)
    der = finish(checked, signer.sign(checked.spend())).der
    issuer = Issuer.from_der(ca_id(key.spki), der)
    return wish.record(der, issuer, above.id if above else issuer.id, key)


def first_crl(record: AuthorityRecord, signer: Signer, now: datetime) -> Crl:
    """Make the empty CRL that travels with a new CA."""
    return sign_crl(plan_crl(issuer_of(record), FIRST_NUMBER, (), now), signer)


@lru_cache(maxsize=64)
def is_brought(root: CaCertificate) -> bool:
    """Whether a root whose key is ours was made elsewhere: its name is not the one that we give."""
    names = x509.load_der_x509_certificate(root.certificate).subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return [name.value for name in names] != [f"meshca root {root.id}"]


def issuer_of(record: AuthorityRecord) -> Issuer:
    """Return the CA as those below it see it."""
    return Issuer.from_der(record.id, record.certificate)
