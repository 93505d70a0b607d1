"""Who may call what: the one table of it.

Rules kept here (design §7):
- Each method of the API stands here, or nobody may call it. A test compares the tables with the protos.
- ``admin.sock`` is for the home's owner and root, and so is as good as the role ``admin``.
- A role includes those before it. What changes trust, unlocks, or hands all of it out is for ``admin`` alone.
- Admins don't call the agents' API, agents don't call that of admins, and who shows no certificate may only attest.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

Role = Literal["viewer", "operator", "admin"]
ROLES: tuple[Role, ...] = ("viewer", "operator", "admin")

STRANGER, AGENT = "stranger", "agent"

_VIEWER = """
    Status Get Can Resolve Registrations Certificates ShowAuthorities Bundle WatchTrust WatchRevision WatchRotation
    ListEndpoints ListStreams Render AuditTail AuditVerify AuditExport ListAgents RenewAdmin ListFederations
"""
_OPERATOR = """
    Apply Rollback Delete Register Unregister Issue Revoke Freeze RotateLeaf AcknowledgeTrust AddEndpoints
    RemoveEndpoints CreateToken EvictAgent RefreshFederation
"""
_ADMIN = """
    Resume Unfreeze RotateAuthority TaintAuthority CaRequest ImportChain Backup AddAdmin Federate Unfederate
"""
ADMIN_CALLS: Mapping[str, Role] = MappingProxyType(
    {name: role for role, names in zip(ROLES, (_VIEWER, _OPERATOR, _ADMIN), strict=True) for name in names.split()}
)
AGENT_CALLS: Mapping[str, str] = MappingProxyType(
    {
        "ShowTrust": STRANGER,
        "Attest": STRANGER,
        "Renew": AGENT,
        "Watch": AGENT,
        "Sign": AGENT,
        "Token": AGENT,
        "Acknowledge": AGENT,
        "Report": AGENT,
        "DeltaAggregatedResources": AGENT,
    }
)


def is_enough(role: str, least: Role) -> bool:
    """Whether a role includes another; one that is unknown includes none."""
    return role in ROLES and ROLES.index(role) >= ROLES.index(least)
