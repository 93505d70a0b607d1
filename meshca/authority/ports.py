"""What the authority asks of others: time, chance, keys, and a ledger.

Rules: every call of the ledger that changes something blocks until it has committed, and is one transaction together
with its audit entries; a call that raises has changed nothing. Every change is one conditional statement, so that two
processes on one database cannot both win.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from meshca.authority.audit import AuditEntry
from meshca.authority.records import AuthorityRecord, CertificateFilter, CertificateRecord, Realm, Role
from meshca.errors import UnavailableError
from meshca.spiffe.id import SpiffeId, TrustDomain
from meshca.x509.crl import Crl, RevokedEntry


class KeyUnavailableError(UnavailableError):
    """The key store does not sign now: sealed, unreachable, or without this key."""


class Clock(Protocol):
    """Where the time comes from."""

    def now(self) -> datetime:
        """Return the time, aware, in UTC."""


class Entropy(Protocol):
    """Where chance comes from; ``os.urandom`` is one."""

    def __call__(self, size: int, /) -> bytes:
        """Return ``size`` unpredictable bytes."""


class Signer(Protocol):
    """A private key that never leaves its keeper. Any thread may call it."""

    @property
    def key_id(self) -> str:
        """Name the key: the id of the CA it belongs to."""

    @property
    def spki(self) -> bytes:
        """Return the public key as DER SubjectPublicKeyInfo."""

    def sign(self, data: bytes) -> bytes:
        """Return a DER ECDSA signature over ``data`` (SHA-256 for P-256, SHA-384 for P-384).

        Raises:
            KeyUnavailableError: The key store does not answer.
        """


class KeyFactory(Protocol):
    """Makes a key for a new CA, and has stored it before it returns."""

    def __call__(self, role: Role, trust_domain: TrustDomain, generation: int) -> Signer:
        """Return the signer of a new key.

        Raises:
            KeyUnavailableError: The key store cannot keep a new key.
        """


@dataclass(frozen=True, slots=True)
class Intent:
    """A certificate that is about to be signed."""

    serial: str
    spiffe_id: SpiffeId
    issuer_id: str
    tbs: bytes = field(repr=False)
    not_before: datetime
    not_after: datetime
    holder: str
    kind: str
    requested_by: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Result:
    """The signed certificate (DER) of an intent."""

    serial: str
    certificate: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Abandoned:
    """An intent that will not be finished."""

    serial: str
    reason: str


@dataclass(frozen=True, slots=True)
class Revocation:
    """When, why and by whom."""

    at: datetime
    reason: str  # an RFC 5280 §5.3.1 name
    actor: str


class Ledger(Protocol):
    """All that the authority remembers.

    Where ``audit`` is a callable, the ledger calls it inside the transaction with what the statement did, and appends
    the entries it returns to the chain in the same commit.
    """

    def realm(self) -> Realm | None:
        """Return the realm, or None before ``create_realm``."""

    def create_realm(
        self,
        realm: Realm,
        authorities: Sequence[AuthorityRecord],
        crls: Sequence[Crl],
        audit: Sequence[AuditEntry],
    ) -> None:
        """Write the realm, its CAs and their CRLs as trust generation 1, all or nothing.

        Raises:
            ConflictError: There is a realm already.
        """

    def authorities(self) -> list[AuthorityRecord]:
        """Return every CA in whatever state, oldest generation first."""

    def add_authority(self, record: AuthorityRecord, audit: AuditEntry) -> None:
        """Add one CA.

        Raises:
            ConflictError: Its id is known already.
        """

    def record_intents(self, intents: Sequence[Intent]) -> list[bool]:
        """Write the intents as ``pending``; False for each whose identity is suspended at that moment.

        The suspension is checked by the same statement that inserts (INSERT … WHERE NOT EXISTS …).
        """

    def record_results(
        self, results: Sequence[Result | Abandoned], audit: Callable[[Sequence[bool]], Sequence[AuditEntry]]
    ) -> list[bool]:
        """Turn ``pending`` into ``issued`` or ``abandoned``; False for each that is no longer pending or was revoked.

        ``results`` may be empty: then only the entries of ``audit([])`` are written.
        """

    def revoke(
        self,
        serials: Sequence[str],
        revocation: Revocation,
        audit: Callable[[Sequence[CertificateRecord]], Sequence[AuditEntry]],
    ) -> list[CertificateRecord]:
        """Revoke those of the serials that are unexpired and not revoked, whatever their state, and return these.

        The records returned show the revocation.

        In the same commit the drain epoch ``identity:<SPIFFE ID>`` of each identity concerned is bumped once.
        """

    def suspend(
        self,
        spiffe_id: SpiffeId,
        revocation: Revocation,
        audit: Callable[[Sequence[CertificateRecord]], Sequence[AuditEntry]],
    ) -> list[CertificateRecord]:
        """Suspend the identity and revoke all of it, as ``revoke`` does; its drain epoch is bumped in any case.

        An identity that is suspended already keeps the row of its first suspension.
        """

    def resume(self, spiffe_id: SpiffeId, audit: AuditEntry) -> bool:
        """End the suspension; False, with nothing written, when there is none."""

    def suspended(self) -> frozenset[SpiffeId]:
        """Return the suspended identities."""

    def revoked(self, issuer_id: str, at: datetime) -> list[RevokedEntry]:
        """Return what the issuer's next CRL lists, by serial: revoked, and unexpired at ``at`` or not yet marked.

        ``store_crls`` marks what need not be listed again.
        """

    def store_crls(self, crls: Sequence[Crl], generation: int, audit: Sequence[AuditEntry]) -> None:
        """Store the CRLs and make ``generation`` the trust generation, all or nothing.

        Revoked certificates of these issuers with ``not_after`` < the CRL's ``this_update`` and no mark yet get
        ``revocation_listed_until`` = ``this_update``: they stood on one CRL past their expiry (RFC 5280 §3.3).

        Raises:
            ConflictError: A number is not higher than the issuer's newest, or the generation is not the next one.
        """

    def latest_crls(self) -> dict[str, Crl]:
        """Return the newest CRL of each issuer, by CA id."""

    def generation(self) -> int:
        """Return the trust generation; 0 before ``create_realm``."""

    def certificate(self, serial: str) -> CertificateRecord | None:
        """Return the certificate with this serial."""

    def certificates(self, wanted: CertificateFilter) -> list[CertificateRecord]:
        """Return the certificates that the filter admits."""

    def record_audit(self, entries: Sequence[AuditEntry]) -> None:
        """Append entries that come with no change, such as refusals."""
