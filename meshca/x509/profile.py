"""The extensions of the profiles: what a leaf, a CA and a CRL of ours carry, to be encoded and compared.

Each is written once, as `cryptography` objects; encoding takes their bytes, and reading back compares with them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from cryptography import x509
from cryptography.x509.oid import ExtensionOID, NameOID

from meshca.spiffe.id import SpiffeId, TrustDomain
from meshca.x509 import der
from meshca.x509.issuer import Issuer
from meshca.x509.plan import CaPlan, LeafPlan
from meshca.x509.profiles import PROFILES, SVID
from meshca.x509.publickey import ca_id, key_identifier

_ORGANIZATION_LIMIT = 64  # ub-organization-name, RFC 5280 appendix A.1


@dataclass(frozen=True, slots=True)
class Wanted:
    """One extension that a certificate is to carry."""

    value: x509.ExtensionType
    critical: bool

    @property
    def encoded(self) -> bytes:
        """The DER of the whole extension."""
        oid = _oid(self.value.oid)
        return der.extension(oid, self.value.public_bytes(), critical=self.critical)


# X509-SVID §4.3: digitalSignature and nothing else, critical.
LEAF_KEY_USAGE = Wanted(
    x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    ),
    critical=True,
)
# X509-SVID §4.4: the same in every profile of a leaf, since every workload is server and client.
LEAF_EXTENDED_KEY_USAGE = Wanted(x509.ExtendedKeyUsage(list(SVID.extended_usages)), critical=False)
CA_KEY_USAGE = Wanted(
    x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    ),
    critical=True,
)


# X509-SVID §4.1. Absent would mean the same (RFC 5280 §4.2.1.9), but py-spiffe refuses a leaf that does not say it.
LEAF_BASIC_CONSTRAINTS = Wanted(x509.BasicConstraints(ca=False, path_length=None), critical=True)


class Names(NamedTuple):
    """What a leaf says of who it is for."""

    spiffe_id: SpiffeId
    dns_names: tuple[str, ...] = ()
    in_subject: bool = False


def names_of(plan: LeafPlan) -> Names:
    """Return what the plan names."""
    return Names(plan.spiffe_id, plan.dns_names, plan.names_subject)


def leaf_extensions(issuer: Issuer, names: Names, key: bytes) -> tuple[Wanted, ...]:
    """Return what a leaf carries, the key identifier last."""
    return (
        LEAF_BASIC_CONSTRAINTS,
        LEAF_KEY_USAGE,
        LEAF_EXTENDED_KEY_USAGE,
        # Critical where the subject is empty, and only there (X509-SVID §3.1, RFC 5280 §4.2.1.6).
        _names(names.spiffe_id, names.dns_names, critical=not names.in_subject),
        authority_key(issuer.key_identifier),
        _subject_key(key),
    )


def ca_extensions(plan: CaPlan) -> tuple[Wanted, ...]:
    """Return what a root or issuing CA carries, in its order."""
    own = key_identifier(plan.spki)
    wanted = [
        Wanted(x509.BasicConstraints(ca=True, path_length=PROFILES[plan.role].path_length), critical=True),
        CA_KEY_USAGE,
        _names(plan.trust_domain.id, (), critical=False),
        authority_key(plan.issuer.key_identifier if plan.issuer else own),
        _subject_key(own),
    ]
    if plan.name_constraint:
        host = x509.UniformResourceIdentifier(plan.trust_domain.name)
        wanted.append(Wanted(x509.NameConstraints([host], None), critical=True))  # RFC 5280 §4.2.1.10
    return tuple(wanted)


def authority_key(identifier: bytes) -> Wanted:
    """Return the authorityKeyIdentifier of what the CA with this key identifier signs."""
    return Wanted(x509.AuthorityKeyIdentifier(identifier, None, None), critical=False)


def _subject_key(identifier: bytes) -> Wanted:
    return Wanted(x509.SubjectKeyIdentifier(identifier), critical=False)


def _names(spiffe_id: SpiffeId, dns_names: tuple[str, ...], *, critical: bool) -> Wanted:
    """Return the subjectAltName: the identity as the only URI, then the DNS names."""
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(str(spiffe_id))]
    names += [x509.DNSName(name) for name in dns_names]
    return Wanted(x509.SubjectAlternativeName(names), critical=critical)


def leaf_subject(names: Names) -> x509.Name:
    """Return a leaf's subject: empty, or the identity as its only attribute.

    As a user ID (RFC 4519 §2.39), because a common name ends at 64 characters (RFC 5280 appendix A.1).
    """
    return x509.Name([x509.NameAttribute(NameOID.USER_ID, str(names.spiffe_id))] if names.in_subject else [])


def ca_subject(plan: CaPlan) -> x509.Name:
    """Return the name of a CA of ours."""
    return ca_name(plan.role, plan.trust_domain, plan.spki)


def ca_name(role: str, trust_domain: TrustDomain, spki: bytes) -> x509.Name:
    """Return a name that no other key has, so that chains are found by name alone.

    A trust domain that is longer than an organization may be is left out; the URI name says it anyway.
    """
    own = x509.NameAttribute(NameOID.COMMON_NAME, f"meshca {role} {ca_id(spki)}")
    return x509.Name([*_organization(trust_domain), own])


def requested_extensions(trust_domain: TrustDomain, spki: bytes) -> tuple[Wanted, ...]:
    """Return what a request for an issuing CA's certificate asks for."""
    return (
        Wanted(x509.BasicConstraints(ca=True, path_length=PROFILES["issuing"].path_length), critical=True),
        CA_KEY_USAGE,
        _names(trust_domain.id, (), critical=False),
        _subject_key(key_identifier(spki)),
    )


def _organization(trust_domain: TrustDomain) -> list[x509.NameAttribute[str]]:
    if len(trust_domain.name) > _ORGANIZATION_LIMIT:
        return []
    return [x509.NameAttribute(NameOID.ORGANIZATION_NAME, trust_domain.name)]


@lru_cache(maxsize=32)
def _oid(oid: x509.ObjectIdentifier) -> bytes:
    """Return the DER of an extension's OID; all of ours lie under id-ce, 2.5.29."""
    arc, _, last = oid.dotted_string.rpartition(".")
    if arc != _ID_CE:
        raise ValueError(f"extension {oid.dotted_string} is none of ours")
    return bytes((0x06, 0x03, 0x55, 0x1D, int(last)))


_ID_CE = ExtensionOID.KEY_USAGE.dotted_string.rpartition(".")[0]
