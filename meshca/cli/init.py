"""`meshca init`: make a home."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from meshca.cli.command import Command, Settings, pass_settings
from meshca.cli.output import show, warn

if TYPE_CHECKING:
    from meshca.keys.passphrase import Passphrase
    from meshca.server.init import Initialised


@click.command("init", cls=Command, short_help="Create a home: root, issuing CA, ledger.")
@click.option("--trust-domain", required=True, metavar="TD", help="Lower case, e.g. prod.example.org.")
@click.option("--database", default="", metavar="URL", help="Default: SQLite in the home.")
@click.option("--passphrase-file", type=click.Path(path_type=Path), metavar="F", help="What to seal the keys under.")
@click.option(
    "--lifetimes", default="", metavar="root=…,issuing=…,leaf=…", help="Default: root=10y,issuing=30d,leaf=1h."
)
@click.option(
    "--name-constraint", is_flag=True, help="Constrain the CAs to the trust domain; some verifiers refuse that."
)
@pass_settings
def init_command(settings: Settings, /, **options: Any) -> None:
    """Create a home: root, issuing CA, ledger.

    Without --passphrase-file, MESHCA_PASSPHRASE_FILE, MESHCA_PASSPHRASE or a terminal a passphrase is generated into
    the home, where `serve` finds it.
    """
    made = _initialise(settings, options)
    for warning in made.warnings:
        warn(warning)
    document = {
        "trust_domain": str(made.trust_domain),
        "home": str(made.home.path),
        "root": made.root_id,
        "issuing": made.issuing_id,
        "passphrase_file": None if made.passphrase_file is None else str(made.passphrase_file),
        "warnings": list(made.warnings),
    }
    text = f"{made.home.path}: trust domain {made.trust_domain}, root {made.root_id}, issuing CA {made.issuing_id}"
    show(settings.output, document, text=text)


def _initialise(settings: Settings, options: dict[str, Any]) -> Initialised:
    from meshca.authority.lifetimes import Lifetimes, parse_lifetimes
    from meshca.cli.passphrases import sources
    from meshca.keys.passphrase import choose
    from meshca.server.home import Home
    from meshca.server.init import InitOptions, initialise
    from meshca.spiffe.id import TrustDomain

    def passphrase(folder: Path) -> Passphrase:
        return choose(sources(folder, options["passphrase_file"]))

    return initialise(
        Home.at(settings.home),
        InitOptions(
            trust_domain=TrustDomain(options["trust_domain"]),
            passphrase=passphrase,
            lifetimes=parse_lifetimes(options["lifetimes"]) if options["lifetimes"] else Lifetimes(),
            name_constraint=options["name_constraint"],
            database=options["database"],
        ),
    )
