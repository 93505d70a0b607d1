"""In which order the types of one ADS stream are sent.

Rules this module keeps (xDS protocol, "Eventual consistency considerations"; design §5):
- Secrets, clusters, endpoints, listeners, routes: what is built on comes first. A new CRL must be there before the
  renamed filter chain or cluster lets anybody connect again.
- An answer somebody waits for is never held back for order's sake; a client may hold back an acknowledgement until
  it has that answer.
- Removals go last and the other way round, acknowledged in between: a cluster before its secret.
"""

from __future__ import annotations

from collections.abc import Mapping

from meshca.xds.resource import CDS, EDS, LDS, RDS, SDS
from meshca.xds.subscription import Subscription

ORDER = (SDS, CDS, EDS, LDS, RDS)
REMOVAL_ORDER = (LDS, RDS, EDS, CDS, SDS)

_AFTER: Mapping[str, tuple[str, ...]] = {CDS: (SDS,), LDS: (SDS, CDS), RDS: (CDS,)}


def may_send(subscription: Subscription, subscriptions: Mapping[str, Subscription]) -> bool:
    """Return whether this type may be sent now."""
    if not subscription.ready:
        return False
    return subscription.demanded or not any(
        subscriptions[earlier].blocking for earlier in _AFTER.get(subscription.type_url, ()) if earlier in subscriptions
    )


def may_remove(subscription: Subscription, subscriptions: Mapping[str, Subscription]) -> bool:
    """Return whether this type's removals may be sent now.

    No other type has anything left to send before it, and those whose removals go first have had their answers.
    """
    if not subscription.ready:
        return False
    for earlier in REMOVAL_ORDER[: REMOVAL_ORDER.index(subscription.type_url)]:
        if earlier in subscriptions and subscriptions[earlier].flight and not subscriptions[earlier].impatient:
            return False
    others = (other for other in subscriptions.values() if other is not subscription and other.pending)
    return all(other.impatient or may_send(other, subscriptions) for other in others)


def somebody_waits(subscriptions: Mapping[str, Subscription]) -> bool:
    """Return whether something is held up by an acknowledgement that patience would replace."""
    return any(s.pending for s in subscriptions.values()) and any(
        s.flight and not s.impatient for s in subscriptions.values()
    )
