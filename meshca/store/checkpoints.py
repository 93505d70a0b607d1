"""Checkpoints of the audit log in the table and in the home's file, and how their signatures are checked.

Rules: the file is replaced whole and is 0600; a signature counts only under the certificate of a CA in the ledger.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.x509 import load_der_x509_certificate
from sqlalchemy import Connection, select

from meshca.store.chain import Checkpoint
from meshca.store.conditional import insert_missing
from meshca.store.errors import StoreError
from meshca.store.schema import AUDIT_CHECKPOINTS, AUTHORITIES
from meshca.x509.unreadable import UNREADABLE


def insert_checkpoint(connection: Connection, checkpoint: Checkpoint) -> bool:
    """Store the checkpoint; False where this end of the chain has one already."""
    row = {column.name: getattr(checkpoint, column.name) for column in AUDIT_CHECKPOINTS.c}
    return insert_missing(connection, AUDIT_CHECKPOINTS, row)


def load_checkpoints(connection: Connection) -> list[Checkpoint]:
    """Return every checkpoint of every writer."""
    query = select(AUDIT_CHECKPOINTS).order_by(AUDIT_CHECKPOINTS.c.writer, AUDIT_CHECKPOINTS.c.seq)
    return [Checkpoint(*row) for row in connection.execute(query)]


def stage_file(path: Path, checkpoint: Checkpoint) -> None:
    """Write what becomes the home's copy beside it: a new file of mode 0600, synced.

    Raises:
        StoreError: the file cannot be written.
    """
    document = {
        "writer": checkpoint.writer,
        "seq": checkpoint.seq,
        "hash": checkpoint.hash,
        "at": checkpoint.at,
        "signer_id": checkpoint.signer_id,
        "signature": checkpoint.signature.hex(),
    }
    fresh = staged(path)
    try:
        fresh.unlink(missing_ok=True)
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
            file.write(json.dumps(document, separators=(",", ":")) + "\n")
            file.flush()
            os.fsync(file.fileno())
        _sync_folder(path.parent)
    except OSError as error:
        raise _unwritable(path, error) from error


def replace_file(path: Path) -> None:
    """Put what is staged in the place of the home's copy.

    Raises:
        StoreError: the file cannot be written.
    """
    try:
        staged(path).replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise _unwritable(path, error) from error


def staged(path: Path) -> Path:
    """Return where a file is written before it takes its place."""
    return path.with_name(path.name + ".new")


@dataclass(frozen=True, slots=True)
class Kept:
    """Checkpoints that somebody kept: the text of a checkpoint file, or lines of the server's log."""

    name: str
    content: bytes


def read_file(path: Path, findings: list[str]) -> tuple[list[Checkpoint], bool]:
    """Return the checkpoint of the home's file, and whether the file is missing; other faults go to the findings."""
    try:
        return read_kept(Kept(path.name, path.read_bytes()), findings), False
    except FileNotFoundError:
        return [], True
    except OSError as error:
        findings.append(f"{path.name}: the checkpoint file cannot be read: {error.strerror}")
        return [], False


def read_kept(kept: Kept, findings: list[str]) -> list[Checkpoint]:
    """Return the checkpoints of a text, one a line; a log line that is no checkpoint is passed over."""
    found, damaged = [], False
    for line in kept.content.splitlines():
        if b'"signature"' not in line:
            continue
        try:
            found.append(_checkpoint(json.loads(line)))
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            damaged = True
    if damaged or not found:
        findings.append(f"{kept.name}: the checkpoint file is damaged")
    return found


def _checkpoint(document: Any) -> Checkpoint:
    return Checkpoint(
        writer=str(document["writer"]),
        seq=int(document["seq"]),
        hash=str(document["hash"]),
        at=int(document["at"]),
        signer_id=str(document["signer_id"]),
        signature=bytes.fromhex(document["signature"]),
    )


def file_findings(kept: Sequence[Checkpoint], stored: Sequence[Checkpoint]) -> list[str]:
    """Compare checkpoints kept in files with those of the database, which holds every one of them."""
    known = {(checkpoint.writer, checkpoint.seq, checkpoint.hash) for checkpoint in stored}
    return [
        f"{checkpoint.writer}: the checkpoint of record {checkpoint.seq} is in a file, but not in the database"
        for checkpoint in kept
        if (checkpoint.writer, checkpoint.seq, checkpoint.hash) not in known
    ]


def signature_findings(connection: Connection, checkpoints: Sequence[Checkpoint]) -> list[str]:
    """Check each checkpoint's signature under the certificate of the CA it names."""
    signers = {checkpoint.signer_id for checkpoint in checkpoints}
    query = select(AUTHORITIES.c.id, AUTHORITIES.c.certificate).where(AUTHORITIES.c.id.in_(sorted(signers)))
    certificates = {authority: bytes(der) for authority, der in connection.execute(query)}
    findings = []
    for checkpoint in checkpoints:
        where = f"{checkpoint.writer}: the checkpoint of record {checkpoint.seq}"
        if checkpoint.signer_id not in certificates:
            findings.append(f"{where} is signed by a CA that the ledger does not know ({checkpoint.signer_id})")
        elif not _is_signed(checkpoint, certificates[checkpoint.signer_id]):
            findings.append(f"{where} has a wrong signature")
    return findings


def _is_signed(checkpoint: Checkpoint, certificate: bytes) -> bool:
    try:
        key = load_der_x509_certificate(certificate).public_key()
    except UNREADABLE:  # somebody has written there
        return False
    if not isinstance(key, ec.EllipticCurvePublicKey):
        return False
    digest = SHA384() if key.curve.name == "secp384r1" else SHA256()
    try:
        key.verify(checkpoint.signature, checkpoint.statement(), ec.ECDSA(digest))
    except InvalidSignature:
        return False
    return True


def _unwritable(path: Path, error: OSError) -> StoreError:
    return StoreError(
        f"the audit checkpoint cannot be written: {error.strerror}",
        value=str(path),
        remedy="free some space, check the folder's mode",
    )


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
