"""The entry point: which commands there are, and how a failure becomes an exit code.

The rules this module keeps:
- It imports click and nothing heavier. Names and one-line helps stand in a table, so that `meshca --help` loads no
  command; a command's module is imported when that command runs.
- Exit 0 done, 1 error, 2 usage. A command that answers a question (`can`, `verify`) says 1 for 'no', so an error there
  is 3, whatever kind of error it is.
- Errors go to stderr as text, whatever `-o` says.
"""

from __future__ import annotations

import errno
from importlib import import_module
from typing import NamedTuple

import click

from meshca import __version__
from meshca.cli.command import Settings
from meshca.errors import MeshcaError


class Entry(NamedTuple):
    """Where a command is, and what the list of commands says about it."""

    module: str
    help: str


SECTIONS: dict[str, dict[str, Entry]] = {
    "Server": {
        "init": Entry("init", "Create a home: root, issuing CA, ledger."),
        "serve": Entry("serve", "Run the server in the foreground."),
        "status": Entry("status", "Show whether the server is ready, and where it listens."),
        "backup": Entry("backup", "Write all that the server is into one sealed file."),
        "restore": Entry("backup", "Make a home, and fill its database, from a backup."),
        "db": Entry("database", "Check and upgrade the database's schema."),
        "demo": Entry("demo_command", "Show meshca at work with real Envoys."),
    },
    "Mesh and policy": {
        "apply": Entry("specs", "Apply App Mesh specs, all or nothing."),
        "validate": Entry("specs", "Check App Mesh specs without a server."),
        "get": Entry("objects", "Print mesh objects as App Mesh envelopes."),
        "delete": Entry("objects", "Delete one mesh object."),
        "can": Entry("can", "Say whether CLIENT may call SERVER, and why."),
        "endpoint": Entry("endpoint", "Say where nodes are that no DNS finds."),
    },
    "Identities": {
        "register": Entry("registration", "Entitle processes to the identity of NODE."),
        "registrations": Entry("registration", "List the registrations."),
        "unregister": Entry("registration", "Remove one registration."),
        "agent": Entry("agent", "Run a node agent in the foreground."),
        "token": Entry("agents", "Let AGENT join, once."),
        "agents": Entry("agents", "List the node agents."),
        "evict": Entry("agents", "Trust AGENT, and what it holds, no longer."),
        "admin": Entry("admin", "Let people call the server over TCP."),
    },
    "Certificates": {
        "issue": Entry("issue", "Issue one certificate as files."),
        "drop": Entry("drop", "Keep certificate, key, bundle and CRL in a folder."),
        "certs": Entry("certs", "List the certificates in the ledger."),
        "verify": Entry("verify", "Say whether a certificate is good, and for whom."),
        "revoke": Entry("revoke", "Revoke a certificate, or all of a node's and suspend it."),
        "resume": Entry("revoke", "Let a suspended node have certificates again."),
        "freeze": Entry("freeze", "Issue nothing to anybody from now on."),
        "unfreeze": Entry("freeze", "Issue certificates again."),
        "rotate": Entry("rotate", "Replace certificates before their time."),
    },
    "Trust": {
        "ca": Entry("trust", "Look at the certificate authorities, and bring chains."),
        "bundle": Entry("trust", "Print the trust bundle."),
        "federate": Entry("federation", "Believe trust domain TD about its own identities."),
        "keys": Entry("keys", "Change the passphrase of sealed keys."),
    },
    "Envoy": {
        "envoy": Entry("envoy", "Bootstrap, list, render and inspect Envoys."),
    },
    "Audit": {
        "audit": Entry("audit", "Read and verify the audit log."),
    },
}
COMMANDS: dict[str, Entry] = {name: entry for section in SECTIONS.values() for name, entry in section.items()}


class CommandFailure(click.ClickException):
    """A failure with the exit code that the command gives to errors."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]  # click reads it from the instance


class LazyGroup(click.Group):
    """A group that knows its commands from a table and imports one only to run it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the table's order."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command's module and return the command."""
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"meshca.cli.{COMMANDS[cmd_name].module}")
        command = getattr(module, f"{cmd_name}_command")
        if not isinstance(command, click.Command):
            raise TypeError(f"{module.__name__}.{cmd_name}_command is no command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table, section by section, without importing a command."""
        width = max(map(len, COMMANDS))
        for section, entries in SECTIONS.items():
            with formatter.section(section):
                formatter.write_dl([(name.ljust(width), entry.help) for name, entry in entries.items()])

    def invoke(self, ctx: click.Context) -> object:
        """Run the command and turn our errors into words on stderr and the command's exit code."""
        try:
            return super().invoke(ctx)
        except (MeshcaError, OSError) as error:
            if isinstance(error, OSError) and error.errno == errno.EPIPE:
                raise
            raise _failure(ctx, str(error)) from error
        except (click.ClickException, click.Abort, click.exceptions.Exit, SystemExit):
            raise
        except Exception as error:
            import traceback

            traceback.print_exc()
            raise _failure(ctx, f"internal error ({type(error).__name__}), please report it") from error


def _failure(ctx: click.Context, message: str) -> click.ClickException:
    from meshca.cli.output import printable

    # A finding without a place in a file starts with its severity, which click says already.
    return CommandFailure(printable(message.removeprefix("error: ")), ctx.ensure_object(Settings).error_code)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.option("--home", envvar="MESHCA_HOME", default="~/.meshca", show_default=True, metavar="DIR", help="The home.")
@click.option("--server", envvar="MESHCA_SERVER", metavar="ADDR", help="A server over TCP, host:port.")
@click.option("--identity", envvar="MESHCA_ADMIN_DIR", metavar="DIR", help="Who to be there, from `admin add`.")
@click.version_option(__version__, prog_name="meshca")
@click.pass_context
def cli(ctx: click.Context, home: str, server: str | None, identity: str | None) -> None:
    """Certificate authority and Envoy secrets service for meshes described in AWS App Mesh's vocabulary."""
    ctx.obj = Settings(home=home, server=server, identity=identity)


def main() -> None:
    """Run the command line and end the process with its exit code."""
    cli(prog_name="meshca")
