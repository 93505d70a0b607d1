"""`meshca verify`: whether a certificate is good, and for whom.

The rules this module keeps:
- The certificate is checked here, against the server's trust as of now; the server is asked what only it knows: bundle,
  CRLs, suspension, policy.
- Every reason that is found is shown, not the first.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from meshca.cli.command import Question, Settings, connect, pass_settings
from meshca.cli.output import show
from meshca.client.admin import AdminClient
from meshca.client.values import Trust
from meshca.errors import InvalidInputError, NotFoundError, UnavailableError

if TYPE_CHECKING:
    from cryptography import x509

_LARGEST = 1 << 20


@click.command("verify", cls=Question, short_help="Say whether a certificate is good, and for whom.")
@click.argument("certificate", metavar="CERT", type=click.Path(path_type=Path))
@click.option("--as", "role", type=click.Choice(("client", "server")), help="The part that CERT plays towards NODE.")
@click.option("--of", "node", metavar="NODE", help="Whether this node would admit CERT.")
@pass_settings
def verify_command(settings: Settings, certificate: Path, role: str | None, node: str | None) -> None:
    """Say whether CERT (PEM: leaf, then issuing CA) is good now, and with --as and --of whether NODE would admit it.

    Exit code 0: yes. 1: no. 3: error.
    """
    if (role is None) != (node is None):
        raise click.UsageError("--as and --of go together")
    chain = _read_chain(certificate)
    with connect(settings) as client:
        trust = next(client.watch_trust(""), None)
        if trust is None:
            raise UnavailableError("the server has ended the stream before it sent its trust")
        spiffe_id, reasons = _check(chain, trust)
        if spiffe_id and not reasons and role and node:
            reasons = _ask_policy(client, spiffe_id, role, node)
    document: dict[str, Any] = {"valid": not reasons, "spiffe_id": spiffe_id, "reasons": reasons}
    if names := _dns_names(chain):
        document["dns_names"] = names
    show(settings.output, document, text=_text(document))
    raise click.exceptions.Exit(1 if reasons else 0)


def _check(chain: list[bytes], trust: Trust) -> tuple[str | None, list[str]]:
    """Return the SPIFFE ID, if there is one, and what is wrong with the certificate."""
    from cryptography import x509

    from meshca.drop.material import certificate_ders, crl_ders
    from meshca.x509.chain import ChainError, crls_of, verify_svid

    crls = crls_of(crl_ders(trust.crl), leaf_crl_only=trust.leaf_crl_only)
    leaf, *intermediates = chain
    try:
        found = verify_svid(leaf, intermediates, certificate_ders(trust.bundle), crls, datetime.now(UTC))
    except ChainError as error:
        return _claimed_id(x509.load_der_x509_certificate(leaf)), list(error.reasons)
    return str(found), []


def _dns_names(chain: list[bytes]) -> list[str]:
    """Return the DNS names of the leaf, for show: they identify nobody."""
    from meshca.x509.chain import ChainError, dns_names

    try:
        return list(dns_names(chain[0]))
    except ChainError:
        return []  # `_check` says what is wrong with it


def _claimed_id(leaf: x509.Certificate) -> str | None:
    """Return the SPIFFE ID that a certificate claims, if it claims exactly one."""
    from cryptography import x509

    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return None
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    return uris[0] if len(uris) == 1 and uris[0].startswith("spiffe://") else None


def _ask_policy(client: AdminClient, spiffe_id: str, role: str, node: str) -> list[str]:
    """Return why NODE would not admit the identity."""
    of = client.resolve(node).spiffe_id
    pair = (spiffe_id, of) if role == "client" else (of, spiffe_id)
    for suspended in (spiffe_id, of):
        if next(client.watch_trust("", suspended)).suspended:
            return [f"{suspended} is suspended"]
    try:
        decision = client.can(*pair)
    except NotFoundError as error:
        return [str(error)]
    if decision.allowed:
        return []
    return [f"{r.object} {r.field}: {r.text}" for r in decision.reasons] or [f"{node} does not admit it"]


def _read_chain(path: Path) -> list[bytes]:
    """Return the certificates of a PEM or DER file in DER, leaf first."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST + 1)
    except OSError as error:
        raise NotFoundError(f"cannot read it: {error.strerror}", field="CERT", value=str(path)) from error
    if len(content) > _LARGEST:
        raise InvalidInputError("is larger than 1 MiB", field="CERT", value=str(path))
    try:
        found = (
            x509.load_pem_x509_certificates(content)
            if b"-----BEGIN" in content
            else [x509.load_der_x509_certificate(content)]
        )
    except ValueError as error:
        raise InvalidInputError("holds no certificate", field="CERT", value=str(path)) from error
    return [certificate.public_bytes(Encoding.DER) for certificate in found]


def _text(document: Mapping[str, Any]) -> str:
    lines = [f"{'good' if document['valid'] else 'not good'}: {document['spiffe_id'] or 'no SPIFFE ID'}"]
    lines += [f"  DNS name {name}" for name in document.get("dns_names", ())]
    return "\n".join([*lines, *(f"  {reason}" for reason in document["reasons"])])
