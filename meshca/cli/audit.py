"""`meshca audit`: what was done, by whom, and whether anybody changed the record of it."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import click

from meshca.cli.command import Noun, Settings, connect, pass_settings
from meshca.cli.options import MOMENT
from meshca.cli.output import absent, print_line, rfc3339, show
from meshca.client.values import AuditRecord, KeptCheckpoints
from meshca.errors import InvalidInputError

_MOST_CHECKPOINTS = 10_000


@click.group("audit", cls=Noun, short_help="Read and verify the audit log.")
def audit_command() -> None:
    """Read and verify the audit log."""


@audit_command.command("tail", short_help="Print the newest records.")
@click.option("-n", "--lines", type=click.IntRange(1, 100_000), default=50, show_default=True, help="How many.")
@pass_settings
def tail_command(settings: Settings, lines: int) -> None:
    """Print the newest records, oldest first."""
    with connect(settings) as client:
        records = client.audit_tail(lines)
    show(settings.output, [_document(record) for record in records])


@audit_command.command("verify", short_help="Recompute the chains and compare them with their checkpoints.")
@click.option(
    "--checkpoint",
    "files",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="F",
    help="Compare with a copy of the home's audit.checkpoint too, or with a log of the server (JSON lines).",
)
@pass_settings
def verify_command(settings: Settings, files: tuple[Path, ...]) -> None:
    """Recompute the chains and compare them with their checkpoints; exit code 1 if a record was changed.

    Checkpoints stand in the database, in the home's audit.checkpoint and in the server's log. A copy kept on another
    machine shows even what somebody did who may write all three.
    """
    kept = [_kept(path) for path in files]
    with connect(settings) as client:
        found = client.audit_verify(kept)
    show(settings.output, {"intact": found.intact, "records": found.records, "findings": list(found.findings)})
    raise click.exceptions.Exit(0 if found.intact else 1)


@audit_command.command("export", short_help="Print every record as a line of JSON.")
@click.option("--since", type=MOMENT, help="Leave out what is older: RFC 3339, a date, or 36h (ago).")
@pass_settings
def export_command(settings: Settings, since: datetime | None) -> None:
    """Print every record as a line of JSON, by writer and number, whatever -o says.

    `hash` is the SHA-256 of the JSON array [writer, seq, time in microseconds since 1970, actor, action, subject,
    outcome, reason, previous], without spaces and in ASCII, so that the chain can be checked from the export alone.
    """
    with connect(settings) as client:
        for record in client.audit_export(since):
            whole = {"writer": record.writer, **_document(record), "reason": record.reason, "previous": record.previous}
            print_line(json.dumps(whole))


def _kept(path: Path) -> KeptCheckpoints:
    """Return the lines of a file that can be checkpoints; a log has many others."""
    with path.open("rb") as file:
        lines = [line for line in file if b'"signature"' in line]
    if not lines:
        raise InvalidInputError("holds no checkpoint", field="--checkpoint", value=str(path))
    return KeptCheckpoints(path.name, b"".join(lines[-_MOST_CHECKPOINTS:]))


def _document(record: AuditRecord) -> dict[str, object]:
    return {
        "seq": record.seq,
        "time": rfc3339(record.time),
        "actor": record.actor,
        "action": record.action,
        "subject": record.subject,
        "outcome": record.outcome,
        "reason": absent(record.reason),
        "hash": record.hash,
    }
