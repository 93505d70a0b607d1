"""A typed client of a meshca server's admin API.

- Values in, values out (``client.values``); no protobuf message leaves this room.
- Every failure is one of our errors: the server's words, or UnavailableError with a remedy where no server answers.
- Calls block. One client may be used by several threads.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any

import grpc

from meshca.client import convert
from meshca.client.status import OURS, error_of
from meshca.client.target import RECONNECTION, unix_target
from meshca.client.values import (
    AdminIdentity,
    Agent,
    Applied,
    AuditRecord,
    AuditVerification,
    Authorities,
    BackupSummary,
    CaRequest,
    CertificatePage,
    CertificateQuery,
    CertificateRecord,
    Decision,
    Endpoint,
    Envelope,
    EnvoyProgress,
    Evicted,
    Federating,
    Federation,
    ImportedChain,
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
    Token,
    Trust,
)
from meshca.errors import MeshcaError, UnavailableError
from meshca.v1 import admin_pb2 as pb
from meshca.v1 import admin_pb2_grpc

_OPTIONS = [
    ("grpc.max_receive_message_length", 256 << 20),
    ("grpc.max_send_message_length", 64 << 20),
    # A proxy from the environment has no business on a Unix socket.
    ("grpc.enable_http_proxy", 0),
    *RECONNECTION,
]
_DEADLINE = 60.0
# For what reads the whole database.
_LONG = 3600.0


class AdminClient:
    """A connection to one server's ``run/admin.sock``, or to a socket that leads to it (``client/remote.py``)."""

    def __init__(
        self,
        socket_path: str | Path,
        *,
        deadline: float = _DEADLINE,
        trouble: Callable[[], MeshcaError | None] = lambda: None,
    ) -> None:
        """Connect; ``trouble`` says why a socket that leads further does not."""
        self._path = Path(socket_path).absolute()
        self._trouble = trouble
        self._deadline = deadline
        self._channel = grpc.insecure_channel(unix_target(self._path), options=_OPTIONS)
        self._stub = admin_pb2_grpc.AdminStub(self._channel)

    def __enter__(self) -> AdminClient:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the connection."""
        self._channel.close()

    # ---- server and specs

    def status(self) -> Status:
        """Return how the server is doing."""
        return convert.status(self._call(self._stub.Status, pb.StatusRequest()))

    def apply(self, objects: Sequence[Envelope], *, dry_run: bool = False, prune: bool = False) -> Applied:
        """Put App Mesh objects in force, all or none; ``prune`` removes what the meshes named hold beside them."""
        texts = [json.dumps(envelope, sort_keys=True, separators=(",", ":")) for envelope in objects]
        request = pb.ApplyRequest(objects=texts, dry_run=dry_run, prune=prune)
        return convert.applied(self._call(self._stub.Apply, request))

    def watch_revision(self, revision: int, seconds: float) -> Iterator[tuple[EnvoyProgress, ...]]:
        """Yield how far each Envoy has come with a revision, until none is waited for or the time is over."""
        call = self._stub.WatchRevision(pb.WatchRevisionRequest(revision=revision), timeout=seconds)
        try:
            for message in call:
                yield convert.revision_progress(message)
        except grpc.RpcError as error:
            ended: Any = error
            if ended.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
                raise self._ours(error) from error
        finally:
            call.cancel()

    def rollback(self, revision: int) -> int:
        """Undo the newest revision, which this must be; return the new one."""
        return int(self._call(self._stub.Rollback, pb.RollbackRequest(revision=revision)).revision)

    def get(self, kind: str = "", name: str = "", mesh: str = "") -> list[dict[str, Any]]:
        """Return applied objects as App Mesh envelopes."""
        reply = self._call(self._stub.Get, pb.GetRequest(kind=kind, name=name, mesh=mesh))
        return [json.loads(text) for text in reply.objects]

    def delete(self, kind: str, name: str, *, mesh: str = "", parent: str = "") -> int:
        """Remove one object and return the new revision."""
        request = pb.DeleteRequest(kind=kind, name=name, mesh=mesh, parent=parent)
        return int(self._call(self._stub.Delete, request).revision)

    def can(self, client: str, server: str, *, port: int = 0) -> Decision:
        """Say whether one node may call another, and why."""
        return convert.decision(self._call(self._stub.Can, pb.CanRequest(client=client, server=server, port=port)))

    def resolve(self, node: str) -> Node:
        """Return what a NODE of the command line stands for."""
        reply = self._call(self._stub.Resolve, pb.ResolveRequest(node=node))
        return Node(node_id=reply.node_id, spiffe_id=reply.spiffe_id, key_types=tuple(reply.key_types))

    # ---- registrations

    def register(
        self, node: str, selectors: Sequence[str], *, parent: str = "", federates_with: Sequence[str] = ()
    ) -> Registration:
        """Let processes for which all selectors hold have a node's identity."""
        request = pb.RegisterRequest(node=node, selectors=selectors, parent=parent, federates_with=federates_with)
        return convert.registration(self._call(self._stub.Register, request))

    def registrations(self) -> list[Registration]:
        """Return all registrations."""
        reply = self._call(self._stub.Registrations, pb.RegistrationsRequest())
        return [convert.registration(entry) for entry in reply.registrations]

    def unregister(self, registration_id: str) -> None:
        """Remove a registration."""
        self._call(self._stub.Unregister, pb.UnregisterRequest(id=registration_id))

    # ---- certificates

    def issue(self, requests: Sequence[SigningRequest]) -> list[Issued | MeshcaError]:
        """Issue a batch; the answers come in order, a refusal as the error it is."""
        message = pb.IssueRequest(requests=[convert.signing_request(request) for request in requests])
        return [convert.signing_result(result) for result in self._call(self._stub.Issue, message).results]

    def revoke(
        self, serial: str = "", *, node: str = "", reason: str = "unspecified", wait: timedelta | None = None
    ) -> Revoked:
        """Revoke one certificate, or all of a node and suspend it; ``wait`` for acknowledgements at most that long."""
        request = pb.RevokeRequest(reason=reason)
        if node:
            request.node = node
        else:
            request.serial = serial
        if wait is not None:
            request.wait.FromTimedelta(wait)
        longer = wait.total_seconds() if wait else 0.0
        return convert.revoked(self._call(self._stub.Revoke, request, longer))

    def resume(self, node: str) -> str:
        """End a node's suspension and return its SPIFFE ID."""
        return str(self._call(self._stub.Resume, pb.ResumeRequest(node=node)).spiffe_id)

    def certificates(self, *, node: str = "", state: str = "", serial: str = "") -> list[CertificateRecord]:
        """Return the ledger's certificates, expired ones included."""
        return list(self.each_certificate(CertificateQuery(node, state, serial)))

    def each_certificate(self, wanted: CertificateQuery) -> Iterator[CertificateRecord]:
        """Yield all that the query admits, oldest first; as many as a page has are in memory at a time."""
        after = ""
        while True:
            page = self.certificate_page(wanted, 0, after)
            yield from page.records
            if not (after := page.after):
                return

    def certificate_page(self, wanted: CertificateQuery, size: int, after: str = "") -> CertificatePage:
        """Return at most ``size`` certificates (0: as many as a page may have) that come after a serial."""
        request = convert.certificates_request(wanted, size, after)
        return convert.certificate_page(self._call(self._stub.Certificates, request))

    def freeze(self, reason: str = "") -> datetime:
        """Let nothing be issued any more; return since when."""
        return convert.moment(self._call(self._stub.Freeze, pb.FreezeRequest(reason=reason)).since)

    def unfreeze(self) -> None:
        """Let certificates be issued again."""
        self._call(self._stub.Unfreeze, pb.UnfreezeRequest())

    def rotate_leaf(self, node: str) -> int:
        """Give every live stream of a node a new key and leaf; return how many streams that are."""
        return int(self._call(self._stub.RotateLeaf, pb.RotateLeafRequest(node=node)).streams)

    # ---- trust

    def authorities(self) -> Authorities:
        """Return all CAs."""
        return convert.authorities(self._call(self._stub.ShowAuthorities, pb.ShowAuthoritiesRequest()))

    def rotate_authority(self, role: str) -> str:
        """Replace the ``root`` or the ``issuing`` CA before its time; return its successor's id."""
        return str(self._call(self._stub.RotateAuthority, pb.RotateAuthorityRequest(role=role)).id)

    def watch_rotation(self, ca_id: str) -> Iterator[RotationProgress]:
        """Yield how far a CA has come until it signs; after a root, the issuing CA below it."""
        try:
            for message in self._stub.WatchRotation(pb.WatchRotationRequest(id=ca_id)):
                yield convert.rotation_progress(message)
        except grpc.RpcError as error:
            raise self._ours(error) from error

    def taint_authority(self, ca_id: str) -> tuple[str, ...]:
        """Mark a CA and all below it as believed stolen; return those that were not yet."""
        return tuple(self._call(self._stub.TaintAuthority, pb.TaintAuthorityRequest(id=ca_id)).ids)

    def ca_request(self) -> CaRequest:
        """Return the request for the next issuing CA's certificate, which is made where none is pending."""
        return convert.ca_request(self._call(self._stub.CaRequest, pb.CaRequestRequest()))

    def import_chain(self, chain: bytes, crls: Sequence[bytes] = ()) -> ImportedChain:
        """Bring a chain (PEM, the issuing CA first, the root last) that answers the request, or CRLs, or both."""
        return convert.imported_chain(self._call(self._stub.ImportChain, pb.ImportChainRequest(chain=chain, crls=crls)))

    def bundle(self, form: str = "pem") -> bytes:
        """Return the trust bundle as ``pem``, ``spiffe`` or ``jwks``."""
        return bytes(self._call(self._stub.Bundle, pb.BundleRequest(format=form)).bundle)

    def watch_trust(self, holder: str, spiffe_id: str = "") -> Iterator[Trust]:
        """Yield the current trust at once, then each change; ends with UnavailableError when the server goes.

        A change counts as acknowledged by ``holder`` once ``acknowledge_trust`` says so.
        """
        request = pb.WatchTrustRequest(holder=holder, spiffe_id=spiffe_id)
        try:
            for message in self._stub.WatchTrust(request):
                yield convert.trust(message)
        except grpc.RpcError as error:
            raise self._ours(error) from error

    def acknowledge_trust(self, holder: str, spiffe_id: str, generation: int, serial: str = "") -> None:
        """Say that a holder has put a trust generation and this leaf in force (a drop: once its command succeeded)."""
        request = pb.AcknowledgeTrustRequest(holder=holder, spiffe_id=spiffe_id, generation=generation, serial=serial)
        self._call(self._stub.AcknowledgeTrust, request)

    # ---- endpoints

    def add_endpoints(self, node: str, addresses: Sequence[str]) -> list[Endpoint]:
        """Say where a node is to be found, beside where it is already; return all its endpoints."""
        request = pb.EndpointsRequest(node=node, addresses=addresses)
        return convert.endpoints(self._call(self._stub.AddEndpoints, request))

    def remove_endpoints(self, node: str, addresses: Sequence[str]) -> list[Endpoint]:
        """Remove endpoints of a node, all or none; return those that are left."""
        request = pb.EndpointsRequest(node=node, addresses=addresses)
        return convert.endpoints(self._call(self._stub.RemoveEndpoints, request))

    def endpoints(self, node: str = "") -> list[Endpoint]:
        """Return the endpoints of a node, or of all."""
        return convert.endpoints(self._call(self._stub.ListEndpoints, pb.ListEndpointsRequest(node=node)))

    # ---- federation

    def federate(self, wanted: Federating) -> Federation:
        """Believe another trust domain about its own identities; its bundle is fetched at once."""
        request = pb.FederateRequest(
            trust_domain=wanted.trust_domain,
            url=wanted.url,
            profile=wanted.profile,
            endpoint_id=wanted.endpoint_id,
            bundle=wanted.bundle,
        )
        return convert.federation(self._call(self._stub.Federate, request))

    def unfederate(self, trust_domain: str) -> None:
        """Believe it no longer; connections that rest on its bundle end."""
        self._call(self._stub.Unfederate, pb.UnfederateRequest(trust_domain=trust_domain))

    def refresh_federation(self, trust_domain: str) -> Federation:
        """Fetch the bundle of a federated trust domain now."""
        request = pb.RefreshFederationRequest(trust_domain=trust_domain)
        return convert.federation(self._call(self._stub.RefreshFederation, request))

    def federations(self) -> list[Federation]:
        """Return the federated trust domains."""
        reply = self._call(self._stub.ListFederations, pb.ListFederationsRequest())
        return [convert.federation(one) for one in reply.federations]

    # ---- Envoys

    def streams(self) -> list[Stream]:
        """Return one row for each stream and type of each connected Envoy."""
        return [convert.stream(row) for row in self._call(self._stub.ListStreams, pb.ListStreamsRequest()).streams]

    def render(self, node: str, *, placement: str = "") -> Rendered:
        """Return all that a node's Envoy would be sent; ``placement`` is the JSON of ``node.metadata.meshca``."""
        return convert.rendered(self._call(self._stub.Render, pb.RenderRequest(node=node, placement=placement)))

    # ---- administrators

    def add_admin(self, name: str, role: str, csr: bytes, ttl: timedelta | None = None) -> AdminIdentity:
        """Let somebody call over TCP; the CSR's key becomes theirs."""
        request = pb.AddAdminRequest(name=name, role=role, csr=csr)
        if ttl is not None:
            request.ttl.FromTimedelta(ttl)
        return convert.admin_identity(self._call(self._stub.AddAdmin, request))

    def renew_admin(self, csr: bytes) -> AdminIdentity:
        """Have the certificate that this client calls with followed by one for another key."""
        return convert.admin_identity(self._call(self._stub.RenewAdmin, pb.RenewAdminRequest(csr=csr)))

    # ---- agents

    def create_token(self, agent: str, ttl: timedelta | None = None) -> Token:
        """Return what an agent may join with, once."""
        request = pb.CreateTokenRequest(agent=agent)
        if ttl is not None:
            request.ttl.FromTimedelta(ttl)
        return convert.token(self._call(self._stub.CreateToken, request))

    def agents(self) -> list[Agent]:
        """Return all agents that have attested."""
        return [convert.agent(row) for row in self._call(self._stub.ListAgents, pb.ListAgentsRequest()).agents]

    def evict(self, agent: str) -> Evicted:
        """Suspend an agent, and revoke what it and the workloads behind it hold."""
        reply = self._call(self._stub.EvictAgent, pb.EvictAgentRequest(agent=agent))
        return Evicted(reply.spiffe_id, tuple(reply.revoked))

    # ---- audit

    def audit_tail(self, count: int = 50) -> list[AuditRecord]:
        """Return the newest records, oldest first."""
        reply = self._call(self._stub.AuditTail, pb.AuditTailRequest(count=count))
        return [convert.audit_record(row) for row in reply.records]

    def audit_verify(self, kept: Sequence[KeptCheckpoints] = ()) -> AuditVerification:
        """Recompute the audit chains and compare them with their checkpoints, and with those that were kept."""
        messages = [pb.KeptCheckpoints(name=one.name, content=one.content) for one in kept]
        request = pb.AuditVerifyRequest(kept=messages)
        return convert.audit_verification(self._call(self._stub.AuditVerify, request, _LONG))

    def audit_export(self, since: datetime | None = None) -> Iterator[AuditRecord]:
        """Yield every record, by writer and number."""
        request = pb.AuditExportRequest()
        if since is not None:
            request.since.FromDatetime(since)
        for reply in self._stream(self._stub.AuditExport, request):
            yield from map(convert.audit_record, reply.records)

    # ---- backup

    def backup(self, passphrase: bytes = b"") -> Iterator[bytes | BackupSummary]:
        """Yield the pieces of a sealed backup, and at the end what it holds."""
        for reply in self._stream(self._stub.Backup, pb.BackupRequest(passphrase=passphrase)):
            yield convert.backup_summary(reply.summary) if reply.HasField("summary") else reply.data

    # ---- one way out

    def _stream(self, method: Callable[..., Any], request: object) -> Iterator[Any]:
        call = method(request, timeout=_LONG)
        try:
            yield from call
        except grpc.RpcError as error:
            raise self._ours(error) from error
        finally:
            call.cancel()

    def _call(self, method: Callable[..., Any], request: object, longer: float = 0.0) -> Any:
        try:
            return method(request, timeout=self._deadline + longer)
        except grpc.RpcError as error:
            raise self._ours(error) from error

    def _ours(self, error: grpc.RpcError) -> MeshcaError:
        call: Any = error
        if call.code() is grpc.StatusCode.UNAVAILABLE and not _says_ours(call):
            if (trouble := self._trouble()) is not None:
                return trouble
            return UnavailableError(
                f"no server answers at {self._path}", remedy="start one with `meshca serve`, or give its --home"
            )
        return error_of(call.code().value[0], call.details() or "")


def _says_ours(call: Any) -> bool:
    return any(key == OURS for key, _ in call.trailing_metadata() or ())
