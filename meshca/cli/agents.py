"""`meshca token`, `agents` and `evict`: which node agents there are."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import click

from meshca.cli.command import Command, Settings, connect, pass_settings
from meshca.cli.options import DURATION
from meshca.cli.output import absent, rfc3339, show


@click.command("token", cls=Command, short_help="Let AGENT join, once.")
@click.argument("agent")
@click.option("--ttl", type=DURATION, help="How long it is good; default: 10m.")
@click.option("--out", type=click.Path(path_type=Path), help="Write the token to this file (0600) and not to stdout.")
@click.option("--x509", type=click.Path(path_type=Path), metavar="DIR", help="Make an X.509 identity there instead.")
@pass_settings
def token_command(settings: Settings, agent: str, ttl: timedelta | None, out: Path | None, x509: Path | None) -> None:
    """Print a token with which AGENT may join, once.

    It is a secret: bring it to the agent's host in a file (--token-file) or as MESHCA_TOKEN, never as an argument.
    With --x509 there is no token: the key is made here, and DIR is for the agent's --identity, again and again until
    its certificate expires (the profile `agent` says how long it may live; `evict` ends it at once).
    """
    if x509 is not None:
        if out is not None:
            raise click.UsageError("give --out or --x509.")
        _make_identity(settings, agent, ttl, x509)
        return
    with connect(settings) as client:
        made = client.create_token(agent, ttl)
    document = {"spiffe_id": made.spiffe_id, "expires": rfc3339(made.expires)}
    if out is None:
        show(settings.output, {"token": made.text, **document}, text=made.text)
        return
    from meshca.cli.files import replace_files

    replace_files(out.absolute().parent, {out.name: made.text.encode() + b"\n"})
    show(settings.output, {"file": str(out), **document})


def _make_identity(settings: Settings, agent: str, ttl: timedelta | None, folder: Path) -> None:
    from meshca.cli.remote import IdentityFolder
    from meshca.keys.requesting import new_request

    key_pem, csr = new_request()
    with connect(settings) as client:
        made = client.issue_agent(agent, csr, ttl)
    IdentityFolder(folder).put(made, key_pem)
    document = {
        "spiffe_id": made.issued.spiffe_id,
        "serial": made.issued.serial,
        "not_after": rfc3339(made.issued.not_after),
        "directory": str(folder.absolute()),
    }
    show(settings.output, document)


@click.command("agents", cls=Command, short_help="List the node agents.")
@pass_settings
def agents_command(settings: Settings) -> None:
    """List the node agents that have attested, and those that were evicted."""
    with connect(settings) as client:
        found = client.agents()
    document = [
        {
            "id": agent.id,
            "spiffe_id": agent.spiffe_id,
            "state": agent.state,
            "method": absent(agent.method),
            "registrations": agent.registrations,
            "attested_at": rfc3339(agent.attested_at) if agent.method else None,
            "not_after": rfc3339(agent.not_after) if agent.method else None,
        }
        for agent in found
    ]
    show(settings.output, document)


@click.command("evict", cls=Command, short_help="Trust AGENT, and what it holds, no longer.")
@click.argument("agent")
@pass_settings
def evict_command(settings: Settings, agent: str) -> None:
    """Suspend AGENT, and revoke every certificate that it and the workloads behind it hold.

    `meshca resume spiffe://…/meshca/agent/AGENT` lets it back; it has to attest again.
    """
    with connect(settings) as client:
        evicted = client.evict(agent)
    show(settings.output, {"spiffe_id": evicted.spiffe_id, "revoked": list(evicted.revoked)})
