"""Checking an SVID against roots: path validation (RFC 5280 §6) as far as SPIFFE uses it, and X509-SVID §5.

Why our own: the verifier of `cryptography` refuses every chain with a URI name constraint, and says no reason that
helps anybody. What is not understood is refused: an unknown critical extension, a name constraint on anything but URIs.

Revocation: without any CRL nothing is checked for it. With one, every CA of the path needs its own, as in Envoy; with
``LeafCrls`` the leaf's issuer alone, as in Envoy's ``only_verify_leaf_cert_crl``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID

from meshca.errors import InvalidInputError
from meshca.spiffe.id import IdentityError, SpiffeId
from meshca.x509.unreadable import UNREADABLE

# Leaf and root included. Whoever hands in certificates that all sign each other must not buy much of our time.
MAX_PATH = 5
MAX_INTERMEDIATES = 8

_UNDERSTOOD = {
    ExtensionOID.BASIC_CONSTRAINTS,
    ExtensionOID.KEY_USAGE,
    ExtensionOID.EXTENDED_KEY_USAGE,
    ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
    ExtensionOID.NAME_CONSTRAINTS,
}
_Kind = TypeVar("_Kind", bound=x509.ExtensionType)


class ChainError(InvalidInputError):
    """The certificate is not to be trusted; ``reasons`` says why."""

    def __init__(self, reasons: Sequence[str]) -> None:
        self.reasons = tuple(reasons)
        super().__init__("; ".join(self.reasons), field="certificate")


@dataclass(frozen=True, slots=True)
class _Trust:
    """What a path may be made of, and when."""

    intermediates: tuple[x509.Certificate, ...]
    roots: tuple[x509.Certificate, ...]
    crls: tuple[x509.CertificateRevocationList, ...]
    at: datetime
    leaf_crl_only: bool


@dataclass(frozen=True, slots=True)
class LeafCrls:
    """CRLs in DER with which leaves alone are looked up: some CA above them has none that is usable."""

    ders: tuple[bytes, ...]


def crls_of(ders: Sequence[bytes], *, leaf_crl_only: bool) -> Sequence[bytes] | LeafCrls:
    """Return CRLs as they are to be used for verification."""
    return LeafCrls(tuple(ders)) if leaf_crl_only else ders


def verify_svid(
    leaf: bytes,
    intermediates: Sequence[bytes],
    roots: Sequence[bytes],
    crls: Sequence[bytes] | LeafCrls,
    at: datetime,
) -> SpiffeId:
    """Return the identity that a DER certificate proves at that time; intermediates, roots and CRLs are DER as well.

    Raises:
        ChainError: it proves none; the reasons are those of the path that came furthest.
    """
    if len(intermediates) > MAX_INTERMEDIATES:
        raise ChainError([f"{len(intermediates)} intermediate certificates, more than {MAX_INTERMEDIATES}"])
    leaf_crl_only = isinstance(crls, LeafCrls)
    ders = crls.ders if isinstance(crls, LeafCrls) else crls
    try:
        certificate = x509.load_der_x509_certificate(leaf)
        trust = _Trust(
            tuple(map(x509.load_der_x509_certificate, intermediates)),
            tuple(map(x509.load_der_x509_certificate, roots)),
            tuple(map(x509.load_der_x509_crl, ders)),
            at,
            leaf_crl_only,
        )
        spiffe_id = leaf_identity(certificate)
        _require_trusted(certificate, trust)
    except UNREADABLE as error:
        raise ChainError([f"a certificate or CRL cannot be read: {error}"]) from error
    return spiffe_id


def dns_names(certificate: bytes) -> tuple[str, ...]:
    """Return the DNS names of a DER certificate; they identify nobody here.

    Raises:
        ChainError: It cannot be read.
    """
    try:
        names = _extension(x509.load_der_x509_certificate(certificate), x509.SubjectAlternativeName)
    except UNREADABLE as error:
        raise ChainError([f"a certificate cannot be read: {error}"]) from error
    return tuple(names.get_values_for_type(x509.DNSName)) if names is not None else ()


def leaf_identity(leaf: x509.Certificate) -> SpiffeId:
    """Return the identity of a leaf.

    Raises:
        ChainError: it breaks a rule of X509-SVID §5.2 (§2 one URI, §3.1 a path, §4.1 no CA, §4.3 and §4.4 usages).
    """
    reasons = [*_wrong_usage(leaf), *unknown_critical(leaf)]
    uris = _uris(leaf)
    if len(uris) != 1:
        raise ChainError([*reasons, f"it has {len(uris)} URI names instead of one (X509-SVID §2)"])
    try:
        spiffe_id = SpiffeId.parse(uris[0])
    except IdentityError as error:
        raise ChainError([*reasons, str(error)]) from error
    if spiffe_id.is_trust_domain:
        reasons.append("its SPIFFE ID has no path (X509-SVID §3.1)")
    if reasons:
        raise ChainError(reasons)
    return spiffe_id


def _wrong_usage(leaf: x509.Certificate) -> Iterator[str]:
    constraints = _extension(leaf, x509.BasicConstraints)
    if constraints is not None and constraints.ca:
        yield "it is a CA certificate (X509-SVID §4.1)"
    usage = _extension(leaf, x509.KeyUsage)
    if usage is None or not usage.digital_signature:
        yield "its key usage lacks digitalSignature (X509-SVID §4.3)"
    elif usage.key_cert_sign or usage.crl_sign:
        yield "its key usage is that of a CA (X509-SVID §4.3)"
    extended = _extension(leaf, x509.ExtendedKeyUsage)
    both = {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    if extended is not None and not both <= set(extended):
        yield "its extended key usage lacks server or client authentication (X509-SVID §4.4)"


def _require_trusted(leaf: x509.Certificate, trust: _Trust) -> None:
    """Raise unless some path to a root holds in every respect."""
    best: list[str] = ["no path leads from it to a root of this trust domain: its issuer is unknown"]
    for path in _paths((leaf,), trust):
        reasons = _wrong_path(path, trust)
        if not reasons:
            return
        best = reasons
    raise ChainError(best)


def _paths(path: tuple[x509.Certificate, ...], trust: _Trust) -> Iterator[tuple[x509.Certificate, ...]]:
    """Yield every path of signatures from the leaf to a root, shortest continuation first."""
    for root in trust.roots:
        if _signed_by(path[-1], root):
            yield (*path, root)
    if len(path) + 1 < MAX_PATH:
        for candidate in trust.intermediates:
            if candidate not in path and candidate not in trust.roots and _signed_by(path[-1], candidate):
                yield from _paths((*path, candidate), trust)


def _signed_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, TypeError, *UNREADABLE):
        return False
    return True


def _wrong_path(path: tuple[x509.Certificate, ...], trust: _Trust) -> list[str]:
    """Return what is wrong with a path whose signatures are right; it starts with the leaf."""
    reasons = [text for place, each in enumerate(path) if (text := _wrong_time(place, each, trust.at))]
    for below, authority in enumerate(path[1:]):
        reasons += _wrong_authority(below, authority, path)
    if trust.crls:
        for certificate, issuer in list(pairwise(path))[: 1 if trust.leaf_crl_only else None]:
            reasons += _revoked(certificate, issuer, trust)
    return reasons


def _wrong_time(place: int, certificate: x509.Certificate, at: datetime) -> str:
    name = "it" if place == 0 else f"its CA ({certificate.subject.rfc4514_string()})"
    if at < certificate.not_valid_before_utc:
        return f"{name} is not valid before {certificate.not_valid_before_utc.isoformat()} (RFC 5280 §6.1.3)"
    if at > certificate.not_valid_after_utc:
        return f"{name} has expired at {certificate.not_valid_after_utc.isoformat()} (RFC 5280 §6.1.3)"
    return ""


def _wrong_authority(below: int, authority: x509.Certificate, path: tuple[x509.Certificate, ...]) -> Iterator[str]:
    """Yield what forbids this CA to stand above ``below`` other CAs and the leaf (RFC 5280 §6.1.4)."""
    name = authority.subject.rfc4514_string()
    constraints, usage = _extension(authority, x509.BasicConstraints), _extension(authority, x509.KeyUsage)
    if constraints is None or not constraints.ca:
        yield f"{name} is not a CA (X509-SVID §4.1)"
    elif constraints.path_length is not None and below > constraints.path_length:
        yield f"{name} may have {constraints.path_length} CAs below it, not {below} (RFC 5280 §4.2.1.9)"
    if usage is None or not usage.key_cert_sign:
        yield f"{name} may not sign certificates (X509-SVID §4.3)"
    for text in unknown_critical(authority):
        yield f"{name}: {text}"
    names = _extension(authority, x509.NameConstraints)
    if names is not None:
        yield from (f"{name}: {text}" for text in _outside(names, path[: below + 1]))


def _outside(constraints: x509.NameConstraints, certificates: Sequence[x509.Certificate]) -> Iterator[str]:
    """Yield the URI names that a constraint forbids (RFC 5280 §4.2.1.10); other kinds are not understood."""
    permitted, excluded = constraints.permitted_subtrees or [], constraints.excluded_subtrees or []
    if any(not isinstance(tree, x509.UniformResourceIdentifier) for tree in [*permitted, *excluded]):
        yield "its name constraints are not only about URIs"
        return
    for uri in (uri for certificate in certificates for uri in _uris(certificate)):
        if not uri_permitted(constraints, uri):
            yield f"its name constraints do not permit {uri}"


def uri_permitted(constraints: x509.NameConstraints, uri: str) -> bool:
    """Whether a URI passes the URI subtrees of name constraints (RFC 5280 §4.2.1.10)."""
    permitted, excluded = (
        [tree.value for tree in trees or [] if isinstance(tree, x509.UniformResourceIdentifier)]
        for trees in (constraints.permitted_subtrees, constraints.excluded_subtrees)
    )
    host = uri.partition("://")[2].partition("/")[0]
    if permitted and not any(_matches(host, tree) for tree in permitted):
        return False
    return not any(_matches(host, tree) for tree in excluded)


def _matches(host: str, constraint: str) -> bool:
    return host.endswith(constraint) and host != constraint if constraint.startswith(".") else host == constraint


def _revoked(certificate: x509.Certificate, issuer: x509.Certificate, trust: _Trust) -> Iterator[str]:
    """Yield why a certificate does not pass the CRL of its issuer (RFC 5280 §6.3)."""
    name = issuer.subject.rfc4514_string()
    own = [crl for crl in trust.crls if crl.issuer == issuer.subject and _crl_signed_by(crl, issuer)]
    current = [crl for crl in own if crl.last_update_utc <= trust.at and _not_over(crl, trust.at)]
    if not current:
        yield f"there is {'no current' if own else 'no'} CRL of {name} (RFC 5280 §6.3.3)"
    for crl in current:
        entry = crl.get_revoked_certificate_by_serial_number(certificate.serial_number)
        if entry is not None:
            yield f"revoked by {name} at {entry.revocation_date_utc.isoformat()}{_reason(entry)}"
            return


def _not_over(crl: x509.CertificateRevocationList, at: datetime) -> bool:
    return crl.next_update_utc is None or at <= crl.next_update_utc


def _crl_signed_by(crl: x509.CertificateRevocationList, issuer: x509.Certificate) -> bool:
    usage = _extension(issuer, x509.KeyUsage)
    key = issuer.public_key()
    try:
        return usage is not None and usage.crl_sign and crl.is_signature_valid(key)  # type: ignore[arg-type]
    except TypeError:  # a kind of key that signs nothing
        return False


def _reason(entry: x509.RevokedCertificate) -> str:
    try:
        return f" ({entry.extensions.get_extension_for_class(x509.CRLReason).value.reason.value})"
    except x509.ExtensionNotFound:
        return ""


def unknown_critical(certificate: x509.Certificate) -> list[str]:
    """Return a reason for each critical extension that is not looked at here (RFC 5280 §4.2)."""
    return [
        f"unknown critical extension {each.oid.dotted_string}"
        for each in certificate.extensions
        if each.critical and each.oid not in _UNDERSTOOD
    ]


def _uris(certificate: x509.Certificate) -> list[str]:
    names = _extension(certificate, x509.SubjectAlternativeName)
    return names.get_values_for_type(x509.UniformResourceIdentifier) if names is not None else []


def _extension(certificate: x509.Certificate, kind: type[_Kind]) -> _Kind | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None
