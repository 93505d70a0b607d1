"""`meshca ca` and `meshca bundle`: what is trusted."""

from __future__ import annotations

import json
from pathlib import Path

import click

from meshca.cli.command import Command, Noun, Settings, connect, pass_settings
from meshca.cli.files import replace_files
from meshca.cli.output import rfc3339, show, warn
from meshca.client.values import Authority
from meshca.errors import InvalidInputError, NotFoundError

_LARGEST = 2 << 20
_COLUMNS = ("role", "id", "state", "not_after", "generation", "activate_at", "waiting_for", "deadline", "key")


@click.group("ca", cls=Noun, short_help="Look at the certificate authorities, and bring chains.")
def ca_command() -> None:
    """Look at the certificate authorities, and bring chains that an upstream has signed."""


@ca_command.command("show", short_help="Show roots and issuing CAs.")
@pass_settings
def show_command(settings: Settings) -> None:
    """Show roots and issuing CAs, whom each waits for, and until when.

    One that is prepared waits for those who have not acknowledged it; an old one for those who may still serve a leaf
    of it.
    """
    with connect(settings) as client:
        found = client.authorities()
    kinds = {
        "root": found.roots,
        "intermediate": found.intermediates,
        "issuing": found.issuing,
        "jwt": found.jwt,
    }
    if settings.output == "table":
        rows = [{"role": role, **_document(one)} for role, some in kinds.items() for one in some]
        show(settings.output, rows, columns=_COLUMNS)
    else:
        names = {
            "roots": found.roots,
            "issuing": found.issuing,
            "intermediates": found.intermediates,
            "jwt": found.jwt,
        }
        show(settings.output, {name: list(map(_document, some)) for name, some in names.items()})


@ca_command.command("taint", short_help="Say that a CA's key is believed stolen.")
@click.argument("ca_id", metavar="ID")
@pass_settings
def taint_command(settings: Settings, ca_id: str) -> None:
    """Say that the key of the CA with this ID is believed stolen: it is replaced, with all below it, at once.

    ID may be that of a key that signs JWT-SVIDs: it signs nothing more, and is out of the bundle once its successor
    signs, at the latest after a minute.

    Leaves are issued anew in batches. It is taken out of trust as soon as every holder has another leaf, at the latest
    after half of a leaf's life: whoever has not come back by then is refused until it does.
    """
    with connect(settings) as client:
        ids = client.taint_authority(ca_id)
    show(settings.output, {"tainted": list(ids)})


@ca_command.command("csr", short_help="Print the request for the next issuing CA's certificate.")
@click.option("--out", type=click.Path(path_type=Path), metavar="F", help="A file for it. Default: standard output.")
@pass_settings
def csr_command(settings: Settings, out: Path | None) -> None:
    """Print the pending request for an issuing CA's certificate, for a root that no machine reaches.

    Where none is pending a key is made for it and kept; asked again, the same request is printed until `ca import` has
    brought its chain.
    """
    with connect(settings) as client:
        request = client.ca_request()
    if out is not None:
        replace_files(out.absolute().parent, {out.name: request.csr})
    document = {
        "id": request.id,
        "csr": request.csr.decode(),
        "created_at": rfc3339(request.created_at),
        "new": request.is_new,
        "file": None if out is None else str(out),
    }
    show(settings.output, document, text=request.csr.decode() if out is None else f"{out}: request for CA {request.id}")


@ca_command.command("import", short_help="Bring a chain that was signed elsewhere, or CRLs.")
@click.argument("chain", metavar="[CHAIN.pem]", required=False, type=click.Path(path_type=Path))
@click.option("--crl", "crls", multiple=True, type=click.Path(path_type=Path), metavar="F", help="PEM or DER; repeats.")
@pass_settings
def import_command(settings: Settings, chain: Path | None, crls: tuple[Path, ...]) -> None:
    """Bring CHAIN.pem, which answers the request of `ca csr`: the issuing CA first, the root last.

    It is checked whole before anything changes; then it is waited for like every new issuing CA: it signs once every
    holder of a leaf has acknowledged it. --crl brings the CRLs of the CAs above it, also later and alone.
    """
    if chain is None and not crls:
        raise click.UsageError("give CHAIN.pem, or --crl F, or both")
    content, lists = _read(chain, "CHAIN.pem") if chain else b"", [_read(file, "--crl") for file in crls]
    with connect(settings) as client:
        imported = client.import_chain(content, lists)
    for warning in imported.warnings:
        warn(warning)
    document = {
        "id": imported.id or None,
        "parent": imported.parent or None,
        "warnings": list(imported.warnings),
    }
    what = f"issuing CA {imported.id} below CA {imported.parent}" if imported.id else "CRLs"
    show(settings.output, document, text=f"imported: {what}; see `meshca ca show`")


def _read(file: Path, what: str) -> bytes:
    try:
        with file.open("rb") as opened:
            content = opened.read(_LARGEST + 1)
    except OSError as error:
        raise NotFoundError(f"cannot read it: {error.strerror}", field=what, value=str(file)) from error
    if len(content) > _LARGEST:
        raise InvalidInputError("is larger than 2 MiB", field=what, value=str(file))
    return content


@click.command("bundle", cls=Command, short_help="Print the trust bundle.")
@click.option("--format", "form", type=click.Choice(("pem", "spiffe", "jwks")), default="pem", show_default=True)
@pass_settings
def bundle_command(settings: Settings, form: str) -> None:
    """Print the trust bundle: the roots, and in the forms of JSON the keys that sign JWT-SVIDs."""
    with connect(settings) as client:
        bundle = client.bundle(form).decode()
    show(settings.output, {"bundle": bundle} if form == "pem" else json.loads(bundle), text=bundle)


def _document(authority: Authority) -> dict[str, object]:
    return {
        "id": authority.id,
        "state": authority.state,
        "not_after": rfc3339(authority.not_after),
        "generation": authority.generation,
        "waiting_for": list(authority.waiting_for),
        "activate_at": rfc3339(authority.activate_at),
        "deadline": rfc3339(authority.deadline),
        "tainted": authority.tainted,
        "parent": authority.parent,
        "key": authority.key,
    }
