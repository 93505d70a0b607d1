"""`meshca agent`: a node agent in the foreground.

The rules this module keeps:
- A join token comes from a file or from MESHCA_TOKEN, never from the command line.
- Its socket lies in `--home`, where a server's would: Envoys and workloads are configured in the same way.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from meshca.cli.command import Command, Settings, pass_settings
from meshca.cli.output import show_event
from meshca.errors import InvalidInputError

if TYPE_CHECKING:
    from meshca.agent.identity import Method, Own
    from meshca.agent.run import Agent
    from meshca.attest.join import JoinToken


@click.command("agent", cls=Command, short_help="Run a node agent in the foreground.")
@click.option("--server", "address", metavar="ADDR", help="Where the server listens, host:port; or MESHCA_SERVER.")
@click.option("--token-file", type=click.Path(path_type=Path), metavar="F", help="A join token; or MESHCA_TOKEN.")
@click.option("--identity", type=click.Path(path_type=Path), metavar="DIR", help="An X.509 identity of this agent.")
@pass_settings
def agent_command(settings: Settings, address: str | None, token_file: Path | None, identity: Path | None) -> None:
    """Run a node agent until SIGTERM or Ctrl-C: it makes keys on this host, and serves Envoys and workloads.

    It proves who it is by a join token, which `meshca token AGENT` on the server prints, or by an X.509 identity.
    """
    from meshca.agent.place import Place
    from meshca.agent.run import Options, run_agent
    from meshca.cli.serve import log_to_stderr
    from meshca.client.tunnel import parse_server

    server = address or settings.server
    if server is None:
        raise InvalidInputError("which server?", field="--server", remedy="give host:port, or MESHCA_SERVER")
    method = _method(token_file, identity)
    log_to_stderr()
    place = Place(settings.home)

    def ready(agent: Agent) -> None:
        document = {"state": "ready", "agent": str(agent.identity.own.spiffe_id), "socket": str(place.socket)}
        if settings.output != "table":
            show_event(settings.output, document, "")

    run_agent(Options(parse_server(server), place, method), ready)


def _method(token_file: Path | None, identity: Path | None) -> Method:
    from meshca.agent.identity import ByCertificate, ByJoinToken

    if identity is not None:
        if token_file is not None:
            raise InvalidInputError("both are given", field="--token-file, --identity", remedy="give one of them")
        return ByCertificate(lambda: _from_files(identity))
    return ByJoinToken(_tokens(token_file))


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
