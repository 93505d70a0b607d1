"""`meshca federate`: whom else to believe, each trust domain about its own identities."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from meshca.cli.command import Command, Settings, connect, pass_settings
from meshca.cli.output import absent, rfc3339, show
from meshca.client.values import Federating, Federation

if TYPE_CHECKING:
    from meshca.client.admin import AdminClient

_COLUMNS = ("trust_domain", "url", "profile", "roots", "jwt_keys", "sequence", "fetched_at", "failure")
_LARGEST = 1 << 20


@click.command("federate", cls=Command, short_help="Believe trust domain TD about its own identities.")
@click.argument("td", metavar="[TD]", required=False)
@click.option("--url", metavar="U", help="Where its bundle endpoint is, https.")
@click.option(
    "--profile",
    type=click.Choice(["https_spiffe", "https_web"]),
    help="How its server is known; default: https_spiffe.",
)
@click.option(
    "--endpoint-id", metavar="ID", help="The server's SPIFFE ID; default: spiffe://TD/meshca/server/federation."
)
@click.option("--bundle", type=click.Path(path_type=Path), metavar="F", help="Its SPIFFE bundle, brought by hand.")
@click.option("--refresh", is_flag=True, help="Fetch its bundle now.")
@click.option("--remove", is_flag=True, help="Believe it no longer; connections with its identities end.")
@pass_settings
def federate_command(
    settings: Settings, /, td: str | None, *, refresh: bool, remove: bool, bundle: Path | None, **told: str | None
) -> None:
    """Believe trust domain TD about its own identities; without TD, list the federated trust domains.

    With https_spiffe the first connection is checked by the bundle that --bundle brings: there, `meshca bundle --format
    spiffe` prints it. A bundle that is brought may also set back the sequence of one that is held.
    """
    adding = told["url"] is not None
    if sum((adding, refresh, remove)) > 1 or (td is None and (adding or refresh or remove)):
        raise click.UsageError("one of: federate, federate TD --url U, federate TD --refresh, federate TD --remove")
    if not adding and (bundle or told["profile"] or told["endpoint_id"]):
        raise click.UsageError("--profile, --endpoint-id and --bundle go with --url")
    with connect(settings) as client:
        if td is not None and remove:
            client.unfederate(td)
            show(settings.output, {"trust_domain": td})
        elif td is not None and refresh:
            show(settings.output, _document(client.refresh_federation(td)))
        elif td is not None and adding:
            show(settings.output, _document(client.federate(_wanted(td, bundle, told))))
        else:
            rows = [_document(one) for one in _found(client, td)]
            show(settings.output, rows, columns=_COLUMNS)


def _wanted(td: str, bundle: Path | None, told: dict[str, str | None]) -> Federating:
    return Federating(
        td, told["url"] or "", told["profile"] or "", told["endpoint_id"] or "", _read(bundle) if bundle else b""
    )


def _read(file: Path) -> bytes:
    with file.open("rb") as opened:
        return opened.read(_LARGEST + 1)  # the server refuses what is larger


def _found(client: AdminClient, td: str | None) -> list[Federation]:
    return [one for one in client.federations() if td in {None, one.trust_domain}]


def _document(found: Federation) -> dict[str, object]:
    return {
        "trust_domain": found.trust_domain,
        "url": found.url,
        "profile": found.profile,
        "endpoint_id": absent(found.endpoint_id),
        "roots": found.roots,
        "jwt_keys": found.jwt_keys,
        "sequence": found.sequence,
        "fetched_at": rfc3339(found.fetched_at) if found.fetched_at else None,
        "due_at": rfc3339(found.due_at),
        "failure": absent(found.failure),
    }
