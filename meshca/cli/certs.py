"""`meshca certs`: the ledger's certificates."""

from __future__ import annotations

import click

from meshca.cli.command import Command, Settings, connect, pass_settings
from meshca.cli.output import absent, rfc3339, show
from meshca.client.values import CertificateRecord

_STATES = ("valid", "revoked", "expired", "pending")


@click.command("certs", cls=Command, short_help="List the certificates in the ledger.")
@click.option("--node", default="", metavar="NODE", help="Only this node's.")
@click.option("--state", type=click.Choice(_STATES), help="Only those in this state.")
@pass_settings
def certs_command(settings: Settings, node: str, state: str | None) -> None:
    """List the certificates in the ledger, expired ones included."""
    with connect(settings) as client:
        found = client.certificates(node=node, state=state or "")
    show(settings.output, [_document(record) for record in found])


def _document(record: CertificateRecord) -> dict[str, object]:
    return {
        "serial": record.serial,
        "spiffe_id": record.spiffe_id,
        "state": record.state,
        "not_before": rfc3339(record.not_before),
        "not_after": rfc3339(record.not_after),
        "issuer": record.issuer,
        "revoked_at": rfc3339(record.revoked_at),
        "reason": absent(record.reason),
    }
