"""`meshca get` and `meshca delete`: what has been applied."""

from __future__ import annotations

import click

from meshca.cli.command import Command, Settings, connect, pass_settings
from meshca.cli.kinds import KINDS, PARENT_FIELDS, split_name
from meshca.cli.output import show

_COLUMNS = ("kind", "mesh", "name", "parent")


@click.command("get", cls=Command, short_help="Print mesh objects as App Mesh envelopes.")
@click.argument("kind", metavar="[KIND]", type=click.Choice(KINDS), required=False)
@click.argument("name", required=False)
@click.option("--mesh", default="", metavar="M", help="Only this mesh's.")
@pass_settings
def get_command(settings: Settings, kind: str | None, name: str | None, mesh: str) -> None:
    """Print mesh objects as App Mesh envelopes.

    KIND is mesh, virtualNode, virtualService, virtualRouter, route, virtualGateway or gatewayRoute.
    NAME of a route is [ROUTER/]NAME, of a gateway route [GATEWAY/]NAME.
    """
    parent, child = split_name(kind or "", name or "")
    with connect(settings) as client:
        found = client.get(kind or "", child, mesh)
    if parent:
        found = [envelope for envelope in found if envelope.get(PARENT_FIELDS[kind or ""]) == parent]
    if settings.output == "table":
        show(settings.output, [_row(envelope) for envelope in found], columns=_COLUMNS)
    else:
        show(settings.output, found)


@click.command("delete", cls=Command, short_help="Delete one mesh object.")
@click.argument("kind", metavar="KIND", type=click.Choice(KINDS))
@click.argument("name")
@click.option("--mesh", default="", metavar="M", help="Its mesh, where the name is in several.")
@pass_settings
def delete_command(settings: Settings, kind: str, name: str, mesh: str) -> None:
    """Delete one mesh object that nothing refers to.

    KIND is mesh, virtualNode, virtualService, virtualRouter, route, virtualGateway or gatewayRoute.
    NAME of a route is [ROUTER/]NAME, of a gateway route [GATEWAY/]NAME.
    """
    parent, child = split_name(kind, name)
    with connect(settings) as client:
        revision = client.delete(kind, child, mesh=mesh, parent=parent)
    show(settings.output, {"revision": revision})


def _row(envelope: dict[str, object]) -> dict[str, object]:
    kind = str(envelope.get("kind") or _kind_of(envelope))
    return {
        "kind": kind,
        "mesh": envelope.get("meshName"),
        "name": envelope.get(f"{kind}Name"),
        "parent": envelope.get(PARENT_FIELDS.get(kind, "")),
    }


def _kind_of(envelope: dict[str, object]) -> str:
    # A route names its router as well: the most particular name is the object's own.
    order = ("route", "gatewayRoute", "virtualNode", "virtualService", "virtualRouter", "virtualGateway")
    return next((kind for kind in order if f"{kind}Name" in envelope), "mesh")
