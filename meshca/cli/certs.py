"""`meshca certs`: the ledger's certificates.

The rules this module keeps:
- Without --limit the list is complete, and is printed as it arrives.
- With --limit the serial for --after stands on stderr while there is more; it is the last one printed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from meshca.cli.command import Command, Settings, connect, pass_settings
from meshca.cli.options import MOMENT
from meshca.cli.output import absent, note, rfc3339, show_stream
from meshca.client.values import CertificateQuery, CertificateRecord

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meshca.client.admin import AdminClient

_STATES = ("valid", "revoked", "expired", "pending")
_LARGEST_PAGE = 10_000


@click.command("certs", cls=Command, short_help="List the certificates in the ledger.")
@click.option("--node", default="", metavar="NODE", help="Only this node's.")
@click.option("--state", type=click.Choice(_STATES), help="Only those in this state.")
@click.option("--issuer", default="", metavar="CA", help="Only those of the issuing CA with this id.")
@click.option("--since", type=MOMENT, help="Only those issued at or after this time: RFC 3339, a date, or 36h (ago).")
@click.option("--until", type=MOMENT, help="Only those issued before this time.")
@click.option("--limit", type=click.IntRange(min=1), help="At most that many; says where to go on.")
@click.option("--after", default="", metavar="SERIAL", help="Go on after this certificate.")
@click.option("--archived", is_flag=True, help="List the archive, where expired ones go after the retention.")
@pass_settings
def certs_command(settings: Settings, /, **options: Any) -> None:
    """List the certificates in the ledger, oldest first, expired ones included."""
    limit, after = options.pop("limit"), options.pop("after")
    wanted = CertificateQuery(**{**options, "state": options["state"] or ""})
    with connect(settings) as client:
        found = _Found(client, wanted, after)
        show_stream(settings.output, map(_document, found.records(limit)))
        if limit is not None and found.more:
            note(f"there are more: go on with --after {found.more}")


class _Found:
    """Walks through pages and remembers where the next one begins."""

    def __init__(self, client: AdminClient, wanted: CertificateQuery, after: str) -> None:
        self._client, self._wanted = client, wanted
        self.more = after

    def records(self, left: int | None) -> Iterator[CertificateRecord]:
        """Yield at most ``left`` records; None: all."""
        while left is None or left > 0:
            page = self._client.certificate_page(self._wanted, min(left or _LARGEST_PAGE, _LARGEST_PAGE), self.more)
            self.more = page.after
            left = None if left is None else left - len(page.records)
            yield from page.records
            if not page.after:
                return


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
