"""What the ledger holds, as values.

Rules: a certificate that is ``pending`` may have been signed, so it counts as issued for revocation; a record never
holds a private key, only the name of one (``key_ref``).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from meshca.authority.lifetimes import Lifetimes
from meshca.spiffe.id import SpiffeId, TrustDomain

Role = Literal["root", "issuing"]
AuthorityState = Literal["prepared", "active", "old", "removed"]
CertificateState = Literal["pending", "issued", "abandoned"]
CertificateStatus = Literal["valid", "revoked", "expired", "pending", "abandoned"]

ROOT: Role = "root"
ISSUING: Role = "issuing"


@dataclass(frozen=True, slots=True)
class Realm:
    """The one trust domain of a ledger."""

    trust_domain: TrustDomain
    lifetimes: Lifetimes
    created_at: datetime


@dataclass(frozen=True, slots=True)
class AuthorityRecord:
    """A root or issuing CA; ``generation`` is the trust generation that first carried it."""

    id: str
    role: Role
    state: AuthorityState
    generation: int
    certificate: bytes = field(repr=False)
    parent_id: str  # the CA that signed it; its own id for a root
    key_ref: str  # which key of the key store signs for it
    not_before: datetime
    not_after: datetime


@dataclass(frozen=True, slots=True)
class CertificateRecord:
    """A leaf from its intent on; ``certificate`` is empty unless it was issued."""

    serial: str
    spiffe_id: SpiffeId
    issuer_id: str
    state: CertificateState
    certificate: bytes = field(repr=False)
    not_before: datetime
    not_after: datetime
    holder: str
    kind: str
    requested_by: str
    created_at: datetime
    revoked_at: datetime | None = None
    revocation_reason: str = ""
    revocation_listed_until: datetime | None = None

    def status(self, at: datetime) -> CertificateStatus:
        """Return the one word that ``certs --state`` selects by; revoked says more than the others."""
        if self.revoked_at is not None:
            return "revoked"
        if self.state != "issued":
            return self.state
        return "expired" if self.not_after <= at else "valid"


@dataclass(frozen=True, slots=True)
class CertificateFilter:
    """Which certificates to list, oldest first (by creation, then serial); an empty field does not narrow.

    ``after`` is the serial of the last one already seen, ``limit`` 0 means all.
    """

    at: datetime
    spiffe_id: SpiffeId | None = None
    status: CertificateStatus | None = None
    issuer_id: str = ""
    holder: str = ""
    after: str = ""
    limit: int = 0

    def admits(self, record: CertificateRecord) -> bool:
        """Say whether the record is wanted, paging aside."""
        return (
            self.spiffe_id in (None, record.spiffe_id)
            and self.status in (None, record.status(self.at))
            and self.issuer_id in ("", record.issuer_id)
            and self.holder in ("", record.holder)
        )
