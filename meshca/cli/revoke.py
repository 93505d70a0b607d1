"""`meshca revoke` and `meshca resume`: the two intents of a revocation, and the end of a suspension."""

from __future__ import annotations

import re
from datetime import timedelta

import click

from meshca.authority.reasons import REASONS, UNSPECIFIED
from meshca.cli.command import Command, Settings, connect, pass_settings
from meshca.cli.output import show, warn
from meshca.client.values import Revoked
from meshca.errors import InvalidInputError

_PATIENCE = timedelta(seconds=30)
_HEX = re.compile("[0-9a-f]+")


@click.command("revoke", cls=Command, short_help="Revoke a certificate, or all of a node's and suspend it.")
@click.argument("serial", required=False)
@click.option("--node", metavar="NODE", help="Revoke all of its certificates and suspend it.")
@click.option("--reason", type=click.Choice(REASONS), default=UNSPECIFIED, show_default=True, help="RFC 5280 §5.3.1.")
@click.option("--wait", is_flag=True, help=f"Wait up to {_PATIENCE.seconds} s until every Envoy has acknowledged.")
@pass_settings
def revoke_command(settings: Settings, serial: str | None, node: str | None, reason: str, wait: bool) -> None:
    """Revoke one certificate (its holder gets a new key at once), or with --node all of a node's and suspend it."""
    if (serial is None) == (node is None):
        raise click.UsageError("give a SERIAL or --node NODE, and not both")
    if serial is not None and not _HEX.fullmatch(serial):
        raise InvalidInputError(
            "a serial is lower-case hex",
            field="SERIAL",
            value=serial,
            remedy="copy it from `meshca certs`, or name a node with --node",
        )
    with connect(settings) as client:
        revoked = client.revoke(serial or "", node=node or "", reason=reason, wait=_PATIENCE if wait else None)
    if wait and revoked.acknowledged < revoked.notified:
        warn(f"{revoked.notified - revoked.acknowledged} Envoys have not acknowledged within {_PATIENCE.seconds} s")
    show(settings.output, _document(revoked))


@click.command("resume", cls=Command, short_help="Let a suspended node have certificates again.")
@click.argument("node")
@pass_settings
def resume_command(settings: Settings, node: str) -> None:
    """Let a suspended node have certificates again."""
    with connect(settings) as client:
        spiffe_id = client.resume(node)
    show(settings.output, {"spiffe_id": spiffe_id})


def _document(revoked: Revoked) -> dict[str, object]:
    return {
        "revoked": list(revoked.revoked),
        "suspended": revoked.suspended,
        "crl_number": revoked.crl_number,
        "envoys": {
            "notified": revoked.notified,
            "acknowledged": revoked.acknowledged,
            "not_drainable": revoked.not_drainable,
        },
        "elapsed_ms": revoked.elapsed_ms,
    }
