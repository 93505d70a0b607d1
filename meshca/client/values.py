"""What goes into and comes out of a meshca server, as typed values.

Each is frozen. Times are aware and UTC, serials lower-case hex, identities SPIFFE IDs in text form.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

Envelope = Mapping[str, Any]
"""An App Mesh object as its API describes it, with ``kind``: meshName, virtualNodeName, …, spec."""


@dataclass(frozen=True, slots=True)
class Status:
    """How a server is doing."""

    state: str
    trust_domain: str
    grpc: str | None
    http: str | None
    socket: str
    revision: int
    trust_generation: int
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Change:
    """What an apply did to one object: added, changed, removed or unchanged."""

    change: str
    kind: str
    mesh: str
    name: str
    parent: str = ""


@dataclass(frozen=True, slots=True)
class Permission:
    """A client that may newly call a server's port, or no longer may."""

    client: str
    server: str
    port: int
    allowed: bool


@dataclass(frozen=True, slots=True)
class Applied:
    """The answer to an apply; ``revision`` is unchanged by a dry run."""

    revision: int
    changes: tuple[Change, ...] = ()
    permissions: tuple[Permission, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Reason:
    """Which field of which object led to a decision."""

    object: str
    field: str
    text: str


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a client may call a server, and why."""

    allowed: bool
    client: str
    server: str
    reasons: tuple[Reason, ...] = ()


@dataclass(frozen=True, slots=True)
class Node:
    """What a NODE of the command line stands for."""

    node_id: str
    spiffe_id: str


@dataclass(frozen=True, slots=True)
class Registration:
    """Who may hold an identity: a process for which all selectors hold."""

    id: str
    spiffe_id: str
    selectors: tuple[str, ...]
    parent: str = ""


@dataclass(frozen=True, slots=True)
class SigningRequest:
    """One certificate to issue: a node and a CSR in DER or PEM."""

    node: str
    csr: bytes
    ttl: timedelta | None = None
    holder: str = "issue"


@dataclass(frozen=True, slots=True)
class Issued:
    """An issued certificate; ``chain`` is PEM: leaf, then issuing CA."""

    serial: str
    spiffe_id: str
    not_before: datetime
    not_after: datetime
    chain: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Revoked:
    """What a revocation did, and how many Envoys know."""

    revoked: tuple[str, ...]
    suspended: bool
    crl_number: int
    notified: int
    acknowledged: int
    not_drainable: int
    elapsed_ms: int


@dataclass(frozen=True, slots=True)
class CertificateRecord:
    """One row of the ledger."""

    serial: str
    spiffe_id: str
    state: str
    not_before: datetime
    not_after: datetime
    issuer: str
    revoked_at: datetime | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Authority:
    """One CA: prepared, active or old."""

    id: str
    state: str
    not_after: datetime
    generation: int
    waiting_for: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Authorities:
    """All CAs of the trust domain."""

    roots: tuple[Authority, ...]
    issuing: tuple[Authority, ...]


@dataclass(frozen=True, slots=True)
class Trust:
    """The whole current trust: bundle and CRLs are PEM; ``revoked`` and ``suspended`` speak of the identity watched."""

    generation: int
    bundle: bytes = field(repr=False)
    crl: bytes = field(repr=False)
    revoked: tuple[str, ...] = ()
    suspended: bool = False


@dataclass(frozen=True, slots=True)
class Stream:
    """One stream and resource type of a connected Envoy."""

    node_id: str
    spiffe_id: str
    type_url: str
    version_sent: str
    version_acked: str
    nack: str
    connected_since: datetime


@dataclass(frozen=True, slots=True)
class Resource:
    """A serialised xDS resource."""

    type_url: str
    name: str
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Rendered:
    """All that a node's Envoy would be sent, private keys redacted."""

    node_id: str
    resources: tuple[Resource, ...]


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """One record of the audit log; ``outcome`` is ok, refused or failed."""

    writer: str
    seq: int
    time: datetime
    actor: str
    action: str
    subject: str
    outcome: str
    reason: str
    hash: str


@dataclass(frozen=True, slots=True)
class AuditVerification:
    """Whether the audit chains are whole."""

    intact: bool
    records: int
    findings: tuple[str, ...] = ()
