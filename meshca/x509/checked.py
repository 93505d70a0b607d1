"""Lint before signature, comparison after it.

Rules kept here:
- Only `check_leaf` and `check_ca` make a `CheckedPlan`, and only after every lint on the plan and on its encoded bytes.
- The bytes of a checked plan are handed out for signing once.
- Only `finish` makes a `Certificate`: parsed again, the signature verified with the issuer's key, every field compared
  with the plan (the signed bytes are those whose every field was compared before the signature).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key

from meshca.errors import MeshcaError
from meshca.spiffe.bundle import pem
from meshca.spiffe.id import SpiffeId
from meshca.x509 import der, encode
from meshca.x509.lint import LintError, require
from meshca.x509.lints import CA_LINTS, LEAF_LINTS, CaCase, LeafCase
from meshca.x509.plan import CaPlan, LeafPlan
from meshca.x509.profiles import Profile
from meshca.x509.publickey import Curve, ca_id
from meshca.x509.readback import READBACK_LINTS, read_ca, read_leaf
from meshca.x509.serial import new_serial, parse_serial, serial_hex
from meshca.x509.unreadable import UNREADABLE

__all__ = [
    "Certificate",
    "CheckedPlan",
    "LintError",
    "MisissueError",
    "SpentPlanError",
    "check_ca",
    "check_leaf",
    "finish",
    "new_serial",
    "parse_serial",
    "serial_hex",
]

_UNREADABLE = "R00 the encoded bytes can be read (RFC 5280 §4.1)"
_MAKER = object()


class SpentPlanError(RuntimeError):
    """A checked plan was handed out for signing before."""


class MisissueError(MeshcaError):
    """What came back from signing is not what was planned; it is never released."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate that went through `finish`."""

    der: bytes = field(repr=False)
    serial: str
    spiffe_id: SpiffeId
    not_before: datetime
    not_after: datetime
    issuer_id: str

    @property
    def pem(self) -> bytes:
        """The certificate as one PEM block."""
        return pem((self.der,))


class CheckedPlan:
    """A plan without findings. `spend` gives its bytes for signing, once."""

    __slots__ = ("_curve", "_plan", "_tbs", "_unspent")

    def __init__(self, maker: object, plan: LeafPlan | CaPlan, tbs: bytes, curve: Curve) -> None:
        if maker is not _MAKER:
            raise TypeError("a CheckedPlan comes from check_leaf or check_ca")
        self._plan = plan
        self._tbs = tbs
        self._curve = curve
        self._unspent = [tbs]

    @property
    def plan(self) -> LeafPlan | CaPlan:
        """The plan that was checked."""
        return self._plan

    @property
    def tbs(self) -> bytes:
        """The bytes that the intent row records; to sign, `spend` them."""
        return self._tbs

    @property
    def curve(self) -> Curve:
        """The curve of the key that signs."""
        return self._curve

    def spend(self) -> bytes:
        """Return the bytes to sign.

        Raises:
            SpentPlanError: it was called before.
        """
        try:
            return self._unspent.pop()  # one atomic step, so that two threads cannot both get it
        except IndexError:
            raise SpentPlanError("this plan was signed before; check it anew") from None


def check_leaf(plan: LeafPlan, profile: Profile, now: datetime) -> CheckedPlan:
    """Run every lint on the plan, encode it, and run every lint on the bytes.

    Raises:
        LintError: a lint found something.
    """
    require(LEAF_LINTS, LeafCase(plan, profile, now))
    tbs = encode.leaf_tbs(plan)
    try:
        require(READBACK_LINTS, read_leaf(plan, tbs))
    except UNREADABLE as error:
        raise LintError([f"{_UNREADABLE}: {error}"]) from error
    return CheckedPlan(_MAKER, plan, tbs, plan.issuer.curve)


def check_ca(plan: CaPlan, profile: Profile, now: datetime) -> CheckedPlan:
    """Run every lint on the plan, encode it, and run every lint on the bytes.

    Raises:
        LintError: a lint found something.
    """
    require(CA_LINTS, CaCase(plan, profile, now))
    tbs = encode.ca_tbs(plan)
    try:
        require(READBACK_LINTS, read_ca(plan, tbs))
    except UNREADABLE as error:
        raise LintError([f"{_UNREADABLE}: {error}"]) from error
    return CheckedPlan(_MAKER, plan, tbs, encode.signing_curve(plan))


def finish(checked: CheckedPlan, signature: bytes) -> Certificate:
    """Return the signed certificate, which is exactly the planned one.

    Raises:
        MisissueError: the signature is not the issuer's over these bytes, or the result differs from the plan.
    """
    encoded = encode.assemble(checked.tbs, checked.curve, signature)
    _compare(encoded, checked)
    _verify(signature, checked)
    plan = checked.plan
    return Certificate(
        der=encoded,
        serial=serial_hex(plan.serial),
        spiffe_id=plan.spiffe_id if isinstance(plan, LeafPlan) else plan.trust_domain.id,
        not_before=plan.not_before,
        not_after=plan.not_after,
        issuer_id=plan.issuer.id if plan.issuer else ca_id(plan.spki),
    )


def _compare(encoded: bytes, checked: CheckedPlan) -> None:
    """Parse the result; it has to hold the very bytes whose every field was compared with the plan."""
    try:
        parts = der.children(encoded)
        certificate = x509.load_der_x509_certificate(encoded)
        same = parts[:2] == [checked.tbs, checked.curve.signature_algorithm]
        same = same and certificate.serial_number == checked.plan.serial
    except UNREADABLE as error:
        raise MisissueError("the signed certificate cannot be parsed", field=_name(checked)) from error
    if not same:
        raise MisissueError("the signed certificate is not the planned one", field=_name(checked))


def _verify(signature: bytes, checked: CheckedPlan) -> None:
    plan = checked.plan
    key = plan.issuer.public_key if plan.issuer else _own_key(plan.spki)
    try:
        key.verify(signature, checked.tbs, checked.curve.ecdsa)
    except InvalidSignature as error:
        raise MisissueError("the signature is not the issuer's", field=_name(checked)) from error


def _own_key(spki: bytes) -> ec.EllipticCurvePublicKey:
    key = load_der_public_key(spki)
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise MisissueError("the key of a root is an EC key")
    return key


def _name(checked: CheckedPlan) -> str:
    return f"certificate {serial_hex(checked.plan.serial)}"
