"""Why a certificate is revoked: the names of RFC 5280 §5.3.1.

Not offered: certificateHold, which a later entry could lift (suspend and resume a node instead), and removeFromCRL,
which only delta CRLs carry.
"""

from __future__ import annotations

from meshca.errors import InvalidInputError

UNSPECIFIED = "unspecified"
REASONS = (
    UNSPECIFIED,
    "keyCompromise",
    "cACompromise",
    "affiliationChanged",
    "superseded",
    "cessationOfOperation",
    "privilegeWithdrawn",
    "aACompromise",
)


class ReasonError(InvalidInputError):
    """Not a reason that may be given."""


def parse_reason(text: str) -> str:
    """Return the reason; empty text means ``unspecified``.

    Raises:
        ReasonError: It is none of ``REASONS``; names are case-sensitive.
    """
    reason = text or UNSPECIFIED
    if reason not in REASONS:
        raise ReasonError(
            "no reason that may be given", field="reason", value=text, remedy=f"one of {', '.join(REASONS)}"
        )
    return reason
