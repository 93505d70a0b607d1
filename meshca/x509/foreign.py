"""Chains that others have signed: an issuing CA of ours below an upstream's CAs, or a root that somebody brought.

Rules kept here:
- Nothing of a chain is used before every rule below has been asked of all of it; all findings are told, each with the
  position of the certificate (1 is the issuing CA, the last is the root).
- What Envoy would refuse, or take and then refuse every handshake with, is refused here.
- The text of a chain is hostile until then: bounded in size and number, nothing but certificates, no private key.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

from meshca.errors import InvalidInputError
from meshca.spiffe.id import TrustDomain
from meshca.x509.chain import MAX_PATH, unknown_critical, uri_permitted
from meshca.x509.issuer import CaCertificate, Issuer, IssuerError, strong_key
from meshca.x509.lint import Lint, lint
from meshca.x509.publickey import ca_id
from meshca.x509.unreadable import UNREADABLE

MAX_CHAIN = MAX_PATH - 1  # a leaf comes below it
LARGEST_TEXT = 128 * 1024
STRONG_HASHES = (hashes.SHA256, hashes.SHA384, hashes.SHA512)

_BEGIN, _END = b"-----BEGIN ", b"-----END "
_Extension = TypeVar("_Extension", bound=x509.ExtensionType)


class ForeignChainError(InvalidInputError):
    """The chain is not to be used; ``reasons`` says why. Nothing was changed."""

    def __init__(self, reasons: Sequence[str], *, field: str = "chain", remedy: str = "") -> None:
        self.reasons = tuple(reasons)
        super().__init__("; ".join(self.reasons), field=field, remedy=remedy)


@dataclass(frozen=True, slots=True)
class Expected:
    """What a chain must be: for this key, good for at least so long, and without a CA of ours above the first."""

    spki: bytes = field(repr=False)
    trust_domain: TrustDomain
    now: datetime
    least: timedelta
    ours: frozenset[bytes] = field(default=frozenset(), repr=False)  # SPKIs


@dataclass(frozen=True, slots=True)
class ForeignChain:
    """A chain without findings; it is good until its first certificate ends."""

    issuing: Issuer
    above: tuple[CaCertificate, ...]
    not_after: datetime


@dataclass(frozen=True, slots=True)
class _Case:
    """A chain under judgement; ``below`` is how many CAs stand below its first."""

    chain: tuple[x509.Certificate, ...]
    expected: Expected
    below: int = 0

    def each(self, what: Callable[[x509.Certificate], str | None]) -> str | None:
        """Return what is wrong with certificates, each by its position."""
        found = [self.named(place, text) for place, each in enumerate(self.chain) if (text := what(each))]
        return "; ".join(found) or None

    def named(self, place: int, text: str) -> str:
        """Return a finding with the place where it was found."""
        subject = self.chain[place].subject.rfc4514_string()
        return f"the root {text}" if self.below else f"certificate {place + 1} ({subject[:80]}) {text}"


def read_chain(text: bytes) -> tuple[bytes, ...]:
    """Return the certificates of a PEM text in DER; text between the blocks is allowed, as openssl writes it.

    Raises:
        ForeignChainError: It is too large, holds something else than certificates, or one that cannot be read.
    """
    return tuple(
        _der(place, block) for place, block in enumerate(pem_blocks(text, b"CERTIFICATE", most=MAX_CHAIN), start=1)
    )


def pem_blocks(text: bytes, label: bytes, most: int, largest: int = LARGEST_TEXT) -> list[bytes]:
    """Return the PEM blocks of a text, which are all of one kind.

    Raises:
        ForeignChainError: It is too large, has too many, or holds another kind; a private key above all.
    """
    kind = label.decode()
    if len(text) > largest:
        raise ForeignChainError([f"{len(text)} bytes, more than {largest}"])
    if b"PRIVATE KEY-----" in text:
        raise ForeignChainError(
            ["it holds a private key"], remedy="give the certificates alone, and keep that key where only its CA has it"
        )
    begin, end = _BEGIN + label + b"-----", _END + label + b"-----"
    starts = text.split(begin)
    blocks = [begin + part[: at + len(end)] + b"\n" for part in starts[1:] if (at := part.find(end)) >= 0]
    if not blocks or len(blocks) != len(starts) - 1 or text.count(_BEGIN) != len(blocks):
        raise ForeignChainError([f"not PEM with {kind} blocks and nothing else"], remedy=f"write {kind} blocks")
    if len(blocks) > most:
        raise ForeignChainError([f"{len(blocks)} {kind} blocks, more than {most}"])
    return blocks


def check_chain(ders: Sequence[bytes], expected: Expected) -> ForeignChain:
    """Judge a chain: the issuing CA of our key first, then upward, the root last.

    Raises:
        ForeignChainError: With every rule that it breaks.
    """
    case = _Case(_loaded(ders), expected)
    _require(CHAIN_LINTS, case)
    try:
        issuing = Issuer.from_der(ca_id(expected.spki), ders[0])
        above = tuple(CaCertificate.foreign(der) for der in ders[1:])
    except IssuerError as error:
        raise ForeignChainError([str(error)]) from error
    return ForeignChain(issuing, above, min(each.not_valid_after_utc for each in case.chain))


def check_root(der: bytes, expected: Expected) -> Issuer:
    """Judge a root whose key somebody brings; issuing CAs of ours will stand below it.

    Raises:
        ForeignChainError: With every rule that it breaks.
    """
    _require(ROOT_LINTS, _Case(_loaded([der]), expected, below=1))
    try:
        return Issuer.from_der(ca_id(expected.spki), der)
    except IssuerError as error:
        raise ForeignChainError([str(error)], field="root") from error


def _require(lints: Sequence[Lint[_Case]], case: _Case) -> None:
    """Ask every rule; one that cannot even be asked (an extension that is no DER) has found something."""
    try:
        found = [f"{each.number} ({each.citation}): {text}" for each in lints if (text := each.check(case))]
    except UNREADABLE as error:
        raise ForeignChainError([f"a certificate cannot be read: {error}"]) from error
    if found:
        raise ForeignChainError(found)


def _loaded(ders: Sequence[bytes]) -> tuple[x509.Certificate, ...]:
    if not ders:
        raise ForeignChainError(["there is no certificate"])
    if len(ders) > MAX_CHAIN:
        raise ForeignChainError([f"{len(ders)} certificates, more than {MAX_CHAIN}"])
    try:
        loaded = tuple(map(x509.load_der_x509_certificate, ders))
        for each in loaded:
            _ = each.extensions, each.public_key()
    except UNREADABLE as error:
        raise ForeignChainError([f"a certificate cannot be read: {error}"]) from error
    return loaded


def _der(place: int, block: bytes) -> bytes:
    try:
        return x509.load_pem_x509_certificate(block).public_bytes(Encoding.DER)
    except UNREADABLE as error:
        raise ForeignChainError([f"certificate {place} cannot be read: {error}"]) from error


@lint("F01", "RFC 5280 §6.1")
def chain_is_long_enough(case: _Case) -> str | None:
    """A root stands above the issuing CA, and is given with it."""
    if len(case.chain) > 1:
        return None
    return "the root is missing: give the issuing CA's certificate, those above it, and the root last"


@lint("F02", "RFC 5280 §4.1.2.7")
def first_is_for_our_key(case: _Case) -> str | None:
    """The first certificate is that of the key that was to be certified."""
    places = [place for place, each in enumerate(case.chain) if _spki(each) == case.expected.spki]
    if places[:1] == [0]:
        return None
    if places:
        return f"wrong order: the certificate of our key stands at position {places[0] + 1}, it has to be the first"
    return case.named(0, "certifies another key than the one of the request")


@lint("F03", "RFC 5280 §6.1.3")
def each_is_signed_by_the_next(case: _Case) -> str | None:
    """Leaf-most first, root last: each certificate is signed by the one after it, the last by itself."""
    for place, certificate in enumerate(case.chain):
        above = min(place + 1, len(case.chain) - 1)
        if not _signed_by(certificate, case.chain[above]):
            return _misplaced(case, place, above)
    return None


@lint("F04", "RFC 5280 §4.2.1.9, X509-SVID §4.1")
def each_is_a_ca(case: _Case) -> str | None:
    """Every certificate says CA:TRUE."""
    return case.each(lambda each: None if _is_ca(each) else "is not a CA: basicConstraints lacks CA:TRUE")


@lint("F05", "RFC 5280 §4.2.1.3, X509-SVID §4.3")
def each_may_sign(case: _Case) -> str | None:
    """Every certificate may sign certificates and CRLs."""
    return case.each(lambda each: None if _may_sign(each) else "lacks the key usages keyCertSign and cRLSign")


@lint("F06", "RFC 5280 §4.2.1.9")
def path_lengths_leave_room(case: _Case) -> str | None:
    """Every CA may have as many CAs below it as there are."""
    found = []
    for place, each in enumerate(case.chain):
        limit, below = _path_length(each), place + case.below
        if limit is not None and limit < below:
            found.append(case.named(place, f"may have {limit} CAs below it, not {below}"))
    return "; ".join(found) or None


@lint("F07", "RFC 5280 §4.2.1.10, design §5")
def constraints_admit_the_trust_domain(case: _Case) -> str | None:
    """A name constraint is about URIs alone, admits the trust domain, and can be checked by BoringSSL."""
    return case.each(partial(_constrained, case.expected.trust_domain))


@lint("F08", "X509-SVID §3.2")
def names_are_of_the_trust_domain(case: _Case) -> str | None:
    """A CA that names a trust domain names ours."""
    return case.each(partial(_other_domain, case.expected.trust_domain))


@lint("F09", "RFC 5280 §6.1.3")
def all_are_valid_now(case: _Case) -> str | None:
    """Every certificate is valid at this moment."""
    return case.each(partial(_wrong_time, case.expected.now))


@lint("F10", "design §7")
def life_is_long_enough(case: _Case) -> str | None:
    """All of the chain is good for as long as at least three leaves live after each other."""
    place, first = min(enumerate(case.chain), key=lambda pair: pair[1].not_valid_after_utc)
    left = first.not_valid_after_utc - case.expected.now
    if left >= case.expected.least:
        return None
    return case.named(place, f"lives for {max(left, timedelta(0))} more, and {case.expected.least} are needed at least")


@lint("F11", "SP 800-57 part 1 §5.6.1")
def keys_are_strong(case: _Case) -> str | None:
    """Keys are EC P-256 or P-384, or RSA of 2048 to 8192 bits."""
    return case.each(lambda each: None if strong_key(each.public_key()) else "has a weak or unknown kind of key")


@lint("F12", "RFC 8017 §9, SP 800-131A §3")
def hashes_are_strong(case: _Case) -> str | None:
    """Signatures are made with SHA-256, SHA-384 or SHA-512."""
    return case.each(_weak_hash)


@lint("F13", "design §7")
def none_is_ours_or_twice(case: _Case) -> str | None:
    """Above the first certificate there is no CA of ours, and no key stands in two places."""
    keys = [_spki(each) for each in case.chain]
    for place, key in enumerate(keys):
        if place and key in case.expected.ours:
            return case.named(place, "is a CA of this meshca's own")
        if key in keys[:place]:
            return case.named(place, f"has the key of certificate {keys.index(key) + 1}")
    return None


@lint("F14", "RFC 5280 §4.2")
def extensions_are_understood(case: _Case) -> str | None:
    """No critical extension is unknown."""
    return case.each(lambda each: ", ".join(unknown_critical(each)) and f"has {', '.join(unknown_critical(each))}")


@lint("F15", "RFC 5280 §4.2.1.12")
def extended_usages_admit_both_sides(case: _Case) -> str | None:
    """A CA that narrows what is below it leaves both sides of TLS."""
    return case.each(_too_narrow)


@lint("F16", "RFC 5280 §4.1.2.6, §4.2.1.2")
def first_can_be_found(case: _Case) -> str | None:
    """The issuing CA has a name of its own and a key identifier, by which verifiers find it."""
    first, names = case.chain[0], [each.subject for each in case.chain]
    if _extension(first, x509.SubjectKeyIdentifier) is None:
        return case.named(0, "has no subjectKeyIdentifier")
    if not list(first.subject) or first.subject in names[1:]:
        return case.named(0, "has no subject of its own")
    return None


_OF_ALL: tuple[Lint[_Case], ...] = (
    each_is_signed_by_the_next,
    each_is_a_ca,
    each_may_sign,
    path_lengths_leave_room,
    constraints_admit_the_trust_domain,
    names_are_of_the_trust_domain,
    all_are_valid_now,
    life_is_long_enough,
    keys_are_strong,
    hashes_are_strong,
    none_is_ours_or_twice,
    extensions_are_understood,
    extended_usages_admit_both_sides,
    first_can_be_found,
)
CHAIN_LINTS: tuple[Lint[_Case], ...] = (chain_is_long_enough, first_is_for_our_key, *_OF_ALL)
ROOT_LINTS: tuple[Lint[_Case], ...] = (first_is_for_our_key, *_OF_ALL)


def _misplaced(case: _Case, place: int, above: int) -> str:
    certificate = case.chain[place]
    signers = [at for at, each in enumerate(case.chain) if at != above and _signed_by(certificate, each)]
    if place in signers:
        return case.named(place, "signs itself, so it has to be the last: wrong order")
    if signers:
        want = "has to come right after it" if place != above else "has to be the last, with a root of its own"
        return case.named(place, f"is signed by certificate {signers[0] + 1}, which {want}: wrong order")
    if place == above:
        return case.named(place, "is the last and not signed by itself: the root is missing at the end")
    return case.named(place, f"is not signed by certificate {above + 1}, nor by any other of the chain")


def _signed_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, TypeError, *UNREADABLE):
        return False
    return True


def _spki(certificate: x509.Certificate) -> bytes:
    return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _is_ca(certificate: x509.Certificate) -> bool:
    constraints = _extension(certificate, x509.BasicConstraints)
    return constraints is not None and constraints.ca


def _path_length(certificate: x509.Certificate) -> int | None:
    constraints = _extension(certificate, x509.BasicConstraints)
    return None if constraints is None else constraints.path_length


def _may_sign(certificate: x509.Certificate) -> bool:
    usage = _extension(certificate, x509.KeyUsage)
    return usage is not None and usage.key_cert_sign and usage.crl_sign


def _constrained(trust_domain: TrustDomain, certificate: x509.Certificate) -> str | None:
    constraints = _extension(certificate, x509.NameConstraints)
    if constraints is None:
        return None
    trees = [*(constraints.permitted_subtrees or []), *(constraints.excluded_subtrees or [])]
    if any(not isinstance(tree, x509.UniformResourceIdentifier) for tree in trees):
        return "has name constraints that are not about URIs alone"
    if not uri_permitted(constraints, str(trust_domain.id)):
        return f"has name constraints that do not admit {trust_domain.id}"
    if "_" in trust_domain.name:
        return "has URI name constraints, under which Envoy refuses a trust domain with '_'"
    return None


def _other_domain(trust_domain: TrustDomain, certificate: x509.Certificate) -> str | None:
    names = _extension(certificate, x509.SubjectAlternativeName)
    uris = names.get_values_for_type(x509.UniformResourceIdentifier) if names is not None else []
    others = [uri for uri in uris if uri.lower().startswith("spiffe:") and uri != str(trust_domain.id)]
    return f"names {others[0][:80]!r}, not {trust_domain.id}" if others else None


def _wrong_time(now: datetime, certificate: x509.Certificate) -> str | None:
    if now < certificate.not_valid_before_utc:
        return f"is not valid before {certificate.not_valid_before_utc.isoformat()}: see to the clocks"
    if now >= certificate.not_valid_after_utc:
        return f"has expired at {certificate.not_valid_after_utc.isoformat()}"
    return None


def _weak_hash(certificate: x509.Certificate) -> str | None:
    algorithm = certificate.signature_hash_algorithm
    if isinstance(algorithm, STRONG_HASHES):
        return None
    return f"is signed with {algorithm.name if algorithm else 'an unknown hash'}: SHA-256 at least is needed"


def _too_narrow(certificate: x509.Certificate) -> str | None:
    usages = _extension(certificate, x509.ExtendedKeyUsage)
    both = {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    if usages is None or both <= set(usages) or ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE in usages:
        return None
    return "has extended key usages without server and client authentication"


def _extension(certificate: x509.Certificate, kind: type[_Extension]) -> _Extension | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None
