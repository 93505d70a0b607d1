"""The lints on encoded bytes: what was encoded is read back, and must say what the plan says, no more and no less.

Serial, times and extensions are read by `cryptography`; names, key and algorithm are compared as bytes. The extensions
of one identity under one issuer differ in nothing but the key identifier at their end, so they are read once, for a
specimen, and compared as bytes from then on. What is wanted comes from the profile's values, not from the encoder.
R: every certificate.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from typing import NamedTuple

from cryptography import x509

from meshca.x509 import der, encode
from meshca.x509.issuer import Issuer
from meshca.x509.lint import Lint, LintError, lint
from meshca.x509.plan import CaPlan, LeafPlan
from meshca.x509.profile import Names, Wanted, ca_extensions, ca_subject, leaf_extensions, leaf_subject, names_of
from meshca.x509.publickey import Curve, key_identifier

# Reading back needs a certificate, which needs some signature; nobody verifies this one.
_NO_SIGNATURE = b"\x30\x06\x02\x01\x01\x02\x01\x01"


class Expected(NamedTuple):
    """What a certificate made from a plan has to say; names, key and extensions as encoded."""

    serial: int
    curve: Curve
    issuer: bytes
    not_before: datetime
    not_after: datetime
    subject: bytes
    spki: bytes
    extensions: bytes


class Draft(NamedTuple):
    """A certificate as encoded, and what it is compared with."""

    certificate: x509.Certificate
    fields: list[bytes]
    expected: Expected


def read_leaf(plan: LeafPlan, tbs: bytes) -> Draft:
    """Parse an encoded leaf, to be compared with its plan.

    Raises:
        UNREADABLE: it cannot be parsed.
        LintError: the extensions are not those of the profile.
    """
    issuer = plan.issuer
    names = names_of(plan)
    extensions = _proven_without_key(issuer, names) + key_identifier(plan.spki)
    expected = Expected(
        plan.serial,
        issuer.curve,
        issuer.subject,
        plan.not_before,
        plan.not_after,
        leaf_subject(names).public_bytes() if names.in_subject else der.EMPTY_SEQUENCE,
        plan.spki,
        extensions,
    )
    return Draft(_parse(tbs, issuer.curve), der.children(tbs), expected)


def read_ca(plan: CaPlan, tbs: bytes) -> Draft:
    """Parse an encoded CA certificate, to be compared with its plan.

    Raises:
        UNREADABLE: it cannot be parsed.
        LintError: the extensions are not those of the profile.
    """
    curve = encode.signing_curve(plan)
    subject = ca_subject(plan).public_bytes()
    expected = Expected(
        plan.serial,
        curve,
        plan.issuer.subject if plan.issuer else subject,
        plan.not_before,
        plan.not_after,
        subject,
        plan.spki,
        _proven(tbs, curve, ca_extensions(plan)),
    )
    return Draft(_parse(tbs, curve), der.children(tbs), expected)


def _parse(tbs: bytes, curve: Curve) -> x509.Certificate:
    return x509.load_der_x509_certificate(encode.assemble(tbs, curve, _NO_SIGNATURE))


@lru_cache(maxsize=4096)
def _proven_without_key(issuer: Issuer, names: Names) -> bytes:
    """Return the extensions of an identity up to the key identifier, read back for a specimen with the issuer's key."""
    start, end = issuer.not_before, issuer.not_after
    specimen = LeafPlan(names.spiffe_id, issuer.spki, 1, start, end, issuer, names.dns_names, names.in_subject)
    wanted = leaf_extensions(issuer, names, key_identifier(issuer.spki))
    proven = _proven(encode.leaf_tbs(specimen), issuer.curve, wanted)
    return proven[: -encode.KEY_IDENTIFIER_BYTES]


def _proven(tbs: bytes, curve: Curve, wanted: Sequence[Wanted]) -> bytes:
    """Return the encoded extensions after `cryptography` has read from them what is wanted, and nothing else."""
    found = [(each.value, each.critical) for each in _parse(tbs, curve).extensions]
    if found != [(each.value, each.critical) for each in wanted]:
        raise LintError([f"R09 extensions say what the profile says (X509-SVID §2, §4): {found}"])
    return der.children(tbs)[-1]


@lint("R01", "RFC 5280 §4.1.2.1")
def version_is_3(draft: Draft) -> str | None:
    """Extensions need version 3; the two older ones have none."""
    return None if draft.certificate.version is x509.Version.v3 else "not a version 3 certificate"


@lint("R02", "RFC 5280 §4.1.2.2")
def serial_is_the_planned(draft: Draft) -> str | None:
    """The serial is the one that the ledger knows."""
    return None if draft.certificate.serial_number == draft.expected.serial else "another serial"


@lint("R03", "RFC 5280 §4.1.2.3, RFC 5758 §3.2")
def algorithm_fits_the_issuers_key(draft: Draft) -> str | None:
    """The signature algorithm inside is ECDSA with the hash of the issuer's curve."""
    return None if draft.fields[2] == draft.expected.curve.signature_algorithm else "another signature algorithm"


@lint("R04", "RFC 5280 §4.1.2.4")
def issuer_is_the_issuers_subject(draft: Draft) -> str | None:
    """The issuer name is the issuer's subject byte for byte, as chain building compares it."""
    return None if draft.fields[3] == draft.expected.issuer else "another issuer name"


@lint("R05", "RFC 5280 §4.1.2.5")
def times_are_the_planned(draft: Draft) -> str | None:
    """It is valid from and until the planned second."""
    times = (draft.certificate.not_valid_before_utc, draft.certificate.not_valid_after_utc)
    return None if times == (draft.expected.not_before, draft.expected.not_after) else f"valid from {times}"


@lint("R06", "RFC 5280 §4.1.2.6, X509-SVID §3.1")
def subject_is_the_planned(draft: Draft) -> str | None:
    """A leaf's subject is empty or its identity, as planned; a CA's is its own."""
    return None if draft.fields[5] == draft.expected.subject else "another subject"


@lint("R07", "RFC 5280 §4.1.2.7")
def key_is_the_planned(draft: Draft) -> str | None:
    """It certifies the key that was asked for."""
    return None if draft.fields[6] == draft.expected.spki else "another key"


@lint("R08", "X509-SVID §2, §4; RFC 5280 §4.2")
def extensions_are_those_of_the_profile(draft: Draft) -> str | None:
    """Each extension of the profile is there once, with its value and criticality, and no other (see R09)."""
    return None if draft.fields[7:] == [draft.expected.extensions] else "other extensions than those of the profile"


READBACK_LINTS: tuple[Lint[Draft], ...] = (
    version_is_3,
    serial_is_the_planned,
    algorithm_fits_the_issuers_key,
    issuer_is_the_issuers_subject,
    times_are_the_planned,
    subject_is_the_planned,
    key_is_the_planned,
    extensions_are_those_of_the_profile,
)
