"""What the audit log says about one act.

Rules: an entry never carries a secret; whoever changes state writes its entry in the same commit; a refusal is an entry
too. The store gives each entry its writer, sequence number, time and hash.
"""

from __future__ import annotations

from dataclasses import dataclass

# Outcomes.
OK = "ok"
REFUSED = "refused"
FAILED = "failed"

# Actions. Rooms above add theirs (apply, register, …) here, so that one list names all that can stand in the log.
INIT = "init"
JOIN = "join"
ISSUE = "issue"
ISSUE_JWT = "issue-jwt"
REVOKE = "revoke"
SUSPEND = "suspend"
RESUME = "resume"
FREEZE = "freeze"
UNFREEZE = "unfreeze"
PUBLISH_CRL = "publish-crl"
ROTATE = "rotate"
REWRAP = "rewrap"
TAINT = "taint"
RECOVER = "recover"
REQUEST = "request-ca"
IMPORT = "import-ca"
APPLY = "apply"
DELETE = "delete"
ROLLBACK = "rollback"
ADD_ENDPOINTS = "add-endpoints"
REMOVE_ENDPOINTS = "remove-endpoints"
REGISTER = "register"
UNREGISTER = "unregister"
ATTEST = "attest"
DELIVER = "deliver"
ARCHIVE = "archive"
BACKUP = "backup"
RESTORE = "restore"
CALL = "call"
ADD_ADMIN = "add-admin"
CREATE_JOIN = "create-join-token"
EVICT = "evict-agent"
FEDERATE = "federate"
UNFEDERATE = "unfederate"
FETCH_BUNDLE = "fetch-bundle"


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One act: who (``actor``) did what (``action``) to whom (``subject``), how it ended and why."""

    action: str
    subject: str
    outcome: str
    reason: str
    actor: str
