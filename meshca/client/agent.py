"""What an agent asks of a server, as values: asynchronous, over a tunnel.

Rules: values in, values out; every failure is one of our errors, the server's words or why no server was reached.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import grpc
import grpc.aio

from meshca.client.convert import moment
from meshca.client.status import OURS, error_of
from meshca.client.target import RECONNECTION, unix_target
from meshca.client.tunnel import Tunnel
from meshca.errors import MeshcaError, UnavailableError
from meshca.v1 import agent_pb2 as pb
from meshca.v1 import agent_pb2_grpc

_OPTIONS = [
    ("grpc.max_receive_message_length", 256 << 20),
    ("grpc.max_send_message_length", 64 << 20),
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
    *RECONNECTION,
    # A server that is silently gone is noticed within fifteen seconds.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
]
_DEADLINE = 30.0


@dataclass(frozen=True, slots=True)
class ServerTrust:
    """What a server that nobody has met yet says of itself: its trust domain, and its roots (DER)."""

    trust_domain: str
    roots: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class AgentCertificate:
    """An agent's own certificate; chain and bundle are PEM."""

    spiffe_id: str
    serial: str
    not_before: datetime
    not_after: datetime
    chain: bytes = field(repr=False)
    bundle: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Holding:
    """A registration whose parent the agent is."""

    id: str
    spiffe_id: str
    selectors: tuple[str, ...]
    node_id: str
    federates_with: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FederatedBundle:
    """The roots (DER) and the JWK set of another trust domain."""

    roots: bytes = field(repr=False)
    jwt_keys: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Holdings:
    """All that an agent may hold, and what it is to know for that."""

    trust_domain: str
    holdings: tuple[Holding, ...]
    suspended: frozenset[str]
    revoked: frozenset[str]
    generation: int
    bundle: bytes = field(repr=False)
    crl: bytes = field(repr=False)
    tainted: frozenset[str] = frozenset()
    leaf_crl_only: bool = False
    frozen: bool = False
    rotations: Mapping[str, int] = field(default_factory=dict)
    key_types: tuple[str, ...] = ()
    jwt_generation: int = 0
    jwt_bundle: bytes = field(default=b"", repr=False)
    federated: Mapping[str, FederatedBundle] = field(default_factory=dict)
    """Of other trust domains, those that some of the holdings may have."""


@dataclass(frozen=True, slots=True)
class WorkloadRequest:
    """A CSR (DER) for somebody behind the agent, whom it calls by a word."""

    spiffe_id: str
    csr: bytes = field(repr=False)
    holder: str = ""
    dns_names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class WorkloadCertificate:
    """What came of it."""

    serial: str
    not_before: datetime
    not_after: datetime
    signed_at: datetime
    chain: bytes = field(repr=False)
    issuer: str = ""


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """What somebody behind the agent has in force; no serial and generation 0 say nothing."""

    holder: str
    spiffe_id: str
    serial: str = ""
    generation: int = 0
    jwt_generation: int = 0
    jwt_until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """What the agent has refused."""

    actor: str
    action: str
    subject: str
    reason: str


class AgentApi:
    """One channel to one server, through a tunnel."""

    def __init__(self, tunnel: Tunnel) -> None:
        self._tunnel = tunnel
        self.channel = grpc.aio.insecure_channel(unix_target(tunnel.path), options=[*_OPTIONS, _retries()])
        self._stub = agent_pb2_grpc.AgentStub(self.channel)

    async def close(self) -> None:
        """End the channel."""
        await self.channel.close()

    async def trust(self) -> ServerTrust:
        """Return what the server says of itself, whoever it is."""
        reply = await self._call(self._stub.ShowTrust, pb.ShowTrustRequest())
        return ServerTrust(reply.trust_domain, tuple(reply.roots))

    async def attest(self, method: str, payload: bytes, csr: bytes) -> AgentCertificate:
        """Get the first certificate, for what a method proves."""
        return _certificate(
            await self._call(self._stub.Attest, pb.AttestRequest(method=method, payload=payload, csr=csr))
        )

    async def renew(self, csr: bytes) -> AgentCertificate:
        """Get the next certificate, for the one that this channel was made with."""
        return _certificate(await self._call(self._stub.Renew, pb.RenewRequest(csr=csr)))

    async def watch(self) -> AsyncIterator[Holdings]:
        """Yield what this agent may hold, now and after each change; ends with an error when the server goes."""
        call = self._stub.Watch(pb.WatchRequest())
        try:
            async for message in call:
                yield _holdings(message)
        except grpc.aio.AioRpcError as error:
            raise self.error(error) from error
        finally:
            call.cancel()

    async def sign(self, requests: Sequence[WorkloadRequest]) -> list[WorkloadCertificate | MeshcaError]:
        """Have a batch signed; the answers come in order, a refusal as the error it is."""
        messages = [
            pb.WorkloadRequest(spiffe_id=r.spiffe_id, csr=r.csr, holder=r.holder, dns_names=r.dns_names)
            for r in requests
        ]
        reply = await self._call(self._stub.Sign, pb.SignRequest(requests=messages))
        return [_result(result) for result in reply.results]

    async def acknowledge(self, found: Collection[Acknowledgement]) -> None:
        """Tell what is in force."""
        await self._call(self._stub.Acknowledge, pb.AcknowledgeRequest(acknowledgements=map(_acknowledgement, found)))

    async def token(self, spiffe_id: str, audience: Sequence[str]) -> str:
        """Return a JWT-SVID; without an audience none, only a key that signs is seen to."""
        request = pb.TokenRequest(spiffe_id=spiffe_id, audience=audience)
        return str((await self._call(self._stub.Token, request)).token)

    async def report(self, refusals: Collection[Refusal]) -> None:
        """Tell what was refused here."""
        messages = [pb.Refusal(actor=r.actor, action=r.action, subject=r.subject, reason=r.reason) for r in refusals]
        await self._call(self._stub.Report, pb.ReportRequest(refusals=messages))

    def error(self, error: grpc.aio.AioRpcError) -> MeshcaError:
        """Return a failure as one of our errors."""
        ours = any(key == OURS for key, _ in error.trailing_metadata() or ())
        if error.code() is grpc.StatusCode.UNAVAILABLE and not ours:
            return self._tunnel.trouble or UnavailableError("the server does not answer")
        return error_of(error.code().value[0], error.details() or "")

    async def _call(self, method: Callable[..., Any], request: object) -> Any:
        try:
            return await method(request, timeout=_DEADLINE)
        except grpc.aio.AioRpcError as error:
            raise self.error(error) from error


def _retries() -> tuple[str, str]:
    # gRPC's own transparent retries hide why a server is not reached; who calls here tries again by itself.
    return ("grpc.service_config", json.dumps({"methodConfig": []}))


def _certificate(reply: Any) -> AgentCertificate:
    return AgentCertificate(
        spiffe_id=reply.spiffe_id,
        serial=reply.serial,
        not_before=moment(reply.not_before),
        not_after=moment(reply.not_after),
        chain=reply.chain,
        bundle=reply.bundle,
    )


def _acknowledgement(a: Acknowledgement) -> Any:
    message = pb.Acknowledgement(
        holder=a.holder,
        spiffe_id=a.spiffe_id,
        serial=a.serial,
        generation=a.generation,
        jwt_generation=a.jwt_generation,
    )
    if a.jwt_until is not None:
        message.jwt_until.FromDatetime(a.jwt_until)
    return message


def _holdings(message: Any) -> Holdings:
    return Holdings(
        trust_domain=message.trust_domain,
        holdings=tuple(
            Holding(h.id, h.spiffe_id, tuple(h.selectors), h.node_id, tuple(h.federates_with)) for h in message.holdings
        ),
        suspended=frozenset(message.suspended),
        revoked=frozenset(message.revoked),
        generation=message.trust.generation,
        bundle=message.trust.bundle,
        crl=message.trust.crl,
        tainted=frozenset(message.trust.tainted),
        leaf_crl_only=message.trust.leaf_crl_only,
        frozen=message.frozen,
        rotations=dict(message.rotations),
        key_types=tuple(message.key_types),
        jwt_generation=message.jwt_generation,
        jwt_bundle=message.jwt_bundle,
        federated={one.trust_domain: FederatedBundle(one.roots, one.jwt_keys) for one in message.federated},
    )


def _result(result: Any) -> WorkloadCertificate | MeshcaError:
    if result.WhichOneof("result") == "failure":
        return error_of(result.failure.code, result.failure.message)
    made = result.certificate
    return WorkloadCertificate(
        serial=made.serial,
        not_before=moment(made.not_before),
        not_after=moment(made.not_after),
        signed_at=moment(made.signed_at),
        chain=made.chain,
        issuer=made.issuer,
    )
