"""Freezing: from one moment on nothing is issued, until somebody says otherwise.

Rules: a freeze is in the ledger and the audit log before it is answered, and from then on nothing is issued by anybody
on that ledger; what has been issued is served until it expires; CRLs, revocation, suspension and `resume` go on.
"""

from __future__ import annotations

from dataclasses import dataclass

from meshca.authority import audit
from meshca.authority.audit import AuditEntry
from meshca.authority.ports import Clock, Ledger
from meshca.authority.records import Freeze
from meshca.errors import ConflictError, InvalidInputError, MeshcaError, RefusedError
from meshca.spiffe.id import TrustDomain

_LONGEST_REASON = 512
_REMEDY = "`meshca unfreeze` ends that"


class FrozenError(RefusedError):
    """Issuance is frozen."""

    def __init__(self, freeze: Freeze) -> None:
        super().__init__(f"issuance is {described(freeze)}", remedy=_REMEDY)


def described(freeze: Freeze) -> str:
    """Say since when, by whom and why, as one line."""
    since = f"frozen since {freeze.at.isoformat(timespec='seconds')} by {freeze.by}"
    return f"{since}: {freeze.reason}" if freeze.reason else since


@dataclass(frozen=True, slots=True)
class Freezing:
    """Freezes and unfreezes. Any thread may call it."""

    ledger: Ledger
    clock: Clock
    trust_domain: TrustDomain

    def freeze(self, reason: str, actor: str) -> Freeze:
        """Let nothing be issued from here on.

        Raises:
            InvalidInputError: The reason is too long, or no printable line.
            ConflictError: Issuance is frozen already.
        """
        _require_line(reason)
        wanted = Freeze(self.clock.now(), actor, reason)
        if not self.ledger.freeze(wanted, self._entry(audit.FREEZE, audit.OK, reason, actor)):
            found = self.ledger.frozen()
            message = f"issuance is {described(found)}" if found else "issuance was frozen a moment ago"
            raise self._refused(ConflictError(f"{message}; nothing was changed"), audit.FREEZE, actor)
        return wanted

    def unfreeze(self, actor: str) -> None:
        """Let certificates be issued again.

        Raises:
            ConflictError: Issuance is not frozen.
        """
        if not self.ledger.unfreeze(self._entry(audit.UNFREEZE, audit.OK, "", actor)):
            raise self._refused(ConflictError("issuance is not frozen"), audit.UNFREEZE, actor)

    def frozen(self) -> Freeze | None:
        """Return since when nothing is issued, or None."""
        return self.ledger.frozen()

    def _refused(self, error: MeshcaError, action: str, actor: str) -> MeshcaError:
        self.ledger.record_audit([self._entry(action, audit.REFUSED, error.message, actor)])
        return error

    def _entry(self, action: str, outcome: str, reason: str, actor: str) -> AuditEntry:
        return AuditEntry(action, str(self.trust_domain.id), outcome, reason, actor)


def _require_line(reason: str) -> None:
    if len(reason) > _LONGEST_REASON or not reason.isprintable():
        raise InvalidInputError(
            f"a reason is one printable line of at most {_LONGEST_REASON} characters", field="reason", value=reason
        )
