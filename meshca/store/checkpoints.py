"""Checkpoints of the audit log in the table and in the home's file, and how their signatures are checked.

Rules: the file is replaced whole and is 0600; a signature counts only under the certificate of a CA in the ledger.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.x509 import load_der_x509_certificate
from sqlalchemy import Connection, select

from meshca.store.chain import Checkpoint
from meshca.store.conditional import insert_missing
from meshca.store.errors import StoreError
from meshca.store.schema import AUDIT_CHECKPOINTS, AUTHORITIES


def insert_checkpoint(connection: Connection, checkpoint: Checkpoint) -> bool:
    """Store the checkpoint; False where this end of the chain has one already."""
    row = {column.name: getattr(checkpoint, column.name) for column in AUDIT_CHECKPOINTS.c}
    return insert_missing(connection, AUDIT_CHECKPOINTS, row)


def load_checkpoints(connection: Connection) -> list[Checkpoint]:
    """Return every checkpoint of every writer."""
    query = select(AUDIT_CHECKPOINTS).order_by(AUDIT_CHECKPOINTS.c.writer, AUDIT_CHECKPOINTS.c.seq)
    return [Checkpoint(*row) for row in connection.execute(query)]


def write_file(path: Path, checkpoint: Checkpoint) -> None:
    """Replace the home's copy: a new file of mode 0600, synced, renamed over the old one.

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
    fresh = path.with_name(path.name + ".new")
    try:
        fresh.unlink(missing_ok=True)
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
            file.write(json.dumps(document, separators=(",", ":")) + "\n")
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise StoreError(
            f"the audit checkpoint cannot be written: {error.strerror}",
            value=str(path),
            remedy="free some space, check the folder's mode",
        ) from error


def read_file(path: Path, findings: list[str], *, expected: bool) -> Checkpoint | None:
    """Return the checkpoint in a file; what is wrong with the file is added to the findings."""
    try:
        document = json.loads(path.read_bytes())
        return Checkpoint(
            writer=str(document["writer"]),
            seq=int(document["seq"]),
            hash=str(document["hash"]),
            at=int(document["at"]),
            signer_id=str(document["signer_id"]),
            signature=bytes.fromhex(document["signature"]),
        )
    except FileNotFoundError:
        if expected:
            findings.append(f"{path.name}: the checkpoint file is missing")
    except OSError as error:
        findings.append(f"{path.name}: the checkpoint file cannot be read: {error.strerror}")
    except (ValueError, KeyError, TypeError):
        findings.append(f"{path.name}: the checkpoint file is damaged")
    return None


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
    key = load_der_x509_certificate(certificate).public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        return False
    digest = SHA384() if key.curve.name == "secp384r1" else SHA256()
    try:
        key.verify(checkpoint.signature, checkpoint.statement(), ec.ECDSA(digest))
    except InvalidSignature:
        return False
    return True


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
