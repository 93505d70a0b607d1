"""`meshca drop`: files for what speaks no SDS.

The rules this module keeps:
- The admin socket is used where this user may open it; else the caller is attested on the workload socket, as an Envoy
  is.
- SIGTERM and Ctrl-C end it in an orderly way; what they interrupt is cleaned up by the next run.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from meshca.cli.command import Command, Settings, may_open, pass_settings, require_running
from meshca.cli.options import preferred
from meshca.cli.output import note, rfc3339, show_event
from meshca.errors import InvalidInputError

if TYPE_CHECKING:
    from meshca.drop.loop import Drop
    from meshca.drop.material import Material
    from meshca.drop.source import Source
    from meshca.errors import MeshcaError

_COMMAND_TIMEOUT = 60.0


@click.command("drop", cls=Command, short_help="Keep certificate, key, bundle and CRL in a folder.")
@click.argument("node")
@click.option("--dir", "folder", required=True, type=click.Path(path_type=Path), help="Folder; made if missing.")
@click.option("--layout", type=click.Choice(("pem",)), default="pem", show_default=True, help="Which files.")
@click.option("--on-change", metavar="CMD", help="Run this after each change; split like argv, no shell.")
@click.option("--dns", "names", multiple=True, metavar="NAME", help="Also this DNS name of the node's own; may repeat.")
@click.option("--once", is_flag=True, help="Write one generation and end.")
@pass_settings
def drop_command(settings: Settings, /, node: str, folder: Path, on_change: str | None, **options: Any) -> None:
    """Keep key, chain, bundle and CRL of NODE in DIR/current, always of one generation."""
    from meshca.drop.command import run_command, split_command
    from meshca.drop.generation import GenerationFolder
    from meshca.drop.loop import Drop, Timer

    once, names = bool(options["once"]), tuple(options["names"])
    holder = f"{'drop-once' if once else 'drop'}:{folder.absolute()}"
    argv = () if on_change is None else split_command(on_change)

    def command() -> None:
        if argv:
            run_command(argv, os.environ, _COMMAND_TIMEOUT)

    with (
        _ended_by_sigterm(),
        _source(settings, node, holder, names) as source,
        GenerationFolder(folder) as generations,
    ):
        report = _Lines(settings.output, generations.path)
        _run(Drop(source, generations, command, report, Timer(time.monotonic, time.sleep)), once=once)


def _run(drop: Drop, *, once: bool) -> None:
    if once:
        drop.once()
    else:
        drop.run()


@contextlib.contextmanager
def _source(settings: Settings, node: str, holder: str, names: tuple[str, ...]) -> Iterator[Source]:
    if not may_open(settings.admin_socket) and may_open(settings.workload_socket):
        from meshca.client.sds import SdsClient
        from meshca.drop.attested import AttestedSource

        if names:
            raise InvalidInputError(
                "comes through the admin socket only, which this user may not open",
                field="--dns",
                value=names[0],
                remedy="run it as the home's owner or as root, or leave --dns out",
            )
        with contextlib.closing(SdsClient(settings.workload_socket, node)) as secrets:
            yield AttestedSource(secrets, _now)
        return
    require_running(settings)
    from meshca.client.admin import AdminClient
    from meshca.drop.source import AdminSource, Renewal, Wish

    with AdminClient(settings.admin_socket) as client:
        found = client.resolve(node)
        wish = Wish(node, holder, dns_names=names, key_type=preferred(found.key_types))
        yield AdminSource(client, wish, found.spiffe_id, Renewal(_now, random.SystemRandom().random))


class _Lines:
    """Tells a generation on stdout, and a failure on stderr."""

    def __init__(self, form: str, folder: Path) -> None:
        self._form = form
        self._folder = folder

    def placed(self, generation: str, material: Material) -> None:
        leaf = material.leaf
        document = {
            "directory": str(self._folder / "current"),
            "generation": generation,
            "serial": material.serial,
            "not_before": rfc3339(leaf.not_valid_before_utc),
            "not_after": rfc3339(leaf.not_valid_after_utc),
            "trust": material.trust,
        }
        text = f"{self._folder}/current -> {generation}: serial {material.serial}, until {document['not_after']}"
        show_event(self._form, document, text)

    def worked(self, generation: str) -> None:
        """Nothing to say: silence is success."""

    def failed(self, error: MeshcaError, retry_in: float) -> None:
        note(f"{error}; next try in {retry_in:g} s")


def _now() -> datetime:
    return datetime.now(UTC)


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    def end(*_: object) -> None:
        raise SystemExit(0)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
