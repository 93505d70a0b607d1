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
@click.option("--root-key", default="file", metavar="SPEC", help="file, store, openbao:transit/NAME or pkcs11:URI.")
@click.option(
    "--issuing-key", default="store", metavar="SPEC", help="Likewise, independent of it; store: shared by all replicas."
)
@click.option("--key-type", default="", metavar="TYPE", help="ec-p256 or ec-p384. Default: ec-p256 for a new key.")
@click.option(
    "--upstream",
    default="",
    metavar="SPEC",
    help="files:DIR, openbao:pki[/MOUNT] or offline. Default: our own root.",
)
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

    --upstream says where the root is: files:DIR brings it (root.pem and root_key.pem, whose own passphrase may stand in
    MESHCA_ROOT_KEY_PASSPHRASE_FILE or MESHCA_ROOT_KEY_PASSPHRASE); OpenBao's pki signs each issuing CA; offline waits
    for `meshca ca csr` and `meshca ca import`.

    Without --passphrase-file, MESHCA_PASSPHRASE_FILE, MESHCA_PASSPHRASE or a terminal a passphrase is generated into
    the home, where `serve` finds it. OpenBao is found by BAO_ADDR, its token by BAO_TOKEN, BAO_TOKEN_FILE, BAO_ROLE_ID
    with BAO_SECRET_ID or BAO_SECRET_ID_FILE, or BAO_KUBERNETES_ROLE (all of them also as VAULT_…); an HSM's PIN by
    pin-source=FILE in its URI, or MESHCA_PKCS11_PIN.
    """
    made = _initialise(settings, options)
    for warning in made.warnings:
        warn(warning)
    document = {
        "trust_domain": str(made.trust_domain),
        "home": str(made.home.path),
        "root": made.root_id or None,
        "issuing": made.issuing_id or None,
        "passphrase_file": None if made.passphrase_file is None else str(made.passphrase_file),
        "warnings": list(made.warnings),
    }
    cas = f"root {made.root_id}, issuing CA {made.issuing_id}" if made.root_id else "no CA yet"
    text = f"{made.home.path}: trust domain {made.trust_domain}, {cas}"
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
            root_key=options["root_key"],
            issuing_key=options["issuing_key"],
            key_type=options["key_type"],
            upstream=options["upstream"],
        ),
    )
