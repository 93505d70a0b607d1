"""What every command has in common: the settings, `-o`, the way to a server.

The rules this module keeps:
- Every command takes `-o table|json|yaml`, because the class adds it and not the author.
- A local server is found through `<home>/run/admin.sock` and in no other way; when that does not work the error says
  what to do.
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

OUTPUT_FORMS = ("table", "json", "yaml")


class Settings:
    """What stands before the command on the line, and what the command says about itself."""

    def __init__(self, home: str = "~/.meshca", server: str | None = None) -> None:
        self.server = server
        self.output = "table"
        self.error_code = 1
        self._home = home

    @property
    def home(self) -> Path:
        """The home as an absolute path."""
        from pathlib import Path

        return Path(self._home).expanduser().absolute()

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
        """Run the command, unless it was meant for a remote server."""
        settings = ctx.ensure_object(Settings)
        settings.error_code = self.error_code
        if settings.server is not None:
            raise InvalidInputError(
                "a server over TCP comes with the agent, in a later release",
                field="--server",
                value=settings.server,
                remedy="run the command on the server's host, with --home",
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
    """Open the local server's admin API for the length of a `with`.

    Raises:
        UnavailableError: no server runs there, or this user may not open its socket.
    """
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
