"""The issuing core alone: plan, lint, encode, sign, read again, check the signature; the leaf's key included."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from meshca.spiffe.id import SpiffeId, TrustDomain
from meshca.x509.checked import check_ca, check_leaf, finish
from meshca.x509.issuer import Issuer, ca_id
from meshca.x509.plan import CaPlan, LeafPlan, validity
from meshca.x509.profiles import PROFILES
from meshca.x509.serial import SERIAL_BYTES, new_serial

if TYPE_CHECKING:
    from collections.abc import Callable

    from meshca.x509.checked import CheckedPlan

_LEAF = timedelta(hours=1)
_ISSUING = timedelta(days=30)
_ROOT = timedelta(days=3650)
_TRUST_DOMAIN = TrustDomain("bench.test")
_IDENTITY = SpiffeId.parse("spiffe://bench.test/mesh/m/virtualNode/n")


def batch_issuer(size: int) -> Callable[[], object]:
    """Return a function that makes so many keys and certificates under a fresh issuing CA.

    In the order of meshca.authority.issuing: all keys, all checks, all signatures, all results read again. (The ledger
    stands between checks and signatures there, so nothing could take turns one by one.)
    """
    root_key, issuing_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    root = _authority("root", root_key, root_key, None, _ROOT)
    issuer = _authority("issuing", issuing_key, root_key, root, _ISSUING)
    profile = PROFILES["svid"].within(_LEAF)

    def once() -> object:
        now = datetime.now(UTC)
        keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(size)]
        checked = [check_leaf(_leaf_plan(key, issuer, now), profile, now) for key in keys]
        signed = [_signed(plan, issuing_key) for plan in checked]
        return [finish(plan, signature) for plan, signature in signed]

    return once


def _leaf_plan(key: ec.EllipticCurvePrivateKey, issuer: Issuer, now: datetime) -> LeafPlan:
    valid = validity(now, _LEAF, issuer)
    return LeafPlan(
        spiffe_id=_IDENTITY,
        spki=_spki(key),
        serial=new_serial(os.urandom(SERIAL_BYTES)),
        not_before=valid.not_before,
        not_after=valid.not_after,
        issuer=issuer,
    )


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
    made = finish(*_signed(check_ca(plan, PROFILES[role].within(life), now), signer))
    return Issuer.from_der(ca_id(plan.spki), made.der)


def _signed(checked: CheckedPlan, key: ec.EllipticCurvePrivateKey) -> tuple[CheckedPlan, bytes]:
    return checked, key.sign(checked.spend(), ec.ECDSA(hashes.SHA256()))


def _spki(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
