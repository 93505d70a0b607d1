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
@click.option("--trust-domain", metavar="TD", help="Lower case, e.g. prod.example.org.")
@click.option("--join", is_flag=True, help="Make a further replica's home, on the --database of the others.")
@click.option("--replica", default="", metavar="NAME", help="With --join: this replica's name. Default: made up.")
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

    --join makes the home of one more server on the database of others, with the passphrase that they have; the root's
    key stays in the home where it was made, unless it was made with --root-key store or lies in a key store.

    Without --passphrase-file, MESHCA_PASSPHRASE_FILE, MESHCA_PASSPHRASE or a terminal a passphrase is generated into
    the home, where `serve` finds it. OpenBao is found by BAO_ADDR, its token by BAO_TOKEN, BAO_TOKEN_FILE, BAO_ROLE_ID
    with BAO_SECRET_ID or BAO_SECRET_ID_FILE, or BAO_KUBERNETES_ROLE (all of them also as VAULT_…); an HSM's PIN by
    pin-source=FILE in its URI, or MESHCA_PKCS11_PIN.
    """
    if options["join"]:
        _join(settings, options)
        return
    if not options["trust_domain"]:
        raise click.UsageError("Missing option '--trust-domain'.")
    if options["replica"]:
        raise click.UsageError("--replica names a further replica, and comes with --join.")
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


def _join(settings: Settings, options: dict[str, Any]) -> None:
    from meshca.cli.passphrases import sources
    from meshca.keys.passphrase import find
    from meshca.server.config import Config
    from meshca.server.home import Home
    from meshca.server.join import JoinOptions, join
    from meshca.spiffe.id import TrustDomain

    if options["lifetimes"] or options["name_constraint"]:
        raise click.UsageError("--lifetimes and --name-constraint are the trust domain's; leave them out with --join.")

    def passphrase(folder: Path) -> Passphrase:
        return find(sources(folder, options["passphrase_file"]))

    config = Config(
        store_url=options["database"],
        root_key=options["root_key"],
        issuing_key=options["issuing_key"],
        key_type=options["key_type"],
        upstream=options["upstream"],
    )
    wanted = TrustDomain(options["trust_domain"]) if options["trust_domain"] else None
    joined = join(Home.at(settings.home), JoinOptions(config, passphrase, wanted, options["replica"]))
    for warning in joined.warnings:
        warn(warning)
    document = {
        "trust_domain": str(joined.trust_domain),
        "home": str(joined.home.path),
        "replica": joined.replica,
        "warnings": list(joined.warnings),
    }
    text = f"{joined.home.path}: replica {joined.replica} of trust domain {joined.trust_domain}"
    show(settings.output, document, text=text)
