"""What every command has in common: the settings, `-o`, the way to a server.

The rules this module keeps:
- Every command takes `-o table|json|yaml`, because the class adds it and not the author.
- A local server is found through `<home>/run/admin.sock` and in no other way, one over TCP by `--server` with the
  identity of an admin; when that does not work the error says what to do.
- Nothing heavy is imported before a command runs.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from meshca.errors import InvalidInputError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from meshca.client.admin import AdminClient

# What works on a home or a local socket, and means nothing elsewhere.
_LOCAL = frozenset({"init", "serve", "restore", "db", "demo", "keys", "drop"})
OUTPUT_FORMS = ("table", "json", "yaml")


class Settings:
    """What stands before the command on the line, and what the command says about itself."""

    def __init__(self, home: str = "~/.meshca", server: str | None = None, identity: str | None = None) -> None:
        self.server = server
        self._identity = identity
        self.output = "table"
        self.error_code = 1
        self._home = home

    @property
    def home(self) -> Path:
        """The home as an absolute path."""
        from pathlib import Path

        return Path(self._home).expanduser().absolute()

    @property
    def identity(self) -> Path:
        """The folder of the identity to call a server over TCP with.

        Raises:
            InvalidInputError: Nobody said which.
        """
        from pathlib import Path

        if self._identity is None:
            raise InvalidInputError(
                "a server over TCP needs to know who is calling",
                field="--identity",
                remedy="give the folder that `meshca admin add NAME --out DIR` has made, or MESHCA_ADMIN_DIR",
            )
        return Path(self._identity).expanduser()

    @property
    def admin_socket(self) -> Path:
        """The socket of a local server's admin API."""
        return self.home / "run" / "admin.sock"

    @property
    def workload_socket(self) -> Path:
        """The socket for Envoys and other attested callers."""
        return self.home / "run" / "meshca.sock"


class Command(click.Command):
    """A command: takes `-o`, and says which exit code an error has."""

    error_code = 1

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.append(
            click.Option(
                ["-o", "--output"],
                type=click.Choice(OUTPUT_FORMS),
                default="table",
                show_default=True,
                expose_value=False,
                callback=_remember_output,
                help="Form of the output.",
            )
        )

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command, unless it is for a home and was meant for a server over TCP."""
        settings = ctx.ensure_object(Settings)
        settings.error_code = self.error_code
        if settings.server is not None and not _LOCAL.isdisjoint(ctx.command_path.split()):
            raise InvalidInputError(
                "this command works on the server's host only",
                field="--server",
                value=settings.server,
                remedy="run it there, with --home",
            )
        return super().invoke(ctx)


class Question(Command):
    """A command that answers yes (0) or no (1), so that an error has to be 3."""

    error_code = 3


class Noun(click.Group):
    """A group of commands under one noun (`ca`, `envoy`, `audit`, …)."""

    command_class = Command


pass_settings = click.make_pass_decorator(Settings, ensure=True)


@contextmanager
def connect(settings: Settings) -> Iterator[AdminClient]:
    """Open the admin API of the local server, or of the one over TCP, for the length of a `with`.

    Raises:
        MeshcaError: no server runs there, this user may not open its socket, or has no identity for one over TCP.
    """
    if settings.server is not None:
        from meshca.cli.remote import remote_client

        with remote_client(settings.server, settings.identity) as client:
            yield client
        return
    require_running(settings)
    from meshca.client.admin import AdminClient

    with AdminClient(settings.admin_socket) as client:
        yield client


def require_running(settings: Settings) -> None:
    """Raise unless a server's admin socket is there and answers this user.

    Raises:
        UnavailableError: no server runs there, or this user may not open its socket.
    """
    import socket

    start = f"`meshca --home {settings.home} serve`"
    if not settings.home.is_dir():
        raise UnavailableError(
            "there is no such home",
            field="--home",
            value=str(settings.home),
            remedy=f"create one with `meshca --home {settings.home} init`",
        )
    try:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.connect(str(settings.admin_socket))
    except PermissionError as error:
        raise UnavailableError(
            f"this user may not open {settings.admin_socket}", remedy="run the command as the home's owner or as root"
        ) from error
    except OSError as error:
        raise UnavailableError(f"no server is running in {settings.home}", remedy=f"start it with {start}") from error


def has_server(settings: Settings) -> bool:
    """Say whether there is a server to ask: one over TCP that was named, or one that answers this user."""
    return settings.server is not None or may_open(settings.admin_socket)


def may_open(path: Path) -> bool:
    """Say whether a server answers this user on a socket."""
    import socket

    try:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.connect(str(path))
    except OSError:
        return False
    return True


def _remember_output(ctx: click.Context, _: click.Parameter, value: str) -> None:
    ctx.ensure_object(Settings).output = value
