"""Protobuf messages to values and back: each function is one message, nothing is decided here."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from meshca.client import values
from meshca.client.status import error_of
from meshca.errors import MeshcaError
from meshca.v1 import admin_pb2 as pb


def moment(timestamp: Any) -> datetime:
    """Return a protobuf timestamp as an aware datetime."""
    found: datetime = timestamp.ToDatetime(tzinfo=UTC)
    return found


def status(reply: Any) -> values.Status:
    """StatusReply; empty addresses mean that nothing listens there."""
    return values.Status(
        state=reply.state,
        trust_domain=reply.trust_domain,
        grpc=reply.grpc or None,
        http=reply.http or None,
        socket=reply.socket,
        revision=reply.revision,
        trust_generation=reply.trust_generation,
        warnings=tuple(reply.warnings),
        federation=reply.federation or None,
    )


def applied(reply: Any) -> values.Applied:
    """ApplyReply."""
    return values.Applied(
        revision=reply.revision,
        changes=tuple(values.Change(c.change, c.kind, c.mesh, c.name, c.parent) for c in reply.changes),
        permissions=tuple(values.Permission(p.client, p.server, p.port, p.allowed) for p in reply.permissions),
        warnings=tuple(reply.warnings),
        effects=tuple(map(_effect, reply.effects)),
    )


def _effect(message: Any) -> values.Effect:
    changes = tuple(values.ResourceChange(r.change, r.type_url, r.name) for r in message.resources)
    return values.Effect(message.node_id, tuple(message.envoys), changes, message.problem)


def revision_progress(message: Any) -> tuple[values.EnvoyProgress, ...]:
    """RevisionProgress."""
    return tuple(values.EnvoyProgress(e.node_id, e.spiffe_id, e.state, e.message) for e in message.envoys)


def endpoints(reply: Any) -> list[values.Endpoint]:
    """EndpointsReply."""
    return [values.Endpoint(e.node_id, e.address, e.port) for e in reply.endpoints]


def decision(reply: Any) -> values.Decision:
    """CanReply."""
    reasons = tuple(values.Reason(r.object, r.field, r.text) for r in reply.reasons)
    return values.Decision(reply.allowed, reply.client, reply.server, reasons)


def registration(message: Any) -> values.Registration:
    """Registration."""
    return values.Registration(
        message.id, message.spiffe_id, tuple(message.selectors), message.parent, tuple(message.federates_with)
    )


def federation(message: Any) -> values.Federation:
    """Federation."""
    return values.Federation(
        trust_domain=message.trust_domain,
        url=message.url,
        profile=message.profile,
        endpoint_id=message.endpoint_id,
        roots=message.roots,
        jwt_keys=message.jwt_keys,
        sequence=message.sequence if message.sequence >= 0 else None,
        fetched_at=moment(message.fetched_at) if message.HasField("fetched_at") else None,
        due_at=moment(message.due_at),
        failure=message.failure,
    )


def signing_request(request: values.SigningRequest) -> Any:
    """SigningRequest."""
    message = pb.SigningRequest(node=request.node, csr=request.csr, holder=request.holder, dns_names=request.dns_names)
    if request.ttl is not None:
        message.ttl.FromTimedelta(request.ttl)
    return message


def signing_result(result: Any) -> values.Issued | MeshcaError:
    """SigningResult: a certificate, or why there is none."""
    if result.WhichOneof("result") == "failure":
        return error_of(result.failure.code, result.failure.message)
    return _issued(result.certificate)


def _issued(found: Any) -> values.Issued:
    return values.Issued(
        serial=found.serial,
        spiffe_id=found.spiffe_id,
        not_before=moment(found.not_before),
        not_after=moment(found.not_after),
        chain=found.chain,
    )


def admin_identity(reply: Any) -> values.AdminIdentity:
    """AddAdminReply."""
    return values.AdminIdentity(_issued(reply.certificate), reply.bundle, reply.role)


def token(reply: Any) -> values.Token:
    """CreateTokenReply."""
    return values.Token(reply.token, reply.spiffe_id, moment(reply.expires))


def agent(row: Any) -> values.Agent:
    """AgentRecord."""
    return values.Agent(
        id=row.id,
        spiffe_id=row.spiffe_id,
        state=row.state,
        method=row.method,
        attested_at=moment(row.attested_at),
        not_after=moment(row.not_after),
        registrations=row.registrations,
    )


def revoked(reply: Any) -> values.Revoked:
    """RevokeReply."""
    return values.Revoked(
        revoked=tuple(reply.revoked),
        suspended=reply.suspended,
        crl_number=reply.crl_number,
        notified=reply.notified,
        acknowledged=reply.acknowledged,
        not_drainable=reply.not_drainable,
        elapsed_ms=reply.elapsed_ms,
    )


def certificates_request(wanted: values.CertificateQuery, size: int, after: str) -> Any:
    """CertificatesRequest."""
    message = pb.CertificatesRequest(
        node=wanted.node,
        state=wanted.state,
        serial=wanted.serial,
        issuer=wanted.issuer,
        archived=wanted.archived,
        page_size=size,
        page_token=after,
    )
    if wanted.since is not None:
        message.since.FromDatetime(wanted.since)
    if wanted.until is not None:
        message.until.FromDatetime(wanted.until)
    return message


def certificate_page(reply: Any) -> values.CertificatePage:
    """CertificatesReply."""
    return values.CertificatePage(tuple(map(certificate_record, reply.certificates)), reply.next_page_token)


def certificate_record(row: Any) -> values.CertificateRecord:
    """CertificateRecord."""
    return values.CertificateRecord(
        serial=row.serial,
        spiffe_id=row.spiffe_id,
        state=row.state,
        not_before=moment(row.not_before),
        not_after=moment(row.not_after),
        issuer=row.issuer,
        revoked_at=moment(row.revoked_at) if row.HasField("revoked_at") else None,
        reason=row.reason,
    )


def authorities(reply: Any) -> values.Authorities:
    """ShowAuthoritiesReply."""
    kinds = (reply.roots, reply.issuing, reply.intermediates, reply.jwt)
    return values.Authorities(*(tuple(map(_authority, kind)) for kind in kinds))


def _authority(message: Any) -> values.Authority:
    return values.Authority(
        id=message.id,
        state=message.state,
        not_after=moment(message.not_after),
        generation=message.generation,
        waiting_for=tuple(message.waiting_for),
        activate_at=moment(message.activate_at) if message.HasField("activate_at") else None,
        deadline=moment(message.deadline) if message.HasField("deadline") else None,
        tainted=message.tainted,
        parent=message.parent,
        key=message.key,
    )


def rotation_progress(message: Any) -> values.RotationProgress:
    """RotationProgress."""
    return values.RotationProgress(
        id=message.id,
        role=message.role,
        state=message.state,
        holders=message.holders,
        waiting_for=tuple(message.waiting_for),
        deadline=moment(message.deadline) if message.HasField("deadline") else None,
    )


def ca_request(reply: Any) -> values.CaRequest:
    """Request for an issuing CA's certificate."""
    return values.CaRequest(reply.id, reply.csr, moment(reply.created_at), reply.is_new)


def imported_chain(reply: Any) -> values.ImportedChain:
    """What an import brought."""
    return values.ImportedChain(reply.id, reply.parent, tuple(reply.warnings))


def trust(message: Any) -> values.Trust:
    """Trust."""
    return values.Trust(
        generation=message.generation,
        bundle=message.bundle,
        crl=message.crl,
        revoked=tuple(message.revoked),
        suspended=message.suspended,
        leaf_crl_only=message.leaf_crl_only,
    )


def stream(row: Any) -> values.Stream:
    """Stream."""
    return values.Stream(
        node_id=row.node_id,
        spiffe_id=row.spiffe_id,
        type_url=row.type_url,
        version_sent=row.version_sent,
        version_acked=row.version_acked,
        nack=row.nack,
        connected_since=moment(row.connected_since),
    )


def rendered(reply: Any) -> values.Rendered:
    """RenderReply."""
    return values.Rendered(reply.node_id, tuple(values.Resource(r.type_url, r.name, r.body) for r in reply.resources))


def audit_record(row: Any) -> values.AuditRecord:
    """AuditRecord."""
    return values.AuditRecord(
        writer=row.writer,
        seq=row.seq,
        time=moment(row.time),
        actor=row.actor,
        action=row.action,
        subject=row.subject,
        outcome=row.outcome,
        reason=row.reason,
        hash=row.hash,
        previous=row.previous,
    )


def audit_verification(reply: Any) -> values.AuditVerification:
    """AuditVerifyReply."""
    return values.AuditVerification(reply.intact, reply.records, tuple(reply.findings))


def backup_summary(message: Any) -> values.BackupSummary:
    """BackupSummary."""
    return values.BackupSummary(
        made_at=moment(message.made_at),
        rows=message.rows,
        sealed_keys=message.sealed_keys,
        keys_elsewhere=tuple(message.keys_elsewhere),
    )
