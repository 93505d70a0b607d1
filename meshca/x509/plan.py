"""What is to be signed, before anything is encoded: a plan says it all and holds no secret."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Literal, NamedTuple

from meshca.spiffe.id import SpiffeId, TrustDomain
from meshca.x509.issuer import Issuer

# So that a certificate is valid at once where clocks differ by less than a minute: a peer whose clock is behind
# refuses a future one.
BACKDATING = timedelta(seconds=60)


@dataclass(frozen=True, slots=True)
class LeafPlan:
    """An X.509-SVID of a workload."""

    spiffe_id: SpiffeId
    spki: bytes = field(repr=False)
    serial: int
    not_before: datetime
    not_after: datetime
    issuer: Issuer
    dns_names: tuple[str, ...] = ()
    names_subject: bool = False  # whether the subject says the identity, too


@dataclass(frozen=True, slots=True)
class CaPlan:
    """A root (``issuer`` is None: signed by itself) or an issuing CA."""

    role: Literal["root", "issuing"]
    trust_domain: TrustDomain
    spki: bytes = field(repr=False)
    serial: int
    not_before: datetime
    not_after: datetime
    issuer: Issuer | None = None
    name_constraint: bool = False


class Validity(NamedTuple):
    """From when until when."""

    not_before: datetime
    not_after: datetime


def whole_seconds(at: datetime) -> datetime:
    """Return the time in UTC without its fraction, as certificates carry it."""
    moment = at if at.tzinfo is UTC else at.astimezone(UTC)
    return moment.replace(microsecond=0)


def validity(now: datetime, life: timedelta, issuer: Issuer | None) -> Validity:
    """Return the time for a new certificate: back-dated 60 s, capped at both ends of its issuer's."""
    moment = whole_seconds(now)
    not_before, not_after = moment - BACKDATING, moment + life
    if issuer is None:
        return Validity(not_before, not_after)
    return Validity(max(not_before, issuer.not_before), min(not_after, issuer.not_after))
