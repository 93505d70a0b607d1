"""`meshca issue`: one certificate as files.

The rules this module keeps:
- The private key is made here and sent nowhere; with --csr there is none here at all.
- Nothing is written before the server has answered, and then all files or none.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import click

from meshca.cli.command import Command, Settings, connect, pass_settings
from meshca.cli.options import DURATION
from meshca.cli.output import rfc3339, show
from meshca.client.admin import AdminClient
from meshca.client.values import Issued, SigningRequest
from meshca.errors import ConflictError, InvalidInputError, MeshcaError, NotFoundError

_HOLDER = "issue"
_LARGEST_CSR = 64 << 10


@click.command("issue", cls=Command, short_help="Issue one certificate as files.")
@click.argument("node")
@click.option("--csr", type=click.Path(path_type=Path), help="Certify this key instead of making one.")
@click.option("--ttl", type=DURATION, help="Life of the certificate, e.g. 1h; the profile caps it.")
@click.option("--out", type=click.Path(path_type=Path), default=Path(), help="Folder; default: the current one.")
@pass_settings
def issue_command(settings: Settings, node: str, csr: Path | None, ttl: timedelta | None, out: Path) -> None:
    """Issue one certificate for NODE: svid.pem, svid_key.pem and bundle.pem."""
    from meshca.cli.files import replace_files
    from meshca.drop.material import BUNDLE_FILE, CERTIFICATE_FILE, KEY_FILE

    request = None if csr is None else _read_csr(csr)
    if request is not None:
        _require_no_other_key(out / KEY_FILE, request)
    with connect(settings) as client:
        key, issued = _issue(client, node, request, ttl)
        bundle = client.bundle()
    files = {CERTIFICATE_FILE: issued.chain, BUNDLE_FILE: bundle}
    if key is not None:
        # First the key, then its certificate: the two renames are right after each other.
        files = {KEY_FILE: key, **files}
    paths = replace_files(out.absolute(), files)
    show(settings.output, _document(issued, paths[CERTIFICATE_FILE], paths.get(KEY_FILE), paths[BUNDLE_FILE]))


def _issue(client: AdminClient, node: str, csr: bytes | None, ttl: timedelta | None) -> tuple[bytes | None, Issued]:
    from meshca.drop.source import issue_with_new_key

    if csr is None:
        return issue_with_new_key(client.issue, node, _HOLDER, ttl)
    (answer,) = client.issue([SigningRequest(node, csr, ttl, _HOLDER)])
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
        raise InvalidInputError("is larger than 64 KiB", field="--csr", value=str(path))
    try:
        load = x509.load_pem_x509_csr if b"-----BEGIN" in content else x509.load_der_x509_csr
        return load(content).public_bytes(Encoding.DER)
    except ValueError as error:
        raise InvalidInputError("is no certificate signing request", field="--csr", value=str(path)) from error


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
    return {
        "serial": issued.serial,
        "spiffe_id": issued.spiffe_id,
        "not_before": rfc3339(issued.not_before),
        "not_after": rfc3339(issued.not_after),
        "files": {"certificate": certificate, "private_key": key, "bundle": bundle},
    }
