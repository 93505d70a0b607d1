"""`meshca drop`: files for what speaks no SDS; one folder by options, or several by a configuration file.

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
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from meshca.cli.command import Command, Settings, may_open, pass_settings, require_running
from meshca.cli.options import preferred
from meshca.cli.output import note, rfc3339, show_event
from meshca.errors import InvalidInputError, MeshcaError

if TYPE_CHECKING:
    from meshca.drop.config import Target
    from meshca.drop.loop import Drop
    from meshca.drop.material import Material
    from meshca.drop.source import Source
    from meshca.drop.targets import OpenSource, Targets

_COMMAND_TIMEOUT = 60.0


@click.command("drop", cls=Command, short_help="Keep certificate, key, bundle and CRL in a folder.")
@click.argument("node", required=False)
@click.option("--dir", "folder", type=click.Path(path_type=Path), help="Folder; made if missing.")
@click.option(
    "--layout", type=click.Choice(("pem", "haproxy", "grpc")), default="pem", show_default=True, help="Which files."
)
@click.option("--on-change", metavar="CMD", help="Run this after each change; split like argv, no shell.")
@click.option("--dns", "names", multiple=True, metavar="NAME", help="Also this DNS name of the node's own; may repeat.")
@click.option("--subject", is_flag=True, help="Also put the SPIFFE ID into the subject, as UID=….")
@click.option("--config", type=click.Path(path_type=Path), help="Keep all targets of this file, in place of NODE.")
@click.option("--once", is_flag=True, help="Write one generation and end.")
@pass_settings
def drop_command(settings: Settings, /, node: str | None, folder: Path | None, **options: Any) -> None:
    """Keep key, chain, bundle and CRL of NODE in DIR/current, always of one generation."""
    once, config = bool(options["once"]), options["config"]
    alone = [options["on_change"], options["names"], options["subject"], options["layout"] != "pem"]
    if config is not None and (node or folder or any(alone)):
        raise click.UsageError("with --config, everything else stands in that file.")
    with _ended_by_sigterm():
        if config is not None:
            _drop_all(settings, config, once=once)
        elif node is None or folder is None:
            raise click.UsageError("give NODE and --dir, or --config.")
        else:
            _drop_one(settings, _Asked(node, _holder(folder, once=once), options["names"], options["subject"]), options)


@dataclass(frozen=True, slots=True)
class _Asked:
    """Which certificate is asked for."""

    node: str
    holder: str
    names: tuple[str, ...]
    subject: bool
    fresh: bool = False

    def require_attestable(self) -> None:
        """Raise if this asks for what an attested caller does not get."""
        for option, value in (("--dns", " ".join(self.names)), ("--subject", "true" if self.subject else "")):
            if value:
                raise InvalidInputError(
                    "comes through the admin socket only, which this user may not open",
                    field=option,
                    value=value,
                    remedy=f"run it as the home's owner or as root, or leave {option} out",
                )


def _holder(folder: Path, *, once: bool) -> str:
    return f"{'drop-once' if once else 'drop'}:{folder.absolute()}"


def _drop_one(settings: Settings, asked: _Asked, options: dict[str, Any]) -> None:
    from meshca.drop.command import run_command, split_command
    from meshca.drop.generation import GenerationFolder
    from meshca.drop.layouts import LAYOUTS
    from meshca.drop.loop import Drop, Manner
    from meshca.drop.timing import Timer

    argv = () if options["on_change"] is None else split_command(options["on_change"])

    def command(*_: object) -> None:
        if argv:
            run_command(argv, os.environ, _COMMAND_TIMEOUT)

    folder = Path(asked.holder.partition(":")[2])
    with _source(settings, asked) as source, GenerationFolder(folder) as generations:
        report = _Lines(settings.output, generations.path)
        manner = Manner(Timer(time.monotonic, time.sleep), LAYOUTS[options["layout"]])
        _run(Drop(source, generations, command, report, manner), once=bool(options["once"]))


def _run(drop: Drop, *, once: bool) -> None:
    if once:
        drop.once()
    else:
        drop.run()


def _drop_all(settings: Settings, config: Path, *, once: bool) -> None:
    def open_source(target: Target) -> contextlib.AbstractContextManager[Source]:
        holder = _holder(target.folder, once=once)
        return _source(settings, _Asked(target.node, holder, target.dns, target.subject, target.verify is not None))

    with targets_of(config, open_source, settings.output) as targets:
        if not once:
            targets.run()
            return
        failed = targets.once()
    for name, error in failed.items():
        note(f"{name}: {error}")
    if failed:
        raise MeshcaError(f"{len(failed)} of {len(targets.states)} targets failed")


def targets_of(config: Path, open_source: OpenSource, output: str) -> Targets:
    """Return the targets of a file, to be entered and run, with this machine's clock; the agent's too."""
    from meshca.drop.config import read_targets
    from meshca.drop.targets import Targets, World
    from meshca.drop.timing import Timer

    def report(target: Target) -> _Lines:
        return _Lines(output, target.folder, target.label)

    return Targets(read_targets(config), World(open_source, report, Timer(time.monotonic, time.sleep), _now))


@contextlib.contextmanager
def _source(settings: Settings, asked: _Asked) -> Iterator[Source]:
    if not may_open(settings.admin_socket) and may_open(settings.workload_socket):
        from meshca.client.sds import SdsClient
        from meshca.drop.attested import AttestedSource

        asked.require_attestable()
        with contextlib.closing(SdsClient(settings.workload_socket, asked.node)) as secrets:
            yield AttestedSource(secrets, _now)
        return
    require_running(settings)
    from meshca.client.admin import AdminClient
    from meshca.drop.source import AdminSource, Renewal, Wish

    with AdminClient(settings.admin_socket) as client:
        found = client.resolve(asked.node)
        subject = found.spiffe_id if asked.subject else ""
        wish = Wish(asked.node, asked.holder, None, asked.names, preferred(found.key_types), asked.fresh, subject)
        yield AdminSource(client, wish, found.spiffe_id, Renewal(_now, random.SystemRandom().random))


class _Lines:
    """Tells a generation on stdout, and a failure on stderr."""

    def __init__(self, form: str, folder: Path, target: str = "") -> None:
        self._form = form
        self._folder = folder
        self._target = target

    def placed(self, generation: str, material: Material) -> None:
        leaf = material.leaf
        document = {
            **({"target": self._target} if self._target else {}),
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
        """Say it where targets have something to take up; for one folder, silence is success."""
        if self._target:
            document = {"target": self._target, "generation": generation, "state": "in use"}
            show_event(self._form, document, f"{self._target}: {generation} is in use")

    def failed(self, error: MeshcaError, retry_in: float) -> None:
        who = f"{self._target}: " if self._target else ""
        note(f"{who}{error}; next try in {retry_in:g} s")


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
