"""`meshca agent`: a node agent in the foreground.

The rules this module keeps:
- A join token comes from a file or from MESHCA_TOKEN, never from the command line.
- What `--drop` says is checked, and its folders are held, before anything is asked of a server.
- Its socket lies in `--home`, where a server's would: Envoys and workloads are configured in the same way.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from meshca.cli.command import Command, Settings, pass_settings
from meshca.cli.options import kubernetes_node_option, pods_of
from meshca.cli.output import show_event
from meshca.errors import InvalidInputError

if TYPE_CHECKING:
    from meshca.agent.identity import Method, Own
    from meshca.agent.run import Agent
    from meshca.attest.join import JoinToken

_PROJECTED = Path("/var/run/secrets/meshca/token")


@click.command("agent", cls=Command, short_help="Run a node agent in the foreground.")
@click.option("--server", "address", metavar="ADDR", help="Where the server listens, host:port; or MESHCA_SERVER.")
@click.option("--token-file", type=click.Path(path_type=Path), metavar="F", help="A join token; or MESHCA_TOKEN.")
@click.option("--method", type=click.Choice(("k8s_sa", "aws_iam")), help="Prove it by the platform instead.")
@click.option("--bundle", type=click.Path(path_type=Path), metavar="F", help="The server's roots, for --method.")
@click.option(
    "--kubernetes-token",
    type=click.Path(path_type=Path),
    metavar="F",
    default=_PROJECTED,
    show_default=True,
    help="The projected service-account token.",
)
@click.option("--region", envvar="AWS_REGION", metavar="R", help="Whose STS vouches for this role; or AWS_REGION.")
@click.option("--identity", type=click.Path(path_type=Path), metavar="DIR", help="An X.509 identity of this agent.")
@click.option("--drop", type=click.Path(path_type=Path), metavar="FILE", help="Also keep files, as this says.")
@kubernetes_node_option
@pass_settings
def agent_command(
    settings: Settings, /, address: str | None, kubernetes_node: str | None, drop: Path | None, **options: Any
) -> None:
    """Run a node agent until SIGTERM or Ctrl-C: it makes keys on this host, and serves Envoys and workloads.

    It proves who it is by a join token, which `meshca token AGENT` on the server prints, by an X.509 identity, or with
    --method by its Kubernetes service account or its AWS role. With --drop it also keeps files for programs that speak
    no SDS, as `meshca drop --config` does, for nodes that it is the parent of.
    """
    from meshca.agent.place import Place
    from meshca.agent.run import Options, run_agent
    from meshca.cli.agent_files import FileKeeper
    from meshca.cli.serve import log_to_stderr
    from meshca.client.tunnel import parse_server

    server = address or settings.server
    if server is None:
        raise InvalidInputError("which server?", field="--server", remedy="give host:port, or MESHCA_SERVER")
    method, pods = _method(**options), pods_of(kubernetes_node)
    log_to_stderr()
    place = Place(settings.home)
    keeper = None if drop is None else FileKeeper(drop, settings.output)

    def ready(agent: Agent) -> None:
        if keeper is not None:
            keeper.start(agent.files)
        document = {"state": "ready", "agent": str(agent.identity.own.spiffe_id), "socket": str(place.socket)}
        if settings.output != "table":
            show_event(settings.output, document, "")

    with contextlib.nullcontext() if keeper is None else keeper:
        run_agent(Options(parse_server(server), place, method, pods), ready)


def _method(
    *, token_file: Path | None, identity: Path | None, method: str | None, bundle: Path | None, **platform: Any
) -> Method:
    from meshca.agent.identity import ByCertificate, ByJoinToken

    given = {"--token-file": token_file, "--identity": identity, "--method": method}
    if len(several := [name for name, value in given.items() if value is not None]) > 1:
        raise InvalidInputError("only one of them can be given", field=", ".join(several))
    if method is not None:
        return _by_proof(method, bundle, **platform)
    if identity is not None:
        return ByCertificate(lambda: _from_files(identity))
    return ByJoinToken(_tokens(token_file))


def _by_proof(method: str, bundle: Path | None, kubernetes_token: Path, region: str | None) -> Method:
    from meshca.agent.identity import ByProof

    if bundle is None:
        raise InvalidInputError(
            "whom to trust?", field="--bundle", remedy="give a file that `meshca bundle` has printed on the server"
        )
    if method == "k8s_sa":
        return ByProof(method, bundle.read_bytes, lambda _, __: kubernetes_token.read_bytes().strip())
    if not region:
        raise InvalidInputError("which region?", field="--region", remedy="give it, or AWS_REGION")
    from meshca.agent.aws import credentials, signed_request

    def prove(trust_domain: str, key: str) -> bytes:
        return signed_request(credentials(), region, trust_domain, key, datetime.now(UTC))

    return ByProof(method, bundle.read_bytes, prove)


def _tokens(file: Path | None) -> Callable[[], JoinToken]:
    """Return what reads the token: a file anew each time, the environment once."""
    from meshca.attest.join import read_token

    first = read_token(file, os.environ)  # what is wrong with it is said at once
    return (lambda: first) if file is None else (lambda: read_token(file, {}))


def _from_files(folder: Path) -> Own:
    from meshca.agent.identity import Own
    from meshca.cli.remote import IdentityFolder

    found = IdentityFolder(folder)
    leaf = found.presented()
    return Own(leaf.spiffe_id, leaf.serial, leaf.not_after, found.identity(), found.bundle())
