"""`meshca envoy`: what an Envoy is started with, what is connected, what a node's Envoy would get.

The rules this module keeps:
- Documents are decoded from the bytes that the server would send; nothing is generated here.
- What is printed is a whole file: what else is to be said stands in comments or on stderr.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from meshca.cli.command import Noun, Settings, connect, pass_settings
from meshca.cli.output import absent, note, print_line, rfc3339, show, warn
from meshca.client.values import Rendered, Stream

if TYPE_CHECKING:
    from meshca.envoy.documents import Bootstrap
    from meshca.envoy.placement import Placement

Function = TypeVar("Function", bound=Callable[..., Any])
_FILE = "bootstrap.yaml"
_SHARED_HOST = "Several Envoys on one host: add --use-dynamic-base-id, and give each addresses of its own (see --help)."


@click.group("envoy", cls=Noun, short_help="Bootstrap, list, render and inspect Envoys.")
def envoy_command() -> None:
    """Bootstrap, list, render and inspect Envoys."""


def _placement_options(function: Function) -> Function:
    for option in (
        click.option(
            "--intercepted",
            is_flag=True,
            help="The kernel sends all traffic here, as App Mesh's images had it: ingress to 15000, egress to 15001.",
        ),
        click.option("--app", metavar="HOST", help="Where the application listens; default 127.0.0.1."),
        click.option("--egress", metavar="HOST", help="Where it accepts the application's calls; default 127.0.0.1."),
        click.option(
            "--ingress", metavar="HOST[:PORT]", help="Where it accepts mTLS; default 0.0.0.0, the node's port."
        ),
        click.option(
            "--admin-port", type=click.IntRange(0, 65535), default=0, show_default=True, help="Envoy's own; 0: any."
        ),
    ):
        function = option(function)
    return function


def _socket_option(function: Function) -> Function:
    words = "The socket that Envoy connects to: an agent's, where that is on its host. Default: this home's."
    return click.option("--socket", callback=_absolute, metavar="PATH", help=words)(function)


def _absolute(_: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    if value is not None and not Path(value).is_absolute():
        raise click.BadParameter("write it from the root on: Envoy runs in another folder.", param=parameter)
    return value


@envoy_command.command("bootstrap", short_help="Print what to start a node's Envoy with.")
@click.argument("node")
@_placement_options
@_socket_option
@pass_settings
def bootstrap_command(settings: Settings, /, node: str, admin_port: int, socket: str | None, **place: Any) -> None:
    """Print the bootstrap of NODE's Envoy, and the command line that goes with it."""
    placement = _placement(place)
    with connect(settings) as client:
        node_id = client.resolve(node).node_id
    from meshca.envoy.documents import bootstrap

    _print_file(settings, bootstrap(_start(settings, node_id, placement, admin_port, socket)))


@envoy_command.command("list", short_help="List each stream and type of the connected Envoys.")
@pass_settings
def list_command(settings: Settings) -> None:
    """List each stream and type of the connected Envoys: versions sent and acknowledged, the last NACK."""
    with connect(settings) as client:
        streams = client.streams()
    show(settings.output, [_document(stream) for stream in streams])


@envoy_command.command("render", short_help="Print all that a node's Envoy would get.")
@click.argument("node")
@_placement_options
@_socket_option
@click.option("--static", is_flag=True, help="As one file that runs without ADS; secrets come from the socket.")
@pass_settings
def render_command(
    settings: Settings, /, node: str, admin_port: int, socket: str | None, *, static: bool, **place: Any
) -> None:
    """Print all that NODE's Envoy would get, private keys left out."""
    placement = _placement(place)
    with connect(settings) as client:
        rendered = client.render(node, placement=json.dumps(next(iter(placement.metadata().values()))))
    if static:
        _print_file(settings, _static(rendered, _start(settings, rendered.node_id, placement, admin_port, socket)))
    else:
        _print_document(settings, _rendered(rendered))


@envoy_command.command("inspect", short_help="Connect as a node's Envoy would, and print what comes.")
@click.argument("node")
@_placement_options
@click.option(
    "--transport", type=click.Choice(["delta", "sotw"]), default="delta", show_default=True, help="Which form of ADS."
)
@click.option("--leaf", is_flag=True, help="Ask for the certificate as well: one is issued for it.")
@pass_settings
def inspect_command(
    settings: Settings, /, node: str, admin_port: int, transport: str, *, leaf: bool, **place: Any
) -> None:
    """Connect to the server's socket as NODE's Envoy would, and print what comes, private keys left out.

    Whoever runs this must be entitled to NODE's identity, as its Envoy is; else the server's own account of what it
    would send is printed, and a line on stderr says so. The certificate is asked for only with --leaf, since its holder
    would be waited for when a CA is replaced.
    """
    del admin_port
    from meshca.cli.inspecting import Asked, inspected

    placement = _placement(place)
    asked = Asked(node, placement, delta=transport == "delta", leaf=leaf)
    _print_document(settings, inspected(settings, asked))


def _placement(place: dict[str, Any]) -> Placement:
    from meshca.envoy.placement import Placement

    placement = Placement.parse(**{**place, "intercepted": "yes" if place["intercepted"] else "no"})
    for warning in placement.warnings():
        warn(warning)
    return placement


def _start(settings: Settings, node_id: str, placement: Placement, admin_port: int, socket: str | None) -> Bootstrap:
    from meshca.envoy.documents import Bootstrap

    return Bootstrap(node_id, socket or str(settings.workload_socket), placement, admin_port)


def _rendered(rendered: Rendered) -> dict[str, Any]:
    from meshca.cli.inspecting import document

    return document(rendered.resources)


def _static(rendered: Rendered, start: Bootstrap) -> dict[str, Any]:
    from meshca.envoy.documents import static
    from meshca.envoy.resources import SECRET, Generated

    return static([Generated(r.type_url, r.name, r.body) for r in rendered.resources if r.type_url != SECRET], start)


def _print_file(settings: Settings, document: dict[str, Any]) -> None:
    """Print a file for Envoy, and how to start it: as a comment where the form knows comments."""
    import shlex

    from meshca.envoy.documents import command_line

    name = str(Path(_FILE).with_suffix(".json")) if settings.output == "json" else _FILE
    for hint in (f"Start it with: {shlex.join(command_line(name))}", _SHARED_HOST):
        if settings.output == "json":
            note(hint)
        else:
            print_line(f"# {hint}")
    _print_document(settings, document)


def _print_document(settings: Settings, document: dict[str, Any]) -> None:
    from meshca.envoy.documents import as_yaml

    show(settings.output, document, text=as_yaml(document))


def _document(stream: Stream) -> dict[str, object]:
    return {
        "node_id": stream.node_id,
        "spiffe_id": stream.spiffe_id,
        "type_url": stream.type_url,
        "version_sent": absent(stream.version_sent),
        "version_acked": absent(stream.version_acked),
        "nack": absent(stream.nack),
        "connected_since": rfc3339(stream.connected_since),
    }
