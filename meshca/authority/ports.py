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
from meshca.authority.records import (
    AuthorityRecord,
    AuthorityState,
    CaRequest,
    CertificateFilter,
    CertificateRecord,
    Freeze,
    Realm,
    Role,
)
from meshca.errors import ConflictError, UnavailableError
from meshca.spiffe.id import SpiffeId, TrustDomain
from meshca.x509.crl import Crl, RevokedEntry


class KeyUnavailableError(UnavailableError):
    """The key store does not sign now: sealed, unreachable, or without this key."""


class MovedOnError(ConflictError):
    """Another process has made the next generation since ours was computed; it may be computed again."""


class OvertakenError(ConflictError):
    """Scheduled work of a replica whose place another has taken; nothing was changed."""


class Clock(Protocol):
    """Where the time comes from."""

    def now(self) -> datetime:
        """Return the time, aware, in UTC."""


class Entropy(Protocol):
    """Where chance comes from; ``os.urandom`` is one."""

    def __call__(self, size: int, /) -> bytes:
        """Return ``size`` unpredictable bytes."""


class CertifiedKey(Protocol):
    """What a certificate says of a key, and where it is kept."""

    @property
    def key_ref(self) -> str:
        """Say where the key is kept, as the ledger records it; never a secret."""

    @property
    def spki(self) -> bytes:
        """Return the public key as DER SubjectPublicKeyInfo."""


class Signer(Protocol):
    """A private key that never leaves its keeper. Any thread may call it."""

    @property
    def key_id(self) -> str:
        """Name the key: the id of the CA it belongs to."""

    @property
    def key_ref(self) -> str:
        """Say where the key is kept, as the ledger records it; never a secret."""

    @property
    def spki(self) -> bytes:
        """Return the public key as DER SubjectPublicKeyInfo."""

    def sign(self, data: bytes) -> bytes:
        """Return a DER ECDSA signature over ``data`` (SHA-256 for P-256, SHA-384 for P-384).

        Raises:
            KeyUnavailableError: The key store does not answer.
        """


class Keys(Protocol):
    """The keys of all CAs, opened as they are met. Any thread may call it."""

    def signer(self, record: AuthorityRecord) -> Signer:
        """Return the signer of this CA's key, and never of another's.

        Raises:
            KeyUnavailableError: There is no such key here, or it does not open.
        """

    def create(self, role: Role, trust_domain: TrustDomain, generation: int) -> Signer:
        """Return the signer of a new key, which is stored durably before this returns.

        Raises:
            KeyUnavailableError: The key store cannot keep a new key.
        """

    def reference(self, signer: Signer, generation: int) -> str:
        """Return the ``key_ref`` by which a CA of a later generation finds the key that was made for this one."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What a first certificate rests on: a join token (its hash, hex), and the key that came with it (hash, hex)."""

    secret_hash: str
    key: str


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
    claim: Claim | None = None  # used up by the statement that writes the intent, or there is no intent


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


@dataclass(frozen=True, slots=True)
class Move:
    """A CA changes its state."""

    id: str
    before: AuthorityState
    after: AuthorityState
    at: datetime


@dataclass(frozen=True, slots=True)
class Reparent:
    """A CA stands below another certificate of its signer's key: the signer was renewed."""

    id: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class TrustChange:
    """What turns one trust generation into the next; moves are made in their order, before anything is added."""

    generation: int
    moved: tuple[Move, ...] = ()
    added: tuple[AuthorityRecord, ...] = ()
    crls: tuple[Crl, ...] = ()
    reparented: tuple[Reparent, ...] = ()


@dataclass(frozen=True, slots=True)
class Straggler:
    """A holder of an unexpired leaf who has not acknowledged; ``acknowledged`` is the generation it has, 0 for none."""

    holder: str
    kind: str
    spiffe_id: SpiffeId
    acknowledged: int = 0

    def __str__(self) -> str:
        return f"{self.spiffe_id} {self.holder}"


class Acknowledgements(Protocol):
    """Who has put which trust and which leaf in force. Holders of one-off files are not waited for (design §7)."""

    def stragglers(self, generation: int, at: datetime) -> Sequence[Straggler]:
        """Return who holds a leaf that is unexpired at this time and has not acknowledged this trust generation."""

    def holders(self, at: datetime) -> int:
        """Return how many holders of an unexpired leaf there are to wait for."""

    def still_on(self, issuer_id: str, at: datetime) -> Sequence[Straggler]:
        """Return who may still serve a leaf of this CA: the last one acknowledged, or an unexpired one and no other."""


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

    def change_trust(self, change: TrustChange, audit: Sequence[AuditEntry]) -> None:
        """Change CAs and CRLs and make the next trust generation of it, all or nothing.

        Raises:
            MovedOnError: The generation is not the next one.
            ConflictError: A CA is not in the state or below the CA that it is to leave, or is known already, another CA
                of its role has the state it is to have, or a CRL number is not higher; or a CA is added while issuance
                is frozen.
        """

    def hasten(self, ca_id: str, at: datetime, audit: AuditEntry) -> bool:
        """Make the activation of a prepared CA or signing key due at this time.

        False, with nothing written, when it is already.
        """

    def taint(self, ca_ids: Sequence[str], at: datetime, audit: Sequence[AuditEntry]) -> list[str]:
        """Mark the CAs and signing keys that are in use as believed stolen; returns those that were not yet.

        Of the entries those are written whose subject is one of these.
        """

    def lapsed(self, at: datetime) -> int:
        """Return how many identities have had a certificate, if none of any of them is valid at this time; else 0."""

    def last_expiry(self, issuer_id: str, since: datetime) -> datetime | None:
        """Return when the last leaf of this CA ends that was asked for since then, pending ones included."""

    def record_intents(self, intents: Sequence[Intent]) -> list[bool]:
        """Write the intents as ``pending``; False for each whose identity is suspended, for all while frozen.

        False as well where the CA has been removed, or is tainted and ``old``, and where what the intent claims is used
        up or over; it is used up with the intent, in the same transaction. All of it is checked by the same
        statement that inserts (INSERT … WHERE NOT EXISTS …).
        """

    def record_results(
        self, results: Sequence[Result | Abandoned], audit: Callable[[Sequence[bool]], Sequence[AuditEntry]]
    ) -> list[bool]:
        """Turn ``pending`` into ``issued`` or ``abandoned``; False for each that is no longer pending or was revoked.

        While issuance is frozen nothing becomes ``issued``, nor does what a CA has made that is removed, or tainted and
        ``old``.

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

    def freeze(self, freeze: Freeze, audit: AuditEntry) -> bool:
        """Let nothing be issued from here on; False, with nothing written, when that is so already."""

    def unfreeze(self, audit: AuditEntry) -> bool:
        """Let certificates be issued again; False, with nothing written, when they are."""

    def frozen(self) -> Freeze | None:
        """Return since when nothing is issued, or None."""

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

    def pending_request(self) -> CaRequest | None:
        """Return the request for an issuing CA's certificate whose CA is not known yet."""

    def keep_request(self, request: CaRequest, audit: AuditEntry) -> bool:
        """Keep a request in the place of one that was answered; False, with nothing written, while one is pending."""

    def jwt_keys(self) -> list[AuthorityRecord]:
        """Return every key that signs or has signed JWT-SVIDs, in whatever state, oldest generation first."""

    def jwt_generation(self) -> int:
        """Return how often the JWT bundle has changed."""

    def change_jwt_keys(self, change: TrustChange, audit: Sequence[AuditEntry]) -> None:
        """Change signing keys and make the next generation of the JWT bundle, all or nothing.

        Raises:
            ConflictError: As of ``change_trust``.
        """

    def admit_token(self, spiffe_id: SpiffeId, key_id: str, audit: AuditEntry) -> bool:
        """Write the entry of a token that is to be answered.

        False, with nothing written, where its identity is suspended, its key is not active or is tainted, or issuance
        is frozen.
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


class JwtHolders(Protocol):
    """Who follows the JWT bundle. Whoever fetched it once, or over HTTP, is not waited for: they fetch again."""

    def behind(self, generation: int, at: datetime) -> Sequence[Straggler]:
        """Return who follows it at this time and has not been given this generation."""

    def holders(self, at: datetime) -> int:
        """Return how many follow it at this time."""


class NoJwtHolders:
    """Nobody follows the JWT bundle."""

    def behind(self, generation: int, at: datetime) -> Sequence[Straggler]:
        """Return nobody."""
        return ()

    def holders(self, at: datetime) -> int:
        """Return none."""
        return 0


@dataclass(frozen=True, slots=True)
class Ports:
    """All that an authority asks of others."""

    ledger: Ledger
    acknowledgements: Acknowledgements
    keys: Keys
    clock: Clock
    entropy: Entropy
    jwt_holders: JwtHolders = field(default_factory=NoJwtHolders)
