"""An admin API that answers from what a test put into it, and remembers what it was asked."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from meshca.client.values import (
    Applied,
    AuditRecord,
    AuditVerification,
    Authorities,
    BackupSummary,
    CertificatePage,
    CertificateQuery,
    CertificateRecord,
    Decision,
    Endpoint,
    EnvoyProgress,
    Federating,
    Federation,
    Issued,
    KeptCheckpoints,
    Node,
    Registration,
    Rendered,
    Revoked,
    RotationProgress,
    SigningRequest,
    Status,
    Stream,
    Trust,
)
from meshca.errors import MeshcaError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

T0 = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
NODE = "mesh/m/virtualNode/front"
SPIFFE_ID = f"spiffe://m.test/{NODE}"


@dataclass
class FakeAdmin:
    """Stands in for ``AdminClient``."""

    calls: list[tuple[Any, ...]] = field(default_factory=list)
    error: MeshcaError | None = None
    key_types: tuple[str, ...] = ()
    status_answers: list[Status] = field(
        default_factory=lambda: [Status("ready", "m.test", None, "127.0.0.1:8080", "/h/run/meshca.sock", 3, 4, ("w",))]
    )
    applied: Applied = field(default_factory=lambda: Applied(1))
    objects: list[dict[str, Any]] = field(default_factory=list)
    decision: Decision | None = None
    entries: list[Registration] = field(default_factory=list)
    federated: list[Federation] = field(default_factory=list)
    issuer: Callable[[SigningRequest], Issued | MeshcaError] | None = None
    revoked: Revoked = field(default_factory=lambda: Revoked(("0a",), False, 7, 2, 1, 0, 12))
    records: list[CertificateRecord] = field(default_factory=list)
    cas: Authorities = field(default_factory=lambda: Authorities((), ()))
    bundles: dict[str, bytes] = field(default_factory=lambda: {"pem": b"PEM\n"})
    trusts: list[Trust] = field(default_factory=list)
    progress: list[RotationProgress] = field(default_factory=list)
    rows: list[Stream] = field(default_factory=list)
    envoys: list[tuple[EnvoyProgress, ...]] = field(default_factory=list)
    rendered: Rendered = field(default_factory=lambda: Rendered(NODE, ()))
    audit: list[AuditRecord] = field(default_factory=list)
    backup_pieces: list[bytes | BackupSummary] = field(
        default_factory=lambda: [b"one", b"two", BackupSummary(T0, 7, 2, ("openbao:transit/root@1",))]
    )
    verification: AuditVerification = field(default_factory=lambda: AuditVerification(True, 3))

    def __enter__(self) -> FakeAdmin:
        return self

    def __exit__(self, *_: object) -> None: ...

    def _called(self, *call: Any) -> None:
        self.calls.append(call)
        if self.error is not None:
            raise self.error

    def status(self) -> Status:
        self._called("status")
        return self.status_answers.pop(0) if len(self.status_answers) > 1 else self.status_answers[0]

    def apply(self, objects: Sequence[Any], *, dry_run: bool = False, prune: bool = False) -> Applied:
        self._called("apply", list(objects), dry_run, prune)
        return self.applied

    def watch_revision(self, revision: int, seconds: float) -> Iterator[tuple[EnvoyProgress, ...]]:
        self._called("watch_revision", revision, seconds)
        return iter(self.envoys)

    def rollback(self, revision: int) -> int:
        self._called("rollback", revision)
        return revision + 1

    def add_endpoints(self, node: str, addresses: Sequence[str]) -> list[Endpoint]:
        self._called("add_endpoints", node, tuple(addresses))
        return [Endpoint(NODE, address) for address in addresses]

    def remove_endpoints(self, node: str, addresses: Sequence[str]) -> list[Endpoint]:
        self._called("remove_endpoints", node, tuple(addresses))
        return []

    def endpoints(self, node: str = "") -> list[Endpoint]:
        self._called("endpoints", node)
        return [Endpoint(NODE, "10.0.0.1", 80)]

    def get(self, kind: str = "", name: str = "", mesh: str = "") -> list[dict[str, Any]]:
        self._called("get", kind, name, mesh)
        return self.objects

    def delete(self, kind: str, name: str, *, mesh: str = "", parent: str = "") -> int:
        self._called("delete", kind, name, mesh, parent)
        return 9

    def can(self, client: str, server: str, *, port: int = 0) -> Decision:
        self._called("can", client, server, port)
        if self.decision is None:
            raise NotFoundError("no such node", field="NODE", value=client)
        return self.decision

    def resolve(self, node: str) -> Node:
        self._called("resolve", node)
        return Node(NODE, SPIFFE_ID, self.key_types)

    def register(
        self, node: str, selectors: Sequence[str], *, parent: str = "", federates_with: Sequence[str] = ()
    ) -> Registration:
        self._called("register", node, tuple(selectors), parent, *federates_with)
        return Registration("r1", SPIFFE_ID, tuple(selectors), parent, tuple(federates_with))

    def federate(self, wanted: Federating) -> Federation:
        self._called("federate", wanted)
        return self.federated[0]

    def unfederate(self, trust_domain: str) -> None:
        self._called("unfederate", trust_domain)

    def refresh_federation(self, trust_domain: str) -> Federation:
        self._called("refresh_federation", trust_domain)
        return self.federated[0]

    def federations(self) -> list[Federation]:
        self._called("federations")
        return self.federated

    def registrations(self) -> list[Registration]:
        self._called("registrations")
        return self.entries

    def unregister(self, registration_id: str) -> None:
        self._called("unregister", registration_id)

    def issue(self, requests: Sequence[SigningRequest]) -> list[Issued | MeshcaError]:
        self._called("issue", *requests)
        assert self.issuer is not None
        return [self.issuer(request) for request in requests]

    def revoke(self, serial: str = "", *, node: str = "", reason: str = "", wait: Any = None) -> Revoked:
        self._called("revoke", serial, node, reason, wait)
        return self.revoked

    def freeze(self, reason: str = "") -> datetime:
        self._called("freeze", reason)
        return T0

    def unfreeze(self) -> None:
        self._called("unfreeze")

    def resume(self, node: str) -> str:
        self._called("resume", node)
        return SPIFFE_ID

    def certificates(self, *, node: str = "", state: str = "", serial: str = "") -> list[CertificateRecord]:
        self._called("certificates", node, state, serial)
        return self.records

    def certificate_page(self, wanted: CertificateQuery, size: int, after: str = "") -> CertificatePage:
        self._called("certificate_page", wanted, size, after)
        serials = [record.serial for record in self.records]
        begin = serials.index(after) + 1 if after else 0
        found = tuple(self.records[begin : begin + size])
        more = begin + size < len(self.records)
        return CertificatePage(found, found[-1].serial if more else "")

    def rotate_leaf(self, node: str) -> int:
        self._called("rotate_leaf", node)
        return 2

    def authorities(self) -> Authorities:
        self._called("authorities")
        return self.cas

    def bundle(self, form: str = "pem") -> bytes:
        self._called("bundle", form)
        return self.bundles[form]

    def watch_trust(self, holder: str, spiffe_id: str = "") -> Iterator[Trust]:
        self._called("watch_trust", holder, spiffe_id)
        return iter(self.trusts)

    def rotate_authority(self, role: str) -> str:
        self._called("rotate_authority", role)
        return "new"

    def watch_rotation(self, ca_id: str) -> Iterator[RotationProgress]:
        self._called("watch_rotation", ca_id)
        return iter(self.progress)

    def taint_authority(self, ca_id: str) -> tuple[str, ...]:
        self._called("taint_authority", ca_id)
        return (ca_id,)

    def acknowledge_trust(self, holder: str, spiffe_id: str, generation: int, serial: str = "") -> None:
        self._called("acknowledge_trust", holder, spiffe_id, generation, serial)

    def streams(self) -> list[Stream]:
        self._called("streams")
        return self.rows

    def render(self, node: str, *, placement: str = "") -> Rendered:
        self._called("render", node, placement)
        return self.rendered

    def audit_tail(self, count: int = 50) -> list[AuditRecord]:
        self._called("audit_tail", count)
        return self.audit

    def audit_verify(self, kept: Sequence[KeptCheckpoints] = ()) -> AuditVerification:
        self._called("audit_verify", *kept)
        return self.verification

    def audit_export(self, since: datetime | None = None) -> Iterator[AuditRecord]:
        self._called("audit_export", since)
        return iter(self.audit)

    def backup(self, passphrase: bytes = b"") -> Iterator[bytes | BackupSummary]:
        self._called("backup", passphrase)
        return iter(self.backup_pieces)
