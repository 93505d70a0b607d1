"""The audit log: read its end, check the whole of it, sign checkpoints.

Rules:
- A checkpoint names the end of this writer's chain and is signed by an issuing CA. It goes to the database, to a file
  of the home and to the log: who cuts the tail of the table and its checkpoints still has the file and the log to face.
- The database's checkpoint commits before the file is replaced, so the file never knows more than the database should;
  what replaces it is on the disk before that, so that who dies in between leaves the first copy beside its place.
- `verify` reads everything and stops at nothing: it lists all that is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import structlog
from sqlalchemy import Connection, func, select, tuple_

from meshca.authority.ports import Signer
from meshca.store.appending import read_head
from meshca.store.chain import ChainCheck, ChainRecord, Checkpoint, Head, checkpoint_statement
from meshca.store.checkpoints import (
    Kept,
    file_findings,
    insert_checkpoint,
    load_checkpoints,
    read_file,
    read_kept,
    replace_file,
    signature_findings,
    stage_file,
    staged,
)
from meshca.store.engine import Store
from meshca.store.schema import AUDIT
from meshca.store.times import micros, optional_moment

_log = structlog.get_logger("meshca.audit")

_EXPORTED = 1_000


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

    def newest_at(self) -> datetime | None:
        """Return the time of the newest record of all writers."""
        with self._store.read() as connection:
            return optional_moment(connection.execute(select(func.max(AUDIT.c.at))).scalar())

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
        self._finish_replacing()
        stage_file(self._policy.file, checkpoint)
        self._store.write(lambda transaction: insert_checkpoint(transaction.connection, checkpoint))
        replace_file(self._policy.file)
        _log.info(
            "audit_checkpoint",
            writer=checkpoint.writer,
            seq=checkpoint.seq,
            hash=checkpoint.hash,
            signer_id=checkpoint.signer_id,
            at=checkpoint.at,
            signature=checkpoint.signature.hex(),
        )
        self._last, self._last_at = head, now
        return checkpoint

    def export(self, since: datetime | None = None) -> Iterator[list[ChainRecord]]:
        """Yield every record by writer and number, some at a time; ``since`` leaves out what is older.

        Each yield is a transaction of its own: who reads slowly keeps nothing of the database busy.
        """
        oldest = AUDIT.c.at >= (0 if since is None else micros(since))
        in_order = select(AUDIT).where(oldest).order_by(AUDIT.c.writer, AUDIT.c.seq).limit(_EXPORTED)
        last = ("", 0)
        while True:
            with self._store.read() as connection:
                rows = connection.execute(in_order.where(tuple_(AUDIT.c.writer, AUDIT.c.seq) > tuple_(*last)))
                records = [ChainRecord(*row) for row in rows]
            if not records:
                return
            yield records
            last = (records[-1].writer, records[-1].seq)

    def verify(self, kept_elsewhere: Sequence[Kept] = ()) -> Verification:
        """Check every writer's chain against its hashes, its checkpoints, the home's file and what was kept elsewhere.

        What the file and this process know is read first: the database, read after them, knows at least as much.
        """
        findings: list[str] = []
        known = self._store.known_head
        own, missing = read_file(self._policy.file, findings)
        kept = own + [found for one in kept_elsewhere for found in read_kept(one, findings)]
        with self._store.read() as connection:
            stored = load_checkpoints(connection)
            if missing and stored and not self._was_being_replaced(stored):
                findings.append(f"{self._policy.file.name}: the checkpoint file is missing")
            findings += signature_findings(connection, stored)
            findings += signature_findings(connection, kept) + file_findings(kept, stored)
            records, broken = self._check_chains(connection, [*stored, *kept], known)
        return Verification(records, tuple(dict.fromkeys(findings + broken)))

    def _check_chains(
        self, connection: Connection, checkpoints: Sequence[Checkpoint], known: Head
    ) -> tuple[int, list[str]]:
        checks: dict[str, ChainCheck] = {}
        for writer in {checkpoint.writer for checkpoint in checkpoints} | {self._store.writer}:
            checks[writer] = ChainCheck(writer, [found for found in checkpoints if found.writer == writer])
        # What this process committed itself must be there too, even where no checkpoint has seen it yet.
        checks[self._store.writer].expect(known)
        records = 0
        everything = select(AUDIT).order_by(AUDIT.c.writer, AUDIT.c.seq).execution_options(yield_per=1_000)
        for row in connection.execute(everything):
            record = ChainRecord(*row)
            checks.setdefault(record.writer, ChainCheck(record.writer)).read(record)
            records += 1
        return records, [finding for _, check in sorted(checks.items()) for finding in check.finish()]

    def _finish_replacing(self) -> None:
        """Let a first copy that is committed take its place, where its process died before: the next overwrites it."""
        if self._policy.file.exists():
            return
        with self._store.read() as connection:
            stored = load_checkpoints(connection)
        if self._was_being_replaced(stored):
            replace_file(self._policy.file)

    def _was_being_replaced(self, stored: Sequence[Checkpoint]) -> bool:
        """Whether the home's first checkpoint of all is about to take its place, or its process died before it did."""
        beside, _ = read_file(staged(self._policy.file), [])
        own, _ = read_file(self._policy.file, [])
        return any(checkpoint in stored for checkpoint in beside + own)

    def _signed(self, head: Head, now: datetime) -> Checkpoint:
        signer, at, writer = self._policy.signer(), micros(now), self._store.writer
        signature = signer.sign(checkpoint_statement(writer, head, at, signer.key_id))
        return Checkpoint(writer, head.seq, head.hash, at, signer.key_id, signature)
