"""Certificates: issue, revoke, resume, freeze, list, rotate."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from meshca.authority import audit
from meshca.authority.audit import OK, AuditEntry
from meshca.authority.records import CertificateFilter, CertificateRecord
from meshca.client.status import code_of
from meshca.delivery.ports import Leaf
from meshca.errors import ExhaustedError, InvalidInputError, MeshcaError
from meshca.policy.hostnames import HostNames, host_names
from meshca.server.issuance import DnsNamesRefusedError, Order
from meshca.server.parts import Parts
from meshca.server.services.calls import Unary
from meshca.spiffe.id import SpiffeId
from meshca.v1 import admin_pb2 as pb

# A leaked key is refused within half a second (design §7); its holder may have so much of that to change over.
_REPLACED_WITHIN = 0.15
_LARGEST_BATCH = 1000
_LARGEST_PAGE = 10_000
_LONGEST_WAIT = timedelta(minutes=10)
# A printable word, so that it can stand in a log line: "issue", "drop:/etc/ssl/cart".
_HOLDER = re.compile(r"[!-~]{1,512}")
_STATES = ("valid", "revoked", "expired", "pending", "abandoned")


class CertificateService:
    """What people do with certificates."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def calls(self) -> Mapping[str, Unary]:
        """Return the methods by the names of the API."""
        return {
            "Issue": self.issue,
            "Revoke": self.revoke,
            "Resume": self.resume,
            "Freeze": self.freeze,
            "Unfreeze": self.unfreeze,
            "Certificates": self.certificates,
            "RotateLeaf": self.rotate_leaf,
        }

    async def issue(self, request: Any, actor: str) -> Any:
        """Issue a batch; each request is answered for itself."""
        if len(request.requests) > _LARGEST_BATCH:
            raise ExhaustedError(f"at most {_LARGEST_BATCH} certificates a call", value=str(len(request.requests)))
        named = {node: self._resolved(node) for node in {one.node for one in request.requests}}
        wanted = [_order(one, named[one.node], actor) for one in request.requests]
        issued = iter(await self._parts.issuance.many([order for order in wanted if isinstance(order, Order)]))
        answers = [next(issued) if isinstance(order, Order) else order for order in wanted]
        for order, answer in zip(wanted, answers, strict=True):
            if isinstance(order, Order) and isinstance(answer, DnsNamesRefusedError):
                # Other refusals are audited by the authority; this one never got there.
                self._parts.journal.refused(actor, audit.ISSUE, str(order.spiffe_id), str(answer))
        return pb.IssueReply(results=[_result(answer) for answer in answers])

    async def revoke(self, request: Any, actor: str) -> Any:
        """Revoke one certificate, or all of a node and suspend it."""
        began = time.monotonic()
        wait = _wait(request)
        authority, reason = self._parts.house.authority, request.reason or "unspecified"
        if request.WhichOneof("what") == "node":
            done = await asyncio.to_thread(authority.suspend, self._known_identity(request.node), reason, actor)
        else:
            done = await asyncio.to_thread(authority.revoke, request.serial, reason, actor)
            await self._replaced(request.serial)
        trust = await self._parts.publication.join()
        census = await self._parts.desk.reached(trust.generation, wait)
        return pb.RevokeReply(
            revoked=[*done.serials, *done.already],
            suspended=done.suspended,
            crl_number=trust.crl_number,
            notified=census.notified,
            acknowledged=census.acknowledged,
            not_drainable=census.not_drainable,
            elapsed_ms=round((time.monotonic() - began) * 1000),
        )

    async def _replaced(self, serial: str) -> None:
        """Let the holder of a revoked leaf change over, here or behind an agent."""
        record = await asyncio.to_thread(self._parts.house.authority.certificate, serial)
        if record is not None and record.holder.startswith("agent:"):
            await self._parts.agents.replaced(record.holder, record.spiffe_id, _REPLACED_WITHIN)
        await self._parts.desk.replaced(_REPLACED_WITHIN)

    async def resume(self, request: Any, actor: str) -> Any:
        """End a suspension."""
        spiffe_id = self._known_identity(request.node)
        await asyncio.to_thread(self._parts.house.authority.resume, spiffe_id, actor)
        return pb.ResumeReply(spiffe_id=str(spiffe_id))

    async def certificates(self, request: Any, _: str) -> Any:
        """Return certificates of the ledger."""
        if request.state and request.state not in _STATES:
            raise InvalidInputError("no such state", field="state", value=request.state, remedy=", ".join(_STATES))
        return await asyncio.to_thread(self._list, request)

    async def rotate_leaf(self, request: Any, actor: str) -> Any:
        """Give the live streams of a node a new key and leaf."""
        spiffe_id = self._identity(request.node)
        entry = AuditEntry(audit.ROTATE, str(spiffe_id), OK, "leaf", actor)
        await asyncio.to_thread(self._parts.house.ledger.ask_rotation, spiffe_id, entry)
        return pb.RotateLeafReply(streams=self._parts.rotate_leaf(spiffe_id))

    async def freeze(self, request: Any, actor: str) -> Any:
        """Let nothing be issued from here on."""
        frozen = await asyncio.to_thread(self._parts.house.authority.freezing.freeze, request.reason, actor)
        await self._parts.state.refresh()
        reply = pb.FreezeReply()
        reply.since.FromDatetime(frozen.at)
        return reply

    async def unfreeze(self, _: Any, actor: str) -> Any:
        """Let certificates be issued again."""
        await asyncio.to_thread(self._parts.house.authority.freezing.unfreeze, actor)
        await self._parts.state.refresh()
        return pb.UnfreezeReply()

    def _resolved(self, node: str) -> _Named | MeshcaError:
        mesh = self._parts.state.snapshot.mesh
        try:
            key = mesh.identities.resolve(node)
            return _Named(mesh.identities.of(key), host_names(mesh.mesh_set, key))
        except MeshcaError as error:
            return error

    def _identity(self, node: str) -> SpiffeId:
        identities = self._parts.state.snapshot.mesh.identities
        return identities.of(identities.resolve(node))

    def _known_identity(self, node: str) -> SpiffeId:
        """Return the identity of a node; a SPIFFE ID may be that of a node no longer in any mesh."""
        return SpiffeId.parse(node) if node.startswith("spiffe:") else self._identity(node)

    def _list(self, request: Any) -> Any:
        authority, now = self._parts.house.authority, self._parts.house.clock.now()
        if request.serial:
            found = authority.certificate(request.serial)
            return pb.CertificatesReply(certificates=[_record(found, now)] if found else [])
        size = request.page_size or _LARGEST_PAGE
        if not 1 <= size <= _LARGEST_PAGE:
            raise InvalidInputError(f"between 1 and {_LARGEST_PAGE}", field="page_size", value=str(size))
        wanted = CertificateFilter(
            at=now,
            spiffe_id=self._known_identity(request.node) if request.node else None,
            status=request.state or None,
            issuer_id=request.issuer,
            since=_time(request, "since"),
            until=_time(request, "until"),
            archived=request.archived,
            after=request.page_token,
            limit=size + 1,  # one more says whether another page follows
        )
        rows = authority.certificates(wanted)
        token = rows[size - 1].serial if len(rows) > size else ""
        return pb.CertificatesReply(certificates=[_record(row, now) for row in rows[:size]], next_page_token=token)


def _time(request: Any, name: str) -> datetime | None:
    return getattr(request, name).ToDatetime(tzinfo=UTC) if request.HasField(name) else None


@dataclass(frozen=True, slots=True)
class _Named:
    """What a NODE stands for."""

    spiffe_id: SpiffeId
    host_names: HostNames


def _order(one: Any, named: _Named | MeshcaError, actor: str) -> Order | MeshcaError:
    if isinstance(named, MeshcaError):
        return named
    if not one.csr:
        return InvalidInputError("there is no CSR", field="csr")
    try:
        holder = required_holder(one.holder or "issue")
    except InvalidInputError as error:
        return error
    return Order(
        spiffe_id=named.spiffe_id,
        holder=holder,
        kind="file",
        requested_by=actor,
        csr=one.csr,
        ttl=one.ttl.ToTimedelta() if one.HasField("ttl") else None,
        dns_names=tuple(one.dns_names),
        host_names=named.host_names,
    )


def required_holder(holder: str) -> str:
    """Return a holder that can stand in the ledger and in a log line.

    Raises:
        InvalidInputError: It cannot.
    """
    if not _HOLDER.fullmatch(holder):
        raise InvalidInputError("a holder is one printable word", field="holder", value=holder)
    return holder


def _wait(request: Any) -> float:
    wait: timedelta = request.wait.ToTimedelta()
    if not timedelta() <= wait <= _LONGEST_WAIT:
        raise InvalidInputError("a wait is between 0 and 10 minutes", field="wait", value=str(wait))
    return wait.total_seconds()


def _result(answer: Leaf | MeshcaError) -> Any:
    if isinstance(answer, MeshcaError):
        return pb.SigningResult(failure=pb.Failure(code=code_of(answer).value[0], message=str(answer)))
    certificate = pb.Certificate(serial=answer.serial, spiffe_id=str(answer.spiffe_id), chain=answer.chain_pem)
    certificate.not_before.FromDatetime(answer.not_before)
    certificate.not_after.FromDatetime(answer.not_after)
    return pb.SigningResult(certificate=certificate)


def _record(row: CertificateRecord, now: Any) -> Any:
    message = pb.CertificateRecord(
        serial=row.serial,
        spiffe_id=str(row.spiffe_id),
        state=row.status(now),
        issuer=row.issuer_id,
        reason=row.revocation_reason,
    )
    message.not_before.FromDatetime(row.not_before)
    message.not_after.FromDatetime(row.not_after)
    if row.revoked_at is not None:
        message.revoked_at.FromDatetime(row.revoked_at)
    return message
