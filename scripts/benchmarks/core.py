"""The issuing core alone: plan, lint, encode, sign, read again, check the signature; the leaf's key included."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from meshca.spiffe.id import SpiffeId, TrustDomain
from meshca.x509.checked import CaProfile, LeafProfile, check_ca, check_leaf, finish
from meshca.x509.issuer import Issuer, ca_id
from meshca.x509.plan import CaPlan, LeafPlan, validity
from meshca.x509.serial import SERIAL_BYTES, new_serial

if TYPE_CHECKING:
    from collections.abc import Callable

    from meshca.x509.checked import CheckedPlan

_LEAF = timedelta(hours=1)
_ISSUING = timedelta(days=30)
_ROOT = timedelta(days=3650)
_TRUST_DOMAIN = TrustDomain("bench.test")


def issue_once() -> Callable[[], object]:
    """Return a function that makes one key and one certificate under a fresh issuing CA."""
    root_key, issuing_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    root = _authority("root", root_key, root_key, None, _ROOT)
    issuer = _authority("issuing", issuing_key, root_key, root, _ISSUING)
    identity = SpiffeId.parse("spiffe://bench.test/mesh/m/virtualNode/n")
    profile = LeafProfile(max_ttl=_LEAF)

    def once() -> object:
        now = datetime.now(UTC)
        key = ec.generate_private_key(ec.SECP256R1())
        valid = validity(now, _LEAF, issuer)
        plan = LeafPlan(
            spiffe_id=identity,
            spki=_spki(key),
            serial=new_serial(os.urandom(SERIAL_BYTES)),
            not_before=valid.not_before,
            not_after=valid.not_after,
            issuer=issuer,
        )
        return finish(*_signed(check_leaf(plan, profile, now), issuing_key))

    return once


def _authority(
    role: str,
    key: ec.EllipticCurvePrivateKey,
    signer: ec.EllipticCurvePrivateKey,
    issuer: Issuer | None,
    life: timedelta,
) -> Issuer:
    now = datetime.now(UTC)
    valid = validity(now, life, issuer)
    plan = CaPlan(
        role="root" if role == "root" else "issuing",
        trust_domain=_TRUST_DOMAIN,
        spki=_spki(key),
        serial=new_serial(os.urandom(SERIAL_BYTES)),
        not_before=valid.not_before,
        not_after=valid.not_after,
        issuer=issuer,
    )
    made = finish(*_signed(check_ca(plan, CaProfile(max_ttl=life), now), signer))
    return Issuer.from_der(ca_id(plan.spki), made.der)


def _signed(checked: CheckedPlan, key: ec.EllipticCurvePrivateKey) -> tuple[CheckedPlan, bytes]:
    return checked, key.sign(checked.spend(), ec.ECDSA(hashes.SHA256()))


def _spki(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
