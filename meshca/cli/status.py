"""`meshca status`: how the server is doing, and waiting until it is ready."""

from __future__ import annotations

import time

import click

from meshca.cli.command import Command, Settings, connect, pass_settings
from meshca.cli.output import note, show
from meshca.client.values import Status
from meshca.errors import UnavailableError

_READY = "ready"
_POLL = 0.1


@click.command("status", cls=Command, short_help="Show whether the server is ready, and where it listens.")
@click.option("--wait", "seconds", type=click.FloatRange(min=0), help="Wait that many seconds for it to be ready.")
@pass_settings
def status_command(settings: Settings, seconds: float | None) -> None:
    """Show whether the server is ready, and where it listens.

    With --wait the exit code is 0 once the server is ready and 1 if it isn't in time.
    """
    found = _now(settings) if seconds is None else _wait(settings, seconds)
    if found is not None:
        show(settings.output, _document(found))
    if seconds is not None and (found is None or found.state != _READY):
        note(f"not ready after {seconds:g} s")
        raise click.exceptions.Exit(1)


def _now(settings: Settings) -> Status:
    with connect(settings) as client:
        return client.status()


def _wait(settings: Settings, seconds: float) -> Status | None:
    deadline = time.monotonic() + seconds
    while True:
        found = _try(settings)
        left = deadline - time.monotonic()
        if left <= 0 or (found is not None and found.state == _READY):
            return found
        time.sleep(min(_POLL, left))


def _try(settings: Settings) -> Status | None:
    try:
        return _now(settings)
    except UnavailableError:
        return None


def _document(status: Status) -> dict[str, object]:
    return {
        "state": status.state,
        "trust_domain": status.trust_domain,
        "grpc": status.grpc,
        "http": status.http,
        "socket": status.socket,
        "revision": status.revision,
        "trust_generation": status.trust_generation,
        **({"federation": status.federation} if status.federation else {}),
        "warnings": list(status.warnings),
    }
