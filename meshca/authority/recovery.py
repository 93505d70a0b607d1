"""What has been lost while the server was away, and how each part of it comes back.

Rule: what is lost is said before anything is repaired, and so is what is left to a person: a new root has to reach
everybody who trusts the old one by other ways than ours, so that nobody but a person can decide on it.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from meshca.authority.records import ISSUING, ROOT, AuthorityRecord

_COMMAND = "nothing verifies until somebody runs `meshca rotate root`"
_BY_ITSELF = "another is made now"


def losses(records: Iterable[AuthorityRecord], lapsed: int, now: datetime) -> list[str]:
    """Return a sentence for each CA that expired in office, and one for the identities left without a certificate."""
    gone = {record.role: record for record in records if record.state == "active" and record.not_after <= now}
    found = []
    if (root := gone.get(ROOT)) is not None:
        remedy = _COMMAND if root.is_ours else "nothing verifies until a chain below another root is brought"
        found.append(f"root {root.id} expired on {_at(root)}: {remedy}")
    if (issuing := gone.get(ISSUING)) is not None:
        remedy = "one follows the next root" if root else _BY_ITSELF
        found.append(f"issuing CA {issuing.id} expired on {_at(issuing)}: {remedy}")
    if lapsed:
        found.append(f"no valid certificate is left of {lapsed} identities: each gets one as soon as it connects")
    return found


def _at(record: AuthorityRecord) -> str:
    return record.not_after.isoformat(timespec="seconds")
