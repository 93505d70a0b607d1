"""What the ledger holds, as values.

Rules: a certificate that is ``pending`` may have been signed, so it counts as issued for revocation; a record never
holds a private key, only the name of one (``key_ref``).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from meshca.authority.lifetimes import Lifetimes
from meshca.spiffe.id import SpiffeId, TrustDomain

Role = Literal["root", "intermediate", "issuing", "jwt"]
AuthorityState = Literal["prepared", "active", "old", "removed"]
CertificateState = Literal["pending", "issued", "abandoned"]
CertificateStatus = Literal["valid", "revoked", "expired", "pending", "abandoned"]

ROOT: Role = "root"
INTERMEDIATE: Role = "intermediate"
ISSUING: Role = "issuing"
JWT: Role = "jwt"


@dataclass(frozen=True, slots=True)
class Realm:
    """The one trust domain of a ledger."""

    trust_domain: TrustDomain
    lifetimes: Lifetimes
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Freeze:
    """Since when nothing is issued, who said so, and why."""

    at: datetime
    by: str
    reason: str


@dataclass(frozen=True, slots=True)
class AuthorityRecord:
    """A root, an issuing CA, or an upstream's CA between the two; or a key that signs JWT-SVIDs, which has a slot, too.

    ``generation`` is the trust generation that first carried it. A CA without ``key_ref`` is an upstream's: its key
    isn't ours, and its CRLs come from there. Of a key that is no CA's there is ``spki`` in place of a certificate, and
    ``generation`` counts the changes of the JWT bundle.
    """

    id: str
    role: Role
    state: AuthorityState
    generation: int
    certificate: bytes = field(repr=False)
    parent_id: str  # the CA that signed it; its own id for a root
    key_ref: str  # which key of the key store signs for it
    not_before: datetime
    not_after: datetime
    prepared_at: datetime | None = None
    activate_at: datetime | None = None  # when its activation is due, acknowledgements aside
    activated_at: datetime | None = None
    retired_at: datetime | None = None  # since when it is old
    tainted_at: datetime | None = None  # since when it is believed stolen
    spki: bytes = field(default=b"", repr=False)

    @property
    def is_ours(self) -> bool:
        """Whether we sign for it."""
        return bool(self.key_ref)


@dataclass(frozen=True, slots=True)
class CaRequest:
    """A request for an issuing CA's certificate that nobody has answered yet; its key is kept."""

    key_id: str  # the id of the CA that is to be
    key_ref: str
    csr: bytes = field(repr=False)  # DER
    created_at: datetime

    @property
    def spki(self) -> bytes:
        """The public key that it is for."""
        key = x509.load_der_x509_csr(self.csr).public_key()
        return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


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

    ``since`` and ``until`` bound the creation, the first included, the second not. ``archived`` lists the archive in
    place of the ledger. ``after`` is the serial of the last one already seen, ``limit`` 0 means all.
    """

    at: datetime
    spiffe_id: SpiffeId | None = None
    status: CertificateStatus | None = None
    issuer_id: str = ""
    holder: str = ""
    since: datetime | None = None
    until: datetime | None = None
    archived: bool = False
    after: str = ""
    limit: int = 0

    def admits(self, record: CertificateRecord) -> bool:
        """Say whether the record is wanted, paging and archive aside."""
        return (
            self.spiffe_id in (None, record.spiffe_id)
            and self.status in (None, record.status(self.at))
            and self.issuer_id in ("", record.issuer_id)
            and self.holder in ("", record.holder)
            and (self.since is None or self.since <= record.created_at)
            and (self.until is None or record.created_at < self.until)
        )
