"""The audit log and the server's own condition."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from datetime import UTC
from typing import Any

from meshca.errors import InvalidInputError
from meshca.server.parts import Parts
from meshca.server.services.calls import Streaming, Unary
from meshca.store.chain import ChainRecord
from meshca.store.checkpoints import Kept
from meshca.store.times import moment
from meshca.v1 import admin_pb2 as pb

_USUAL, _MOST = 50, 100_000


class AuditService:
    """What people ask about what happened, and how things stand."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def calls(self) -> Mapping[str, Unary]:
        """Return the methods by the names of the API."""
        return {"Status": self.status, "AuditTail": self.tail, "AuditVerify": self.verify}

    def streams(self) -> Mapping[str, Streaming]:
        """Return the streaming methods by the names of the API."""
        return {"AuditExport": self.export}

    async def status(self, _: Any, __: str) -> Any:
        """Return how the server is."""
        snapshot, condition = self._parts.state.snapshot, self._parts.condition
        return pb.StatusReply(
            state=condition.state,
            trust_domain=str(snapshot.trust_domain),
            grpc=condition.grpc,
            http=condition.http,
            socket=str(self._parts.house.home.mesh_socket),
            revision=snapshot.mesh.revision,
            trust_generation=snapshot.trust.generation,
            warnings=self._parts.warnings(),
            federation=condition.federation,
        )

    async def tail(self, request: Any, _: str) -> Any:
        """Return the newest records."""
        count = request.count or _USUAL
        if not 1 <= count <= _MOST:
            raise InvalidInputError(f"between 1 and {_MOST}", field="count", value=str(count))
        # A refusal that somebody has just seen stands in what they read next.
        await self._parts.journal.settled()
        records = await asyncio.to_thread(self._parts.house.audit.tail, count)
        return pb.AuditTailReply(records=[_record(record) for record in records])

    async def verify(self, request: Any, _: str) -> Any:
        """Check the chains."""
        kept = [Kept(one.name, one.content) for one in request.kept]
        found = await asyncio.to_thread(self._parts.house.audit.verify, kept)
        return pb.AuditVerifyReply(intact=found.intact, records=found.records, findings=found.findings)

    async def export(self, request: Any, _: str) -> AsyncIterator[Any]:
        """Yield every record; the next ones are read when the caller has taken the last."""
        since = request.since.ToDatetime(tzinfo=UTC) if request.HasField("since") else None
        await self._parts.journal.settled()
        pages = self._parts.house.audit.export(since)
        while records := await asyncio.to_thread(next, pages, None):
            yield pb.AuditExportReply(records=[_record(record) for record in records])


def _record(record: ChainRecord) -> Any:
    message = pb.AuditRecord(
        writer=record.writer,
        seq=record.seq,
        actor=record.actor,
        action=record.action,
        subject=record.subject,
        outcome=record.outcome,
        reason=record.reason,
        hash=record.hash,
        previous=record.previous,
    )
    message.time.FromDatetime(moment(record.at))
    return message
