"""Certificate signing requests: we take the public key out of one, read what names it asks for, and nothing else.

Rules kept here:
- A request proves possession of its key, and its key is one that we certify (P-256 or P-384).
- What a request asks for is never granted because it asks: it may name no identity, or exactly the one it is for. The
  DNS names that it asks for are handed on, for policy to decide (policy/hostnames.py).
- A subject is granted if it says the identity itself (``UID=spiffe://…``, for programs that read no URI SAN), refused
  if it says another one, and otherwise not looked at: people's tools write all sorts of names there.
- A request that asks for more (another identity, an address, CA rights) is refused, since whoever wrote it expects
  what it won't get.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from meshca.errors import InvalidInputError
from meshca.spiffe.id import SpiffeId
from meshca.x509.publickey import curve_of
from meshca.x509.unreadable import UNREADABLE

MAX_CSR_BYTES = 64 * 1024

_STRONG_HASHES = (hashes.SHA256, hashes.SHA384, hashes.SHA512)
_MAKE_ONE = "make one: openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj / -keyout K -out F"


class CsrError(InvalidInputError):
    """The request breaks a rule; nothing was issued."""

    def __init__(self, message: str, *, value: str = "", remedy: str = "") -> None:
        super().__init__(message, field="CSR", value=value, remedy=remedy)


@dataclass(frozen=True, slots=True)
class CsrKey:
    """The public key of a request whose signature proved possession of the private one.

    ``dns_names`` are those it asks for; whoever takes the key has to grant or refuse them. ``names_subject``: its
    subject is the identity it was checked for.
    """

    spki: bytes = field(repr=False)
    dns_names: tuple[str, ...] = ()
    names_subject: bool = False


def check_csr(request: bytes, expected: SpiffeId | None) -> CsrKey:
    """Check a request in DER or PEM; it may name ``expected`` as its only identity, or none.

    Raises:
        CsrError: it is malformed, too large, has a weak key or a bad signature, or asks for what it may not have.
    """
    if len(request) > MAX_CSR_BYTES:
        raise CsrError(f"{len(request)} bytes, more than {MAX_CSR_BYTES}")
    try:
        csr = _load(request)
        spki = _strong_key(csr)
        _require_signature(csr)
        _require_modest(csr.extensions)
        names = _dns_names(csr.extensions, expected)
        names_subject = _names_subject(csr.subject, expected)
    except UNREADABLE as error:
        raise CsrError("not a certificate signing request that can be read", remedy=_MAKE_ONE) from error
    return CsrKey(spki, names, names_subject)


def _load(request: bytes) -> x509.CertificateSigningRequest:
    if b"PRIVATE KEY-----" in request:
        raise CsrError("it holds a private key", remedy="send the request alone, and make a new key: this one was sent")
    if request.lstrip().startswith(b"-----BEGIN"):
        return x509.load_pem_x509_csr(request)
    return x509.load_der_x509_csr(request)


def _strong_key(csr: x509.CertificateSigningRequest) -> bytes:
    """Return the key if it is a P-256 or P-384 one (RFC 5480 §2.1.1, SP 800-57 part 1 §5.6.1)."""
    key = csr.public_key()
    if isinstance(key, ec.EllipticCurvePublicKey):
        spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        if curve_of(spki) is not None:
            return spki
    raise CsrError("its key is neither EC P-256 nor P-384", value=_describe(key), remedy=_MAKE_ONE)


def _describe(key: object) -> str:
    if isinstance(key, ec.EllipticCurvePublicKey):
        return f"EC {key.curve.name}"
    kind = type(key).__name__.removesuffix("PublicKey")
    return f"{kind} {size}" if (size := getattr(key, "key_size", None)) else kind


def _require_signature(csr: x509.CertificateSigningRequest) -> None:
    """Raise unless the request is signed by its own key (RFC 2986 §4.2), with a hash that resists collisions."""
    if not isinstance(csr.signature_hash_algorithm, _STRONG_HASHES):
        raise CsrError("it is signed with a weak or unknown hash", remedy="sign it with SHA-256 or SHA-384")
    if not csr.is_signature_valid:
        raise CsrError("its signature is not that of its own key", remedy="send the request as it was made")


def _require_modest(extensions: x509.Extensions) -> None:
    """Raise if the request asks for the rights of a CA."""
    for extension in extensions:
        wanted = extension.value
        if isinstance(wanted, x509.BasicConstraints) and wanted.ca:
            raise CsrError("it asks for CA:TRUE", remedy="leave basicConstraints out")
        if isinstance(wanted, x509.KeyUsage) and (wanted.key_cert_sign or wanted.crl_sign):
            raise CsrError("it asks for the key usage of a CA", remedy="leave keyUsage out")


def _names_subject(subject: x509.Name, expected: SpiffeId | None) -> bool:
    """Return whether the subject is ``expected``; raise if it is another SPIFFE ID, or one among other names."""
    names = [(attribute.oid, str(attribute.value)) for attribute in subject]
    if not any(value.startswith("spiffe:") for _, value in names):
        return False
    if expected is None or names != [(x509.NameOID.USER_ID, str(expected))]:
        raise CsrError(
            "its subject says another identity, or more than one",
            value=subject.rfc4514_string(),
            remedy="leave it empty" if expected is None else f"leave it empty, or write UID={expected} alone",
        )
    return True


def _dns_names(extensions: x509.Extensions, expected: SpiffeId | None) -> tuple[str, ...]:
    """Return the DNS names that the request asks for; raise if it asks for others than these and ``expected``."""
    for extension in extensions:
        if isinstance(extension.value, x509.SubjectAlternativeName):
            return _required_names(extension.value, expected)
    return ()


def _required_names(names: x509.SubjectAlternativeName, expected: SpiffeId | None) -> tuple[str, ...]:
    dns_names = tuple(names.get_values_for_type(x509.DNSName))
    others = [name for name in names if not isinstance(name, x509.DNSName)]
    identity = [] if expected is None else [x509.UniformResourceIdentifier(str(expected))]
    if (others and others != identity) or not list(names):
        asked = ", ".join(f"{type(name).__name__}:{name.value}" for name in names)
        allowed = "no subjectAltName" if expected is None else f"no subjectAltName, or exactly URI:{expected}"
        raise CsrError(
            "it asks for another name than its identity",
            value=asked,
            remedy=f"give it {allowed}; DNS names of the node may stand beside",
        )
    return dns_names
