"""`meshca can`: who may call whom, with the chain of reasons."""

from __future__ import annotations

import click

from meshca.cli.command import Question, Settings, connect, pass_settings
from meshca.cli.output import show
from meshca.client.values import Decision


@click.command("can", cls=Question, short_help="Say whether CLIENT may call SERVER, and why.")
@click.argument("client")
@click.argument("server")
@click.option("--port", type=click.IntRange(1, 65535), help="Listener of SERVER; without it, any.")
@pass_settings
def can_command(settings: Settings, client: str, server: str, port: int | None) -> None:
    """Say whether CLIENT may call SERVER, and why.

    It is the answer of the applied specs: a suspended node may be allowed here and still has no certificate.

    Exit code 0: yes. 1: no. 3: error.
    """
    with connect(settings) as api:
        decision = api.can(client, server, port=port or 0)
    document = {
        "allowed": decision.allowed,
        "client": decision.client,
        "server": decision.server,
        "reasons": reasons(decision),
    }
    show(settings.output, document, text=_text(decision))
    raise click.exceptions.Exit(0 if decision.allowed else 1)


def reasons(decision: Decision) -> list[dict[str, str]]:
    """Return a decision's reasons as they stand in documents."""
    return [{"object": r.object, "field": r.field, "text": r.text} for r in decision.reasons]


def _text(decision: Decision) -> str:
    answer = "yes" if decision.allowed else "no"
    lines = [f"{answer}: {decision.client} -> {decision.server}"]
    lines += [f"  {' '.join(part for part in (r.object, r.field) if part)}: {r.text}" for r in decision.reasons]
    return "\n".join(lines)
