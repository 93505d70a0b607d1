"""`meshca audit`: what was done, by whom, and whether anybody changed the record of it."""

from __future__ import annotations

import click

from meshca.cli.command import Noun, Settings, connect, pass_settings
from meshca.cli.output import absent, rfc3339, show
from meshca.client.values import AuditRecord


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
@pass_settings
def verify_command(settings: Settings) -> None:
    """Recompute the chains and compare them with their checkpoints; exit code 1 if a record was changed."""
    with connect(settings) as client:
        found = client.audit_verify()
    show(settings.output, {"intact": found.intact, "records": found.records, "findings": list(found.findings)})
    raise click.exceptions.Exit(0 if found.intact else 1)


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
