"""What the authority tells its subscribers.

Rules: an event is emitted after what it tells has committed, from the thread that did it; trust changes are emitted in
the order of their generations; a subscriber that raises is logged and takes nothing from the others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import structlog

from meshca.authority.jwt_trust import JwtTrust
from meshca.authority.trust import Trust
from meshca.spiffe.id import SpiffeId

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class TrustChanged:
    """Everybody is to be given this trust; ``listed`` are the serials that newly stand on its CRLs."""

    trust: Trust
    listed: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class JwtTrustChanged:
    """Everybody is to be given these keys of JWT-SVIDs."""

    trust: JwtTrust


@dataclass(frozen=True, slots=True)
class LeafRevoked:
    """These certificates of the identity are dead, though not yet on a CRL; ``TrustChanged`` follows."""

    serials: frozenset[str]
    spiffe_id: SpiffeId
    suspended: bool


@dataclass(frozen=True, slots=True)
class Resumed:
    """The identity may hold certificates again."""

    spiffe_id: SpiffeId


@dataclass(frozen=True, slots=True)
class TrustAlarm:
    """New trust could not be made or is unsound: nothing was pushed, an operator has to look."""

    problem: Problem


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that ``status`` shows until it is over."""

    what: str
    since: datetime
    reason: str


Event = TrustChanged | JwtTrustChanged | LeafRevoked | Resumed | TrustAlarm
Subscriber = Callable[[Event], None]


class Subscribers:
    """Those who are told. Adding replaces the tuple, so that emitting needs no lock."""

    def __init__(self) -> None:
        self._callbacks: tuple[Subscriber, ...] = ()

    def add(self, callback: Subscriber) -> None:
        """Tell this one, too, from now on."""
        self._callbacks = (*self._callbacks, callback)

    def emit(self, event: Event) -> None:
        """Tell everybody."""
        for callback in self._callbacks:
            try:
                callback(event)
            except Exception:  # a broken subscriber must not keep a revocation from the others
                _log.exception("subscriber failed", event_type=type(event).__name__)
