"""SDS secrets, and the last gate before they leave.

Rules kept here:
- What Envoy acknowledges and must never be sent is refused (design: what real Envoy does): an empty context, an empty
  SAN list under a policy name, an expired or not yet valid leaf, a leaf without exactly one URI SAN, a CRL that is not
  PEM, is missing, expired or from the future. Envoy would let everybody in, or nobody.
- Where an upstream's CA has no usable CRL, contexts say ``only_verify_leaf_cert_crl``: Envoy would refuse every chain
  below that CA otherwise. Leaves are looked up all the same.
- Bundle and CRLs are checked and encoded once for all contexts that share them: protobuf concatenates, so a context is
  its name, these bytes, and its SANs.
- Bytes are what the deterministic serialiser of the real message gives (the tests compare them).
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from cryptography import x509

from meshca.envoy import wire
from meshca.errors import MeshcaError
from meshca.spiffe.id import SpiffeId, TrustDomain

_CERTIFICATE = b"CERTIFICATE"
_CRL = b"X509 CRL"
_KEY = b"PRIVATE KEY"

# Field numbers of envoy.extensions.transport_sockets.tls.v3.
_SECRET_NAME, _SECRET_CERTIFICATE, _SECRET_CONTEXT = 1, 2, 4
_CERTIFICATE_CHAIN, _CERTIFICATE_KEY = 1, 2
_CONTEXT_CA, _CONTEXT_CRL, _CONTEXT_CUSTOM, _CONTEXT_LEAF_CRL, _CONTEXT_SANS = 1, 7, 12, 14, 15
_SAN_TYPE, _SAN_MATCHER, _SAN_URI = 1, 2, 3
_INLINE_BYTES = 2
_EXACT = 1
_VALIDATOR_NAME = b"envoy.tls.cert_validator.spiffe"
_VALIDATOR_TYPE = b"type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig"


class UnsafeSecretError(MeshcaError):
    """Envoy would acknowledge this secret and then admit the wrong peers, or none; it was not sent."""


def tls_certificate(name: str, chain_pem: bytes, key_pkcs8_pem: bytes, *, now: datetime) -> bytes:
    """Return the Secret with an SVID under the name asked for.

    Raises:
        UnsafeSecretError: the leaf is not valid at ``now``, has not exactly one URI SAN, or a part is not PEM.
    """
    _require_leaf(name, chain_pem, now)
    _blocks(name, key_pkcs8_pem, _KEY)
    certificate = wire.message(_CERTIFICATE_CHAIN, _inline(chain_pem)) + wire.message(
        _CERTIFICATE_KEY, _inline(key_pkcs8_pem)
    )
    return _named(name) + wire.message(_SECRET_CERTIFICATE, certificate)


@dataclass(frozen=True, slots=True)
class Anchors:
    """What contexts trust: roots, CRLs, and whether some CA above the leaves' has no usable CRL."""

    bundle_pem: bytes = field(repr=False)
    crl_pem: bytes = field(repr=False)
    leaf_crl_only: bool = False


def validation_context(name: str, anchors: Anchors, uri_sans: Collection[str], *, now: datetime) -> bytes:
    """Return the Secret with a context that admits exactly these SPIFFE IDs.

    Raises:
        UnsafeSecretError: no SAN, which Envoy reads as any SAN; or bundle or CRLs are unusable at ``now``.
    """
    if isinstance(uri_sans, str) or not uri_sans:
        raise UnsafeSecretError("an empty SAN list admits any peer", field=name, remedy="send /meshca/nobody instead")
    return _context(name, _usable_trust(name, anchors, now), _sans(uri_sans))


def roots_context(name: str, anchors: Anchors, *, now: datetime) -> bytes:
    """Return the Secret with roots and CRLs alone, for names that promise no policy (``ROOTCA``, ``spiffe://<td>``).

    Raises:
        UnsafeSecretError: bundle or CRLs are unusable at ``now``.
    """
    return _context(name, _usable_trust(name, anchors, now), b"")


def validator_context(
    name: str, bundles: Mapping[TrustDomain, bytes], uri_sans: Collection[str] | None = None
) -> bytes:
    """Return the Secret with Envoy's SPIFFE validator over these trust domains; it knows no CRL.

    With ``uri_sans`` it admits exactly these SPIFFE IDs, each by the roots of its own trust domain.

    Raises:
        UnsafeSecretError: no trust domain, a bundle that is not PEM, no SAN, or one of a trust domain without a bundle.
    """
    sans = b"" if uri_sans is None else _sans_within(name, uri_sans, bundles)
    if not bundles:
        raise UnsafeSecretError("an empty validation context admits anybody", field=name)
    config = b"".join(_validator_domain(name, domain, bundles[domain]) for domain in sorted(bundles))
    typed = wire.message(1, _VALIDATOR_TYPE) + wire.message(2, config)
    extension = wire.message(1, _VALIDATOR_NAME) + wire.message(2, typed)
    return _named(name) + wire.message(_SECRET_CONTEXT, wire.message(_CONTEXT_CUSTOM, extension) + sans)


@dataclass(frozen=True, slots=True)
class _Trust:
    """Checked and encoded bundle and CRLs, and the time within which the CRLs serve."""

    encoded: bytes
    leaf_crl_only: bytes
    usable_from: datetime
    usable_until: datetime


@functools.lru_cache(maxsize=64)
def _trust(anchors: Anchors) -> _Trust:
    """Check and encode once what many contexts share; bytes cache their hash, so a hit costs nothing."""
    bundle_pem, crl_pem = anchors.bundle_pem, anchors.crl_pem
    roots = [_load_certificate("bundle", block) for block in _blocks("bundle", bundle_pem, _CERTIFICATE)]
    crls = [_load_crl(block) for block in _blocks("crl", crl_pem, _CRL)]
    if not anchors.leaf_crl_only:
        _require_crl_of_each(roots, crls)
    _require_one_of_each(crls)
    encoded = wire.message(_CONTEXT_CA, _inline(bundle_pem)) + wire.message(_CONTEXT_CRL, _inline(crl_pem))
    return _Trust(
        encoded=encoded,
        leaf_crl_only=wire.number(_CONTEXT_LEAF_CRL, 1) if anchors.leaf_crl_only else b"",
        usable_from=max(crl.last_update_utc for crl in crls),
        usable_until=min(map(_next_update, crls)),
    )


def _usable_trust(name: str, anchors: Anchors, now: datetime) -> _Trust:
    trust = _trust(anchors)
    if not trust.usable_from <= now < trust.usable_until:
        raise UnsafeSecretError(
            f"its CRLs serve from {trust.usable_from} until {trust.usable_until}: every handshake would be refused",
            field=name,
        )
    return trust


def _require_crl_of_each(roots: list[x509.Certificate], crls: list[x509.CertificateRevocationList]) -> None:
    """Each root has exactly one CRL, or no handshake below it succeeds."""
    by_root = [sum(_issued_by(crl, root) for crl in crls) for root in roots]
    if any(count != 1 for count in by_root):
        raise UnsafeSecretError("a root without exactly one CRL: every handshake would be refused", field="crl")


def _require_one_of_each(crls: list[x509.CertificateRevocationList]) -> None:
    """No issuer key has two CRLs: Envoy would pick one and lose the other's entries."""
    issuers = [(crl.issuer.public_bytes(), _authority_key(crl)) for crl in crls]
    if len(set(issuers)) != len(issuers):
        raise UnsafeSecretError("two CRLs of one issuer key: entries of one would be lost", field="crl")


def _issued_by(crl: x509.CertificateRevocationList, root: x509.Certificate) -> bool:
    if crl.issuer != root.subject:
        return False
    try:
        return crl.is_signature_valid(root.public_key())  # type: ignore[arg-type]
    except TypeError:  # a kind of key that signs no CRL
        return False


def _authority_key(crl: x509.CertificateRevocationList) -> bytes | None:
    try:
        return crl.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    except x509.ExtensionNotFound:
        return None


def _load_certificate(field: str, block: bytes) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(block)
    except ValueError:
        raise UnsafeSecretError("a block that is not a certificate", field=field) from None


def _load_crl(block: bytes) -> x509.CertificateRevocationList:
    try:
        return x509.load_pem_x509_crl(block)
    except ValueError:
        raise UnsafeSecretError("a block that is not a CRL: every handshake would be refused", field="crl") from None


def _next_update(crl: x509.CertificateRevocationList) -> datetime:
    if crl.next_update_utc is None:
        raise UnsafeSecretError("a CRL without nextUpdate (RFC 5280 §5.1.2.5)", field="crl")
    return crl.next_update_utc


def _require_leaf(name: str, chain_pem: bytes, now: datetime) -> None:
    leaf = _load_certificate(name, _blocks(name, chain_pem, _CERTIFICATE)[0])
    if not leaf.not_valid_before_utc <= now < leaf.not_valid_after_utc:
        raise UnsafeSecretError(
            f"its leaf is valid from {leaf.not_valid_before_utc} until {leaf.not_valid_after_utc}, not at {now}",
            field=name,
        )
    uris = _uri_sans(leaf)
    if len(uris) != 1:
        raise UnsafeSecretError(f"its leaf has {len(uris)} URI SANs (X509-SVID §2 wants one)", field=name)
    SpiffeId.parse(uris[0])


def _uri_sans(leaf: x509.Certificate) -> list[str]:
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return names.get_values_for_type(x509.UniformResourceIdentifier)


def _blocks(field: str, pem: bytes, label: bytes) -> list[bytes]:
    """Split PEM into its blocks; text between blocks is allowed, because a repaired secret changes bytes there."""
    begin, end = b"-----BEGIN " + label + b"-----", b"-----END " + label + b"-----"
    starts = pem.split(begin)
    blocks = [begin + part[: at + len(end)] for part in starts[1:] if (at := part.find(end)) >= 0]
    if not blocks or len(blocks) != len(starts) - 1 or pem.count(b"-----BEGIN ") != len(blocks):
        raise UnsafeSecretError(f"is not PEM with only {label.decode()} blocks", field=field)
    return blocks


def _sans_within(name: str, uri_sans: Collection[str], bundles: Mapping[TrustDomain, bytes]) -> bytes:
    if isinstance(uri_sans, str) or not uri_sans:
        raise UnsafeSecretError("an empty SAN list admits any peer", field=name, remedy="send /meshca/nobody instead")
    if any(SpiffeId.parse(san).trust_domain not in bundles for san in uri_sans):
        raise UnsafeSecretError("a SAN of a trust domain without a bundle", field=name)
    return _sans(uri_sans)


def _sans(uri_sans: Collection[str]) -> bytes:
    return b"".join(_san(text) for text in sorted({str(san) for san in uri_sans}))


@functools.lru_cache(maxsize=65536)
def _san(text: str) -> bytes:
    if not SpiffeId.parse(text).path:
        raise UnsafeSecretError("a trust domain is no peer's SAN", field="SAN", value=text)
    matcher = wire.message(_EXACT, text.encode())
    return wire.message(_CONTEXT_SANS, wire.number(_SAN_TYPE, _SAN_URI) + wire.message(_SAN_MATCHER, matcher))


def _validator_domain(name: str, domain: TrustDomain, bundle_pem: bytes) -> bytes:
    _blocks(name, bundle_pem, _CERTIFICATE)
    return wire.message(1, wire.message(1, domain.name.encode()) + wire.message(2, _inline(bundle_pem)))


def _context(name: str, trust: _Trust, sans: bytes) -> bytes:
    # One join: the large bytes are copied once into the answer; fields in the order of their numbers.
    parts = (trust.encoded, trust.leaf_crl_only, sans)
    return b"".join((_named(name), wire.header(_SECRET_CONTEXT, sum(map(len, parts))), *parts))


def _named(name: str) -> bytes:
    return wire.message(_SECRET_NAME, name.encode())


def _inline(raw: bytes) -> bytes:
    return wire.message(_INLINE_BYTES, raw)
