"""How a raised drain epoch reaches Envoy: in the names of filter chains and the metadata of clusters.

Rules kept here (measured, design: what real Envoy does):
- Renaming a filter chain ends its connections of every kind; changed cluster metadata ends idle and new ones.
- A token changes exactly when one of its counters is raised. A counter that was never raised is not in it, so that
  admitting one more client cuts nobody's connection.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

UNRAISED = "0"
_DIGITS = 16


def token(epochs: Mapping[str, int], scopes: Iterable[str]) -> str:
    """Return a short text for the state of these drain scopes."""
    raised = sorted({f"{scope}={epoch}" for scope in scopes if (epoch := epochs.get(scope, 0))})
    return hashlib.sha256("\n".join(raised).encode()).hexdigest()[:_DIGITS] if raised else UNRAISED
