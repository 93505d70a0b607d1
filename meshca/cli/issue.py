"""`meshca issue`: one certificate as files.

The rules this module keeps:
- The private key is made here and sent nowhere; with --csr there is none here at all.
- Nothing is written before the server has answered, and then all files or none.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from meshca.cli.command import Command, Settings, connect, pass_settings
from meshca.cli.options import DURATION, preferred
from meshca.cli.output import rfc3339, show
from meshca.client.admin import AdminClient
from meshca.client.values import Issued, SigningRequest
from meshca.errors import ConflictError, InvalidInputError, MeshcaError, NotFoundError, RefusedError

if TYPE_CHECKING:
    from meshca.agent.identity import Own
    from meshca.drop.source import Wish

_HOLDER = "issue"
_LARGEST_CSR = 64 << 10
_MAKE_ONE = "make one with openssl req -new, or leave --csr out"


@click.command("issue", cls=Command, short_help="Issue one certificate as files.")
@click.argument("node")
@click.option("--csr", type=click.Path(path_type=Path), help="Certify this key instead of making one.")
@click.option("--ttl", type=DURATION, help="Life of the certificate, e.g. 1h; the profile caps it.")
@click.option("--dns", "names", multiple=True, metavar="NAME", help="Also this DNS name of the node's own; may repeat.")
@click.option("--out", type=click.Path(path_type=Path), default=Path(), help="Folder; default: the current one.")
@pass_settings
def issue_command(settings: Settings, /, node: str, csr: Path | None, out: Path, **options: Any) -> None:
    """Issue one certificate for NODE: svid.pem, svid_key.pem and bundle.pem.

    Over TCP a node that is registered with --selector x509:self may call this itself, with its own certificate as
    --identity, for the one that follows it.
    """
    from meshca.cli.files import replace_files
    from meshca.drop.material import BUNDLE_FILE, CERTIFICATE_FILE, KEY_FILE
    from meshca.drop.source import Wish

    if settings.server is not None and (own := _node_of(settings)):
        given = {"--csr": csr, "--ttl": options["ttl"], "--dns": options["names"]}
        if strange := [name for name, value in given.items() if value]:
            raise InvalidInputError("is not for a node that asks for itself", field=strange[0], remedy="leave it out")
        issued, files = _followed(settings.server, own, node)
        paths = replace_files(out.absolute(), files)
        show(settings.output, _document(issued, paths[CERTIFICATE_FILE], paths[KEY_FILE], paths[BUNDLE_FILE]))
        return
    request = None if csr is None else _read_csr(csr)
    if request is not None:
        _require_no_other_key(out / KEY_FILE, request)
    with connect(settings) as client:
        key, issued = _issue(client, request, Wish(node, _HOLDER, options["ttl"], tuple(options["names"])))
        bundle = client.bundle()
    files = {CERTIFICATE_FILE: issued.chain, BUNDLE_FILE: bundle}
    if key is not None:
        # First the key, then its certificate: the two renames are right after each other.
        files = {KEY_FILE: key, **files}
    paths = replace_files(out.absolute(), files)
    show(settings.output, _document(issued, paths[CERTIFICATE_FILE], paths.get(KEY_FILE), paths[BUNDLE_FILE]))


def _node_of(settings: Settings) -> Own | None:
    """Return the identity that this command line calls with, if it is that of a node."""
    from meshca.cli.remote import IdentityFolder, own_of
    from meshca.spiffe.reserved import is_reserved

    if is_reserved(IdentityFolder(settings.identity).presented().spiffe_id):
        return None
    return own_of(settings.identity, "`meshca issue` on the server's host makes another")


def _followed(server: str, own: Own, node: str) -> tuple[Issued, dict[str, bytes]]:
    """Have a node's own certificate followed by one for a new key."""
    import asyncio

    from meshca.agent.identity import renewed
    from meshca.client.tunnel import parse_server
    from meshca.drop.material import BUNDLE_FILE, CERTIFICATE_FILE, KEY_FILE, certificate_ders
    from meshca.x509.presented import read_leaf

    path = own.spiffe_id.path.lstrip("/")
    if node not in {str(own.spiffe_id), path, path.rsplit("/", 1)[-1]}:
        raise RefusedError("this identity is another node's", field="--identity", value=str(own.spiffe_id))
    made = asyncio.run(renewed(parse_server(server), own))
    chain = made.identity.chain_pem
    leaf = read_leaf(certificate_ders(chain)[0])
    issued = Issued(made.serial, str(made.spiffe_id), leaf.not_before, made.not_after, chain)
    return issued, {KEY_FILE: made.identity.key_pem, CERTIFICATE_FILE: chain, BUNDLE_FILE: made.bundle}


def _issue(client: AdminClient, csr: bytes | None, wish: Wish) -> tuple[bytes | None, Issued]:
    from meshca.drop.source import issue_with_new_key

    if csr is None:
        key_type = preferred(client.resolve(wish.node).key_types)
        return issue_with_new_key(client.issue, replace(wish, key_type=key_type))
    (answer,) = client.issue([SigningRequest(wish.node, csr, wish.ttl, wish.holder, wish.dns_names)])
    if isinstance(answer, MeshcaError):
        raise answer
    return None, answer


def _read_csr(path: Path) -> bytes:
    """Return the CSR in DER."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST_CSR + 1)
    except OSError as error:
        raise NotFoundError(f"cannot read it: {error.strerror}", field="--csr", value=str(path)) from error
    if len(content) > _LARGEST_CSR:
        raise InvalidInputError("is larger than 64 KiB", field="--csr", value=str(path), remedy=_MAKE_ONE)
    try:
        load = x509.load_pem_x509_csr if b"-----BEGIN" in content else x509.load_der_x509_csr
        return load(content).public_bytes(Encoding.DER)
    except ValueError as error:
        raise InvalidInputError(
            "is no certificate signing request", field="--csr", value=str(path), remedy=_MAKE_ONE
        ) from error


def _require_no_other_key(path: Path, csr: bytes) -> None:
    """Raise rather than put a certificate beside a key that isn't its own."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        beside = load_pem_private_key(path.read_bytes(), None).public_key()
    except (OSError, ValueError, TypeError):
        # No key, or one that only its owner can read.
        return
    if beside != x509.load_der_x509_csr(csr).public_key():
        raise ConflictError(
            "lies there and is another key than the request's", value=str(path), remedy="use another --out"
        )


def _document(issued: Issued, certificate: str, key: str | None, bundle: str) -> dict[str, object]:
    from meshca.drop.material import certificate_ders
    from meshca.x509.chain import dns_names

    names = list(dns_names(certificate_ders(issued.chain)[0]))
    return {
        "serial": issued.serial,
        "spiffe_id": issued.spiffe_id,
        **({"dns_names": names} if names else {}),
        "not_before": rfc3339(issued.not_before),
        "not_after": rfc3339(issued.not_after),
        "files": {"certificate": certificate, "private_key": key, "bundle": bundle},
    }
