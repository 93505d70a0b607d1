"""A small PKI for tests, at a fixed time, in which the good case differs from each bad one by one field."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from meshca.spiffe.id import SpiffeId, TrustDomain
from meshca.x509.checked import Certificate, check_ca, check_leaf, finish, new_serial
from meshca.x509.crl import Crl, CrlPlan, RevokedEntry, check_crl, finish_crl
from meshca.x509.issuer import Issuer, ca_id
from meshca.x509.plan import CaPlan, LeafPlan, validity
from meshca.x509.profiles import PROFILES, SVID, Profile

NOW = datetime(2026, 11, 25, 12, 0, 0, 123456, tzinfo=UTC)
SECOND = timedelta(seconds=1)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
TD = TrustDomain("m.test")
WEB = SpiffeId.parse("spiffe://m.test/mesh/m/virtualNode/web")
LEAF_PROFILE = SVID.within(HOUR)
CA_LIFE = 3650 * DAY

Key = ec.EllipticCurvePrivateKey


def new_key(curve: ec.EllipticCurve | None = None) -> Key:
    return ec.generate_private_key(curve or ec.SECP256R1())


def spki(key: Key) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def sign(key: Key, data: bytes) -> bytes:
    return key.sign(data, ec.ECDSA(hashes.SHA384() if key.curve.key_size == 384 else hashes.SHA256()))


def serial() -> int:
    return new_serial(os.urandom(19))


@dataclass(frozen=True)
class Authority:
    """A CA of the tests: its key and its certificate."""

    key: Key = field(repr=False)
    issuer: Issuer


def ca_plan(key: Key, issuer: Issuer | None = None, now: datetime = NOW, **changes: Any) -> CaPlan:
    role, life = ("root", 3650 * DAY) if issuer is None else ("issuing", 30 * DAY)
    when = validity(now, life, issuer)
    plan = CaPlan(role, TD, spki(key), serial(), when.not_before, when.not_after, issuer)  # type: ignore[arg-type]
    return replace(plan, **changes)


def ca_profile(plan: CaPlan) -> Profile:
    return PROFILES[plan.role].within(CA_LIFE)


def make_ca(
    above: Authority | None = None, curve: ec.EllipticCurve | None = None, now: datetime = NOW - DAY, **changes: Any
) -> Authority:
    key = new_key(curve)
    plan = ca_plan(key, above.issuer if above else None, now, **changes)
    checked = check_ca(plan, ca_profile(plan), now)
    certificate = finish(checked, sign(above.key if above else key, checked.spend()))
    return Authority(key, Issuer.from_der(ca_id(spki(key)), certificate.der))


@cache
def root() -> Authority:
    return make_ca()


@cache
def issuing() -> Authority:
    return make_ca(root())


def leaf_plan(**changes: Any) -> LeafPlan:
    issuer = changes.pop("issuer", issuing().issuer)
    key = changes.pop("key", None) or new_key()
    when = validity(NOW, HOUR, issuer)
    return replace(LeafPlan(WEB, spki(key), serial(), when.not_before, when.not_after, issuer), **changes)


def make_leaf(authority: Authority | None = None, **changes: Any) -> Certificate:
    authority = authority or issuing()
    checked = check_leaf(leaf_plan(issuer=authority.issuer, **changes), LEAF_PROFILE, NOW)
    return finish(checked, sign(authority.key, checked.spend()))


def crl_plan(authority: Authority | None = None, *revoked: RevokedEntry, **changes: Any) -> CrlPlan:
    issuer = (authority or issuing()).issuer
    this_update = NOW.replace(microsecond=0) - timedelta(minutes=5)
    return replace(CrlPlan(issuer, 1, this_update, issuer.not_after, revoked), **changes)


def make_crl(authority: Authority, *revoked: RevokedEntry, **changes: Any) -> Crl:
    checked = check_crl(crl_plan(authority, *revoked, **changes))
    return finish_crl(checked, sign(authority.key, checked.spend()))
