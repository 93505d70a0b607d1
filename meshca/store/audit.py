"""The audit log: read its end, check the whole of it, sign checkpoints.

Rules:
- A checkpoint names the end of this writer's chain and is signed by an issuing CA. It goes to the database, to a file
  of the home and to the log: who cuts the tail of the table and its checkpoints still has the file and the log to face.
- The database's checkpoint commits before the file is replaced, so the file never knows more than the database should.
- `verify` reads everything and stops at nothing: it lists all that is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import structlog
from sqlalchemy import Connection, select

from meshca.authority.ports import Signer
from meshca.store.appending import read_head
from meshca.store.chain import ChainCheck, ChainRecord, Checkpoint, Head, checkpoint_statement
from meshca.store.checkpoints import (
    file_findings,
    insert_checkpoint,
    load_checkpoints,
    read_file,
    signature_findings,
    write_file,
)
from meshca.store.engine import Store
from meshca.store.schema import AUDIT
from meshca.store.times import micros

_log = structlog.get_logger("meshca.audit")


@dataclass(frozen=True)
class CheckpointPolicy:
    """Who signs checkpoints, where the copy goes, and when one is due."""

    signer: Callable[[], Signer]
    file: Path
    every_records: int = 1_000
    every: timedelta = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class Verification:
    """What a check of the whole log found; no findings: it is intact."""

    records: int
    findings: tuple[str, ...]

    @property
    def intact(self) -> bool:
        """Say whether nothing was found."""
        return not self.findings


class AuditLog:
    """The audit log of one store."""

    def __init__(self, store: Store, policy: CheckpointPolicy) -> None:
        self._store = store
        self._policy = policy
        self._last: Head | None = None
        self._last_at: datetime | None = None

    def tail(self, count: int) -> list[ChainRecord]:
        """Return the newest records of all writers, oldest first."""
        newest = select(AUDIT).order_by(AUDIT.c.at.desc(), AUDIT.c.writer.desc(), AUDIT.c.seq.desc()).limit(count)
        with self._store.read() as connection:
            return [ChainRecord(*row) for row in connection.execute(newest)][::-1]

    def checkpoint_if_due(self, now: datetime) -> Checkpoint | None:
        """Sign a checkpoint when enough records or time have passed since the last one; call this on a schedule."""
        head = self._store.known_head
        if self._last is None or self._last_at is None:
            return self.checkpoint(now)
        enough = head.seq - self._last.seq >= self._policy.every_records
        return self.checkpoint(now) if enough or now - self._last_at >= self._policy.every else None

    def checkpoint(self, now: datetime) -> Checkpoint | None:
        """Sign the end of this writer's chain; None when nothing was added since the last checkpoint.

        Raises:
            KeyUnavailableError: the signer does not answer.
            StoreError: the database or the home's file cannot be written.
        """
        with self._store.read() as connection:
            head = read_head(connection, self._store.writer)
        head = max(head, self._store.known_head, key=lambda end: end.seq)
        if not head.seq or head == self._last:
            return None
        checkpoint = self._signed(head, now)
        self._store.write(lambda transaction: insert_checkpoint(transaction.connection, checkpoint))
        write_file(self._policy.file, checkpoint)
        _log.info(
            "audit_checkpoint",
            writer=checkpoint.writer,
            seq=checkpoint.seq,
            hash=checkpoint.hash,
            signer_id=checkpoint.signer_id,
            signature=checkpoint.signature.hex(),
        )
        self._last, self._last_at = head, now
        return checkpoint

    def verify(self, files: Sequence[Path] = ()) -> Verification:
        """Check every writer's chain against its hashes, its checkpoints, the home's file and further ``files``."""
        with self._store.read() as connection:
            stored = load_checkpoints(connection)
            findings = signature_findings(connection, stored)
            kept: list[Checkpoint] = []
            for path in (self._policy.file, *files):
                found = read_file(path, findings, expected=bool(stored) or path != self._policy.file)
                kept.extend([] if found is None else [found])
            findings += signature_findings(connection, kept) + file_findings(kept, stored)
            records, broken = self._check_chains(connection, [*stored, *kept])
        return Verification(records, tuple(dict.fromkeys(findings + broken)))

    def _check_chains(self, connection: Connection, checkpoints: Sequence[Checkpoint]) -> tuple[int, list[str]]:
        checks: dict[str, ChainCheck] = {}
        for writer in {checkpoint.writer for checkpoint in checkpoints} | {self._store.writer}:
            checks[writer] = ChainCheck(writer, [known for known in checkpoints if known.writer == writer])
        # What this process committed itself must be there too, even where no checkpoint has seen it yet.
        checks[self._store.writer].expect(self._store.known_head)
        records = 0
        everything = select(AUDIT).order_by(AUDIT.c.writer, AUDIT.c.seq).execution_options(yield_per=1_000)
        for row in connection.execute(everything):
            record = ChainRecord(*row)
            checks.setdefault(record.writer, ChainCheck(record.writer)).read(record)
            records += 1
        return records, [finding for _, check in sorted(checks.items()) for finding in check.finish()]

    def _signed(self, head: Head, now: datetime) -> Checkpoint:
        signer, at, writer = self._policy.signer(), micros(now), self._store.writer
        signature = signer.sign(checkpoint_statement(writer, head, at, signer.key_id))
        return Checkpoint(writer, head.seq, head.hash, at, signer.key_id, signature)
