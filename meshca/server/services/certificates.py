"""Certificates: issue, revoke, resume, list, rotate."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from meshca.authority import audit
from meshca.authority.audit import OK, AuditEntry
from meshca.authority.records import CertificateFilter, CertificateRecord
from meshca.client.status import code_of
from meshca.delivery.ports import Leaf
from meshca.errors import ExhaustedError, InvalidInputError, MeshcaError
from meshca.server.issuance import Order
from meshca.server.parts import Parts
from meshca.server.services.calls import Unary
from meshca.spiffe.id import SpiffeId
from meshca.v1 import admin_pb2 as pb

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
        await asyncio.to_thread(self._parts.house.ledger.record_audit, [entry])
        return pb.RotateLeafReply(streams=self._parts.desk.rotate(spiffe_id))

    def _resolved(self, node: str) -> SpiffeId | MeshcaError:
        try:
            return self._identity(node)
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
        size = min(request.page_size, _LARGEST_PAGE)
        wanted = CertificateFilter(
            at=now,
            spiffe_id=self._known_identity(request.node) if request.node else None,
            status=request.state or None,
            after=request.page_token,
            limit=size,
        )
        rows = authority.certificates(wanted)
        token = rows[-1].serial if size and len(rows) == size else ""
        return pb.CertificatesReply(certificates=[_record(row, now) for row in rows], next_page_token=token)


def _order(one: Any, spiffe_id: SpiffeId | MeshcaError, actor: str) -> Order | MeshcaError:
    if isinstance(spiffe_id, MeshcaError):
        return spiffe_id
    if not one.csr:
        return InvalidInputError("there is no CSR", field="csr")
    holder = one.holder or "issue"
    if not _HOLDER.fullmatch(holder):
        return InvalidInputError("a holder is one printable word", field="holder", value=holder)
    return Order(spiffe_id, holder, "file", actor, one.csr, one.ttl.ToTimedelta() if one.HasField("ttl") else None)


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
