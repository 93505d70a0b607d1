"""`meshca serve`: the server in the foreground.

The rules this module keeps:
- What is on the command line stands above what is in `meshca.toml`.
- Log lines go to stderr: JSON, or coloured lines on a terminal. Fields that are named like a secret are dropped; a
  traceback names places in the code and shows no variable, for these hold keys and tokens.
- A log line that cannot be written (full disk) is lost; whoever wrote it goes on.
- The passphrase is taken out of the environment once it has been read.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import MutableMapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, cast

import click

from meshca.cli.command import Command, Settings, pass_settings
from meshca.cli.options import kubernetes_node_option, pods_of
from meshca.cli.output import show_event

if TYPE_CHECKING:
    from meshca.server.config import Config
    from meshca.server.home import Home
    from meshca.server.parts import Parts

_SECRET_FIELD = re.compile(r"pass(word|phrase)|token|secret|private|credential", re.IGNORECASE)


@click.command("serve", cls=Command, short_help="Run the server in the foreground.")
@click.option("--grpc", metavar="ADDR", help="Where agents and remote admins connect (mTLS); port 0: any.")
@click.option("--http", metavar="ADDR", help="Where /healthz, /metrics, /crl and /bundle listen; port 0: any.")
@click.option(
    "--federation", metavar="ADDR", help="Where the bundle endpoint listens (https_spiffe); default: nowhere."
)
@click.option("--cert", type=click.Path(path_type=Path), metavar="F", help="Its certificate of web PKI (https_web).")
@click.option("--key", type=click.Path(path_type=Path), metavar="F", help="The key of --cert.")
@click.option("--passphrase-file", type=click.Path(path_type=Path), metavar="F", help="File with the keys' passphrase.")
@kubernetes_node_option
@pass_settings
def serve_command(
    settings: Settings, /, passphrase_file: Path | None, kubernetes_node: str | None, **listen: Any
) -> None:
    """Run the server in the foreground until SIGTERM or Ctrl-C."""
    from meshca.cli.passphrases import sources
    from meshca.keys import passphrase
    from meshca.keys.files import KeyFolder
    from meshca.server.home import Home
    from meshca.server.run import serve

    home = Home.at(settings.home)
    home.require_initialised()
    config, pods = _config(home, **listen), pods_of(kubernetes_node)
    sealed = config.seals_keys or not KeyFolder(home.keys).is_empty  # else all keys are in OpenBao or an HSM
    where = sources(home.path, passphrase_file)
    secret = passphrase.find(where).again(where) if sealed else lambda: b""
    os.environ.pop(passphrase.VARIABLE, None)
    log_to_stderr()

    def ready(parts: Parts) -> None:
        condition = parts.condition
        addresses = {"grpc": condition.grpc, "http": condition.http, "socket": str(home.mesh_socket)}
        if condition.federation:
            addresses["federation"] = condition.federation
        document = {"state": "ready", **addresses}
        if settings.output != "table":
            show_event(settings.output, document, "")

    serve(home, config, secret, ready, pods)


def log_to_stderr() -> None:
    """Set up structlog for a process whose stdout is for documents."""
    import structlog

    for_people: list[Any] = [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
    for_programs: list[Any] = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            drop_secrets,
            *(for_people if sys.stderr.isatty() else for_programs),
        ],
        logger_factory=structlog.PrintLoggerFactory(cast("TextIO", _Unfailing(sys.stderr))),
        cache_logger_on_first_use=True,
    )


class _Unfailing:
    """A stream for log lines: one that a full disk or a closed pipe does not take is lost, and nothing else is."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        with suppress(OSError):
            self._stream.write(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()


def drop_secrets(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Drop every field whose name says that it holds a secret."""
    for name in [name for name in event if _SECRET_FIELD.search(name)]:
        del event[name]
    return event


def _config(
    home: Home,
    grpc: str | None,
    http: str | None,
    federation: str | None,
    **files: Path | None,
) -> Config:
    from meshca.server.config import parse_address, read_config

    config = read_config(home.config)
    if grpc is not None:
        config = replace(config, grpc=parse_address(grpc, what="--grpc"))
    if http is not None:
        config = replace(config, http=parse_address(http, what="--http"))
    if federation is not None:
        config = replace(config, federation=parse_address(federation, what="--federation"))
    certificate, key = files["cert"], files["key"]
    if (certificate is None) != (key is None):
        raise click.UsageError("--cert and --key stand together")
    if certificate is not None and key is not None:
        config = replace(config, federation_files=(certificate.absolute(), key.absolute()))
    return config
