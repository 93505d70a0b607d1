"""`meshca apply` and `meshca validate`: App Mesh specs from files, folders and stdin.

The rules this module keeps:
- Both read, parse and check in the same way; `apply` then sends the objects, which the server checks again.
- Every error that can be found is shown at once, each with file, line and field: as text on stderr, and for programs
  as `findings` in the document.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

from meshca.cli.applying import (
    PATIENCE,
    effects_document,
    effects_text,
    failed,
    follow,
    is_change,
    progress_document,
    progress_text,
    rejected,
)
from meshca.cli.command import Command, Settings, connect, has_server, pass_settings
from meshca.cli.output import note, show
from meshca.client.values import Applied

if TYPE_CHECKING:
    from meshca.client.values import EnvoyProgress
    from meshca.mesh.findings import Finding
    from meshca.mesh.source import Parsed

Function = TypeVar("Function", bound=Callable[..., Any])
_OBJECT_COLUMNS = ("kind", "mesh", "name", "parent")


def _spec_options(function: Function) -> Function:
    for option in (
        click.option("--prune", is_flag=True, help="Remove what the meshes hold beside the objects given."),
        click.option("--dry-run", is_flag=True, help="Say what would change, change nothing."),
        click.option(
            "--map-arn",
            multiple=True,
            metavar="ARN=NAME|auto",
            help="SDS secret in the place of an ACM certificate; `auto` alone: meshca's own for all. Repeatable.",
        ),
        click.option(
            "--parameters",
            multiple=True,
            metavar="FILE",
            help="CloudFormation parameters: the AWS list or a map. Repeatable.",
        ),
        click.option(
            "--var",
            "variables",
            multiple=True,
            metavar="K=V",
            help="Value for $K and ${K} in API and Kubernetes text, and for a CloudFormation parameter. Repeatable.",
        ),
        click.option("--mesh", metavar="M", help="Mesh of specs that don't name theirs."),
        click.option(
            "-f",
            "--file",
            "files",
            multiple=True,
            required=True,
            metavar="[KIND/NAME=]PATH",
            help="File, folder or - for stdin; repeatable. KIND/NAME= names a spec that carries no name.",
        ),
    ):
        function = option(function)
    return function


@click.command("validate", cls=Command, short_help="Check App Mesh specs without a server.")
@_spec_options
@pass_settings
def validate_command(settings: Settings, /, **options: Any) -> None:
    """Check App Mesh specs; nothing is changed.

    They may be API JSON or YAML, Kubernetes manifests and CloudFormation templates, in any mixture.

    Alone, every reference has to lead to an object given here. Where a server runs in the home, it may also lead to one
    that is applied there, as `apply --dry-run` would see it.
    """
    with _refusals_shown(settings):
        parsed = _read(options)
        if has_server(settings):
            with connect(settings) as client:
                found = [*client.apply(_envelopes(parsed), dry_run=True, prune=options["prune"]).warnings]
            said = parsed.findings
        else:
            said = (*parsed.findings, *_check_alone(parsed))
            found = []
    warnings, stricter = _warnings(said, found), _stricter(parsed)
    _warn_people(settings, warnings, stricter)
    objects = [{"kind": o.kind, "mesh": o.mesh, "name": o.name, "parent": o.parent or None} for o in parsed.objects]
    if settings.output == "table":
        show(settings.output, objects, columns=_OBJECT_COLUMNS)
    else:
        show(settings.output, {"objects": objects, "warnings": warnings, "findings": _rows((*said, *stricter))})


@click.command("apply", cls=Command, short_help="Apply App Mesh specs, all or nothing.")
@_spec_options
@click.option(
    "--wait",
    "seconds",
    is_flag=False,
    flag_value=PATIENCE,
    type=click.FloatRange(min=0),
    metavar="[SECONDS]",
    help=f"Wait until every Envoy that this concerns has acknowledged it, at most {PATIENCE:g} s.",
)
@click.option("--rollback-on-nack", is_flag=True, help="Wait, and undo it if an Envoy rejects what it is sent.")
@pass_settings
def apply_command(settings: Settings, /, seconds: float | None, *, rollback_on_nack: bool, **options: Any) -> None:
    """Apply App Mesh specs, all or nothing.

    They may be API JSON or YAML, Kubernetes manifests and CloudFormation templates, in any mixture.

    --dry-run says which objects would change, who might newly call whom and who no longer, and which Envoys would be
    sent what. With --wait the exit code is 1 where an Envoy has rejected the revision, has gone, or has not
    acknowledged it in time. Where one has rejected it, --rollback-on-nack makes a new revision of what was before.
    """
    with _refusals_shown(settings):
        parsed = _read(options)
    dry_run = options["dry_run"]
    if rollback_on_nack and seconds is None:
        seconds = PATIENCE
    envoys: tuple[EnvoyProgress, ...] = ()
    back: int | None = None
    with connect(settings) as client:
        applied = client.apply(_envelopes(parsed), dry_run=dry_run, prune=options["prune"])
        waits = seconds is not None and not dry_run and is_change(applied)
        if seconds is not None and waits:
            envoys = follow(client, applied, seconds, until_nack=rollback_on_nack)
            if rollback_on_nack and rejected(envoys):
                back = client.rollback(applied.revision)
    warnings, stricter = _warnings(parsed.findings, applied.warnings), _stricter(parsed)
    _warn_people(settings, warnings, stricter)
    document = {**_document(applied, warnings), "findings": _rows((*parsed.findings, *stricter))}
    lines = _lines(applied, dry_run=dry_run)
    if waits:
        document |= {"envoys": progress_document(envoys), "rolled_back_to": back}
        lines += progress_text(envoys)
    if back is not None:
        lines.append(f"rolled back: revision {back} is what there was before {applied.revision}")
    show(settings.output, document, text="\n".join(lines))
    if failed(envoys):
        raise click.exceptions.Exit(1)


def _read(options: dict[str, Any]) -> Parsed:
    from meshca.cli.reading import SpecArguments, read_specs

    names = ("files", "mesh", "variables", "parameters", "map_arn")
    return read_specs(SpecArguments(**{name: options[name] for name in names}))


@contextmanager
def _refusals_shown(settings: Settings) -> Iterator[None]:
    """Write the findings of a refusal for programs; people read them in the error itself."""
    from meshca.mesh.findings import SpecError

    try:
        yield
    except SpecError as error:
        if settings.output != "table":
            show(settings.output, {"objects": [], "warnings": [], "findings": _rows(error.findings)})
        raise


def _rows(findings: Iterable[Finding]) -> list[dict[str, object]]:
    names = ("severity", "rule", "object", "field", "value", "remedy", "file")
    return [
        {**{name: getattr(found, name) for name in names}, "line": found.line or None, "column": found.column or None}
        for found in findings
    ]


def _envelopes(parsed: Parsed) -> list[dict[str, Any]]:
    from meshca.mesh.render import envelope

    return [{"kind": found.kind, **envelope(found)} for found in parsed.objects]


def _check_alone(parsed: Parsed) -> tuple[Finding, ...]:
    """Check the objects as a set of their own, and return what is to be said about it."""
    from meshca.mesh.findings import SpecError
    from meshca.mesh.forest import MeshSet
    from meshca.mesh.notes import notes

    try:
        whole = MeshSet().with_applied(parsed.objects)
    except SpecError as error:
        raise SpecError((*parsed.findings, *parsed.placed(error.findings))) from error
    each = [finding for found in parsed.objects for finding in notes(found)]
    return parsed.placed((*whole.findings, *each))


def _warnings(said: Iterable[Finding], found: Iterable[str]) -> list[str]:
    """Return all warnings and notes, each once."""
    return list(dict.fromkeys((*map(str, said), *found)))


def _stricter(parsed: Parsed) -> tuple[Finding, ...]:
    """Return the import report: where what was given is served more strictly than App Mesh served it."""
    from meshca.mesh.deltas import security_deltas

    return parsed.placed(tuple(found for item in parsed.objects for found in security_deltas(item)))


def _warn_people(settings: Settings, warnings: list[str], stricter: Iterable[Finding]) -> None:
    # Programs find them in the document.
    if settings.output != "table":
        return
    from meshca.mesh.deltas import summary

    for text in (*warnings, *summary(stricter)):
        note(text)


def _document(applied: Applied, warnings: list[str]) -> dict[str, object]:
    return {
        "revision": applied.revision,
        "changes": [
            {"change": c.change, "kind": c.kind, "mesh": c.mesh, "name": c.name, "parent": c.parent or None}
            for c in applied.changes
        ],
        "permissions": [
            {"client": p.client, "server": p.server, "port": p.port, "allowed": p.allowed} for p in applied.permissions
        ],
        "warnings": warnings,
        "effects": effects_document(applied.effects),
    }


def _lines(applied: Applied, *, dry_run: bool) -> list[str]:
    lines = [f"{c.change:<9} {_label(c.kind, c.mesh, c.parent, c.name)}" for c in applied.changes]
    lines += [
        f"{'may now' if p.allowed else 'no longer may'} call: {p.client} -> {p.server} port {p.port}"
        for p in applied.permissions
    ]
    lines += effects_text(applied.effects)
    lines.append("dry run: nothing was changed" if dry_run else f"revision {applied.revision}")
    return lines


def _label(kind: str, mesh: str, parent: str, name: str) -> str:
    return "/".join(part for part in (kind, parent, name) if part) + (f" in {mesh}" if kind != "mesh" else "")
