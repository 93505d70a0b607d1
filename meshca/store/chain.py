"""The audit chain as arithmetic: no database, no file, no clock.

Rules:
- A writer's records are numbered from 1 without a gap; each holds the hash of the one before it, the first `GENESIS`.
- The hash is SHA-256 over the canonical JSON array of all fields of the record, `previous` included: one changed byte,
  a removed record or two swapped ones change every hash after them.
- A cut tail leaves a shorter chain that is whole in itself. Only a checkpoint kept elsewhere shows it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from json.encoder import encode_basestring_ascii

GENESIS = "0" * 64

_quoted = encode_basestring_ascii


@dataclass(frozen=True, slots=True)
class Head:
    """Where a writer's chain ends; seq 0 is the empty chain."""

    seq: int = 0
    hash: str = GENESIS


@dataclass(frozen=True, slots=True)
class ChainRecord:
    """One audit record as the table holds it; ``at`` in microseconds."""

    writer: str
    seq: int
    at: int
    actor: str
    action: str
    subject: str
    outcome: str
    reason: str
    previous: str
    hash: str

    def digest(self) -> str:
        """Return the hash that the record must carry."""
        return digest(
            (
                self.writer,
                self.seq,
                self.at,
                self.actor,
                self.action,
                self.subject,
                self.outcome,
                self.reason,
                self.previous,
            )
        )


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A signed statement that a writer's record ``seq`` had this hash."""

    writer: str
    seq: int
    hash: str
    at: int
    signer_id: str
    signature: bytes

    def statement(self) -> bytes:
        """Return the bytes that the signature covers."""
        return checkpoint_statement(self.writer, Head(self.seq, self.hash), self.at, self.signer_id)


def digest(fields: tuple[str | int, ...]) -> str:
    """Return the hash over (writer, seq, at, actor, action, subject, outcome, reason, previous)."""
    return sha256(_canonical(fields)).hexdigest()


def checkpoint_statement(writer: str, head: Head, at: int, signer_id: str) -> bytes:
    """Return what a checkpoint's signature covers; the first member keeps it from meaning anything else."""
    return _canonical(("meshca audit checkpoint v1", writer, head.seq, head.hash, at, signer_id))


def _canonical(fields: tuple[str | int, ...]) -> bytes:
    """Return the fields as a JSON array without spaces, ASCII only; json.dumps says the same, four times slower."""
    members = [_quoted(field) if type(field) is str else str(field) for field in fields]
    return f"[{','.join(members)}]".encode("ascii")


class ChainCheck:
    """Reads one writer's records in order and collects what is wrong with them."""

    def __init__(self, writer: str, checkpoints: Iterable[Checkpoint] = ()) -> None:
        self.writer = writer
        self.head = Head()
        self.findings: list[str] = []
        self._expected: dict[int, set[str]] = {}
        for checkpoint in checkpoints:
            self.expect(Head(checkpoint.seq, checkpoint.hash))

    def expect(self, head: Head) -> None:
        """Demand that the record ``head.seq`` exists with this hash."""
        if head.seq:
            self._expected.setdefault(head.seq, set()).add(head.hash)

    def read(self, record: ChainRecord) -> None:
        """Compare the next record with the chain so far."""
        where = f"{self.writer} record {record.seq}"
        if record.seq != self.head.seq + 1:
            self.findings.append(f"{where}: records {self.head.seq + 1} to {record.seq - 1} are missing")
        elif record.previous != self.head.hash:
            self.findings.append(f"{where}: does not follow record {self.head.seq}")
        if record.digest() != record.hash:
            self.findings.append(f"{where}: its fields do not match its hash")
        expected = self._expected.pop(record.seq, {record.hash})
        if expected != {record.hash}:
            self.findings.append(f"{where}: its hash is not the one in the checkpoint")
        self.head = Head(record.seq, record.hash)

    def finish(self) -> list[str]:
        """Return every finding, those for records that are missing at the end included."""
        if self._expected:
            last = max(self._expected)
            self.findings.append(
                f"{self.writer}: the chain ends at record {self.head.seq}, but record {last} was known: the tail is cut"
            )
        return self.findings
