"""What may be asked of the issuer, and what it answers.

Rules: an identity is issued only in our trust domain and with a path; ``nobody`` never; what lies under ``/meshca/``
only to the kind of caller it is reserved for; a life is what was asked, capped by the profile and by the issuer.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from functools import lru_cache
from typing import Literal

from meshca.authority.ports import Claim
from meshca.errors import InvalidInputError, MeshcaError, RefusedError
from meshca.spiffe.bundle import pem
from meshca.spiffe.id import SpiffeId, TrustDomain
from meshca.spiffe.reserved import is_reserved, nobody
from meshca.x509.checked import Certificate
from meshca.x509.issuer import CaCertificate
from meshca.x509.profiles import ADMIN, AGENT, SERVER, SVID, Profile

Kind = Literal["stream", "file", "server", "admin", "agent"]

# Holders of files that were written once: nobody renews them, so no rotation waits for them (design §7).
ISSUED_ONCE = "issue"
DROP_ONCE = "drop-once:"

_SECOND = timedelta(seconds=1)
_PROFILE_OF: dict[Kind, Profile] = {"stream": SVID, "file": SVID, "server": SERVER, "admin": ADMIN, "agent": AGENT}


class IdentityRefusedError(RefusedError):
    """This identity is not issued to this kind of caller."""


@dataclass(frozen=True, slots=True)
class IssueRequest:
    """A wish for one certificate; ``ttl`` None means the configured life of a leaf."""

    spiffe_id: SpiffeId
    spki: bytes = field(repr=False)
    ttl: timedelta | None
    holder: str
    kind: Kind
    requested_by: str
    dns_names: tuple[str, ...] = ()  # decided before (policy/hostnames.py); the profile must have them, too
    names_subject: bool = False  # whether the subject says the identity, too
    claim: Claim | None = None  # what is used up by this request


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate that is in the ledger, and its chain: leaf, then issuing CA."""

    certificate: Certificate
    chain_pem: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Refused:
    """Why there is no certificate."""

    error: MeshcaError


def profile_of(kind: Kind) -> Profile:
    """Return the profile of what this kind of caller gets, as the table has it."""
    return _PROFILE_OF[kind]


def require_issuable(spiffe_id: SpiffeId, kind: Kind, trust_domain: TrustDomain) -> None:
    """Check that the identity may be issued to this kind of caller at all.

    Raises:
        IdentityRefusedError: It is foreign, has no path, or is reserved for another kind.
    """
    if spiffe_id.trust_domain != trust_domain:
        raise _refused(spiffe_id, f"outside the trust domain {trust_domain}")
    if spiffe_id.is_trust_domain:
        raise _refused(spiffe_id, "names the trust domain itself, no workload (X509-SVID §5.2)")
    room = profile_of(kind).room
    if is_reserved(spiffe_id):
        _require_reserved_for(spiffe_id, room)
    elif room:
        raise _refused(spiffe_id, f"the kind {kind!r} gets identities under {room} only")


def _require_reserved_for(spiffe_id: SpiffeId, room: str) -> None:
    if spiffe_id == nobody(spiffe_id.trust_domain):
        raise _refused(spiffe_id, "reserved for nobody, never issued")
    if not room or not spiffe_id.path.startswith(room):
        raise _refused(spiffe_id, "reserved: everything under /meshca/ is meshca's own")


def granted_life(ttl: timedelta | None, cap: timedelta) -> timedelta:
    """Return the life asked for in whole seconds, but never more than the cap.

    Raises:
        InvalidInputError: The life asked for is shorter than a second.
    """
    life = cap if ttl is None else min(ttl, cap)
    if life < _SECOND:
        raise InvalidInputError("a certificate lives for at least 1s", field="ttl", value=str(ttl))
    return life // _SECOND * _SECOND


def chain_pem(certificate: Certificate, chain: Iterable[CaCertificate]) -> bytes:
    """Return the leaf and the CAs above it, never the root (design §5: no self-signed certificate in a chain)."""
    return certificate.pem + b"".join(_pem(issuer.certificate) for issuer in chain)


@lru_cache(maxsize=8)
def _pem(der: bytes) -> bytes:
    return pem([der])


def _refused(spiffe_id: SpiffeId, why: str) -> IdentityRefusedError:
    return IdentityRefusedError(why, field="SPIFFE ID", value=str(spiffe_id))
