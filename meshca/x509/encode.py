"""Plans as the bytes that are signed. What is the same in all leaves of one identity is encoded once."""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache

from meshca.x509 import der
from meshca.x509.issuer import Issuer
from meshca.x509.plan import CaPlan, LeafPlan
from meshca.x509.profile import Names, ca_extensions, ca_subject, leaf_extensions, leaf_subject, names_of
from meshca.x509.publickey import Curve, curve_of, key_identifier

_VERSION_3 = der.explicit(0, der.integer(2))
KEY_IDENTIFIER_BYTES = 20


def leaf_tbs(plan: LeafPlan) -> bytes:
    """Return the TBSCertificate of a leaf (RFC 5280 §4.1)."""
    names = names_of(plan)
    return der.sequence(
        _VERSION_3,
        der.integer(plan.serial),
        plan.issuer.curve.signature_algorithm,
        plan.issuer.subject,
        _validity(plan.not_before, plan.not_after),
        _subject(names),
        plan.spki,
        _extensions_without_key(plan.issuer, names),
        key_identifier(plan.spki),
    )


def ca_tbs(plan: CaPlan) -> bytes:
    """Return the TBSCertificate of a root or issuing CA."""
    subject = ca_subject(plan).public_bytes()
    extensions = der.sequence(*(wanted.encoded for wanted in ca_extensions(plan)))
    return der.sequence(
        _VERSION_3,
        der.integer(plan.serial),
        signing_curve(plan).signature_algorithm,
        plan.issuer.subject if plan.issuer else subject,
        _validity(plan.not_before, plan.not_after),
        subject,
        plan.spki,
        der.explicit(3, extensions),
    )


def signing_curve(plan: LeafPlan | CaPlan) -> Curve:
    """Return the curve of the key that is to sign the plan: its issuer's, or a root's own."""
    if plan.issuer is not None:
        return plan.issuer.curve
    curve = curve_of(plan.spki)
    if curve is None:
        raise ValueError("the key of the plan is none of ours")
    return curve


def assemble(tbs: bytes, curve: Curve, signature: bytes) -> bytes:
    """Return the certificate or CRL made of what was signed, the algorithm and the signature."""
    return der.sequence(tbs, curve.signature_algorithm, der.bit_string(signature))


@lru_cache(maxsize=4096)
def _extensions_without_key(issuer: Issuer, names: Names) -> bytes:
    """Return the extensions of a leaf up to the key identifier, with which they end."""
    any_key = bytes(KEY_IDENTIFIER_BYTES)
    wanted = leaf_extensions(issuer, names, any_key)
    return der.explicit(3, der.sequence(*(each.encoded for each in wanted)))[:-KEY_IDENTIFIER_BYTES]


@lru_cache(maxsize=256)
def _subject(names: Names) -> bytes:
    return leaf_subject(names).public_bytes() if names.in_subject else der.EMPTY_SEQUENCE


@lru_cache(maxsize=256)
def _validity(not_before: datetime, not_after: datetime) -> bytes:
    return der.sequence(der.time(not_before), der.time(not_after))
