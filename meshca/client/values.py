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
    federation: str | None = None
    """Where the bundle endpoint listens, if there is one."""


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
class ResourceChange:
    """A resource that would be sent to an Envoy or taken from it: added, changed or removed."""

    change: str
    type_url: str
    name: str


@dataclass(frozen=True, slots=True)
class Effect:
    """What a node's Envoys would be sent: those connected, or where none is, one that was."""

    node_id: str
    envoys: tuple[str, ...]
    resources: tuple[ResourceChange, ...]
    problem: str = ""


@dataclass(frozen=True, slots=True)
class EnvoyProgress:
    """How far one Envoy has come with a revision: waiting, acknowledged, rejected or gone."""

    node_id: str
    spiffe_id: str
    state: str
    message: str = ""  # the Envoy's own, of a NACK


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a node is to be found; port 0: its listener's own."""

    node_id: str
    address: str
    port: int = 0


@dataclass(frozen=True, slots=True)
class Applied:
    """The answer to an apply; ``revision`` is unchanged by a dry run, which alone has effects."""

    revision: int
    changes: tuple[Change, ...] = ()
    permissions: tuple[Permission, ...] = ()
    warnings: tuple[str, ...] = ()
    effects: tuple[Effect, ...] = ()


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
    """What a NODE of the command line stands for; ``key_types`` are those its certificates may have."""

    node_id: str
    spiffe_id: str
    key_types: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Registration:
    """Who may hold an identity: a process for which all selectors hold."""

    id: str
    spiffe_id: str
    selectors: tuple[str, ...]
    parent: str = ""
    federates_with: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Federating:
    """Where to find the bundle of a trust domain, and how to know its server."""

    trust_domain: str
    url: str
    profile: str = ""
    endpoint_id: str = ""
    bundle: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Federation:
    """A federated trust domain, and how it stands with its bundle."""

    trust_domain: str
    url: str
    profile: str
    endpoint_id: str
    roots: int
    jwt_keys: int
    sequence: int | None
    fetched_at: datetime | None
    due_at: datetime
    failure: str = ""


@dataclass(frozen=True, slots=True)
class SigningRequest:
    """One certificate to issue: a node and a CSR in DER or PEM."""

    node: str
    csr: bytes
    ttl: timedelta | None = None
    holder: str = "issue"
    dns_names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Issued:
    """An issued certificate; ``chain`` is PEM: leaf, then issuing CA."""

    serial: str
    spiffe_id: str
    not_before: datetime
    not_after: datetime
    chain: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class AdminIdentity:
    """A remote administrator's certificate, the roots (PEM), and what the administrator may do."""

    issued: Issued
    bundle: bytes = field(repr=False)
    role: str = ""


@dataclass(frozen=True, slots=True)
class Token:
    """What an agent may join with, once."""

    text: str = field(repr=False)
    spiffe_id: str
    expires: datetime


@dataclass(frozen=True, slots=True)
class Agent:
    """A node agent: connected, attested, expired or evicted."""

    id: str
    spiffe_id: str
    state: str
    method: str
    attested_at: datetime
    not_after: datetime
    registrations: int


@dataclass(frozen=True, slots=True)
class Evicted:
    """An agent that was suspended, and what was revoked with it."""

    spiffe_id: str
    revoked: tuple[str, ...]


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
class CertificateQuery:
    """Which certificates to list, oldest first; an empty field does not narrow.

    ``since`` and ``until`` bound the time of creation; ``archived`` lists the archive in place of the ledger.
    """

    node: str = ""
    state: str = ""
    serial: str = ""
    issuer: str = ""
    since: datetime | None = None
    until: datetime | None = None
    archived: bool = False


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
class CertificatePage:
    """Some rows of the ledger; ``after`` is where the next page begins, empty on the last."""

    records: tuple[CertificateRecord, ...]
    after: str = ""


@dataclass(frozen=True, slots=True)
class Authority:
    """One CA: prepared, active or old."""

    id: str
    state: str
    not_after: datetime
    generation: int
    waiting_for: tuple[str, ...] = ()
    activate_at: datetime | None = None  # of one that is prepared
    deadline: datetime | None = None  # until when it waits
    tainted: bool = False
    parent: str = ""
    key: str = ""  # where its key is; empty: an upstream's


@dataclass(frozen=True, slots=True)
class Authorities:
    """All CAs of the trust domain; ``intermediates`` are an upstream's, between its root and the issuing CA."""

    roots: tuple[Authority, ...]
    issuing: tuple[Authority, ...]
    intermediates: tuple[Authority, ...] = ()
    jwt: tuple[Authority, ...] = ()  # keys that sign JWT-SVIDs


@dataclass(frozen=True, slots=True)
class RotationProgress:
    """How far a CA has come: ``waiting_for`` of ``holders`` have not acknowledged it."""

    id: str
    role: str
    state: str
    holders: int
    waiting_for: tuple[str, ...] = ()
    deadline: datetime | None = None


@dataclass(frozen=True, slots=True)
class CaRequest:
    """A request (PEM) for an issuing CA's certificate that waits for its chain."""

    id: str
    csr: bytes = field(repr=False)
    created_at: datetime
    is_new: bool


@dataclass(frozen=True, slots=True)
class ImportedChain:
    """What an import brought; ``id`` empty: CRLs alone."""

    id: str
    parent: str
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Trust:
    """The whole current trust: bundle and CRLs are PEM; ``revoked`` and ``suspended`` speak of the identity watched."""

    generation: int
    bundle: bytes = field(repr=False)
    crl: bytes = field(repr=False)
    revoked: tuple[str, ...] = ()
    suspended: bool = False
    leaf_crl_only: bool = False  # some CA of an upstream has no usable CRL: only leaves can be looked up


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
    previous: str = ""


@dataclass(frozen=True, slots=True)
class KeptCheckpoints:
    """Checkpoints that somebody kept: the text of a checkpoint file, or lines of a server's log."""

    name: str
    content: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class AuditVerification:
    """Whether the audit chains are whole."""

    intact: bool
    records: int
    findings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BackupSummary:
    """What a backup holds; ``keys_elsewhere`` are references to keys that it does not hold."""

    made_at: datetime
    rows: int
    sealed_keys: int
    keys_elsewhere: tuple[str, ...] = ()
