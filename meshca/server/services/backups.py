"""Backups of a running server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from meshca.authority import audit
from meshca.authority.audit import OK, AuditEntry
from meshca.errors import InvalidInputError
from meshca.server.backup import Backup, Summary
from meshca.server.parts import Parts
from meshca.server.services.calls import Streaming
from meshca.v1 import admin_pb2 as pb

T = TypeVar("T")


class BackupService:
    """Makes backups for whoever may use the admin API."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def streams(self) -> Mapping[str, Streaming]:
        """Return the streaming methods by the names of the API."""
        return {"Backup": self.backup}

    async def backup(self, request: Any, actor: str) -> AsyncIterator[Any]:
        """Yield the sealed file in pieces, then a summary.

        The wish is audited before anything is read, so that the backup itself tells of it.
        """
        house = self._parts.house
        passphrase = await asyncio.to_thread(self._passphrase, bytes(request.passphrase))
        entry = AuditEntry(audit.BACKUP, str(house.authority.realm.trust_domain), OK, "", actor)
        await asyncio.to_thread(house.ledger.record_audit, [entry])
        backup = Backup(house.home, house.store)
        pieces = backup.pieces(passphrase)
        # A thread of its own: the transaction stays in one, and nobody else waits for the disk.
        with ThreadPoolExecutor(1, thread_name_prefix="meshca-backup") as thread:
            try:
                while piece := await _run(thread, partial(next, pieces, b"")):
                    yield pb.BackupReply(data=piece)
            finally:
                thread.submit(pieces.close)
        yield _summary(backup.summary())

    def _passphrase(self, given: bytes) -> bytes:
        own = self._parts.house.keys.passphrase()
        if own and given not in {own, b""}:
            raise InvalidInputError(
                "not the passphrase of this server's keys", field="--passphrase-file", remedy="leave it out"
            )
        if not (own or given):
            raise InvalidInputError(
                "this server has no passphrase, since all its keys are elsewhere",
                field="--passphrase-file",
                remedy="give a passphrase to seal the backup under",
            )
        return own or given


async def _run(thread: ThreadPoolExecutor, work: Callable[[], T]) -> T:
    return await asyncio.get_running_loop().run_in_executor(thread, work)


def _summary(found: Summary) -> Any:
    message = pb.BackupSummary(rows=found.rows, sealed_keys=found.sealed_keys, keys_elsewhere=found.keys_elsewhere)
    message.made_at.FromDatetime(found.made_at)
    return pb.BackupReply(summary=message)
