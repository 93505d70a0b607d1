"""Certificate revocation lists (RFC 5280 §5): complete, one per issuer key.

Rules kept here are those of certificates: every lint before the signature, bytes for signing handed out once, and only
`finish_crl` makes a `Crl`. Entries are encoded by hand, since `cryptography`'s builder takes seconds for 100,000.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from meshca.x509 import der
from meshca.x509.checked import MisissueError, SpentPlanError
from meshca.x509.encode import assemble
from meshca.x509.issuer import Issuer
from meshca.x509.lint import Lint, LintError, lint, require
from meshca.x509.plan import whole_seconds
from meshca.x509.profile import Wanted, authority_key
from meshca.x509.serial import SERIAL_BYTES
from meshca.x509.unreadable import UNREADABLE

# RFC 5280 §5.3.1. removeFromCRL (8) belongs to delta CRLs, which we don't make.
REASONS = {
    "unspecified": 0,
    "keyCompromise": 1,
    "cACompromise": 2,
    "affiliationChanged": 3,
    "superseded": 4,
    "cessationOfOperation": 5,
    "certificateHold": 6,
    "privilegeWithdrawn": 9,
    "aACompromise": 10,
}

_VERSION_2 = der.integer(1)
_CRL_NUMBER_LIMIT = 1 << (8 * 19)
_SERIAL_LIMIT = 1 << (8 * SERIAL_BYTES)
_NO_SIGNATURE = b"\x30\x06\x02\x01\x01\x02\x01\x01"
_ID_REASON_CODE = bytes.fromhex("0603551d15")
_MAKER = object()


@dataclass(frozen=True, slots=True)
class RevokedEntry:
    """A certificate that is no longer good; ``reason`` is one of RFC 5280's names."""

    serial: int
    revoked_at: datetime
    reason: str = "unspecified"


@dataclass(frozen=True, slots=True)
class CrlPlan:
    """A CRL to be made; ``number`` is higher than that of any CRL of this issuer before."""

    issuer: Issuer
    number: int
    this_update: datetime
    next_update: datetime
    revoked: tuple[RevokedEntry, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class Crl:
    """A CRL that went through `finish_crl`."""

    der: bytes = field(repr=False)
    number: int
    this_update: datetime
    next_update: datetime
    issuer_id: str

    @property
    def pem(self) -> bytes:
        """The CRL as one PEM block, the only form that Envoy uses."""
        return b"-----BEGIN X509 CRL-----\n" + _wrapped(self.der) + b"-----END X509 CRL-----\n"


class CheckedCrl:
    """A CRL plan without findings. `spend` gives its bytes for signing, once."""

    __slots__ = ("_plan", "_tbs", "_unspent")

    def __init__(self, maker: object, plan: CrlPlan, tbs: bytes) -> None:
        if maker is not _MAKER:
            raise TypeError("a CheckedCrl comes from check_crl")
        self._plan = plan
        self._tbs = tbs
        self._unspent = [tbs]

    @property
    def plan(self) -> CrlPlan:
        """The plan that was checked."""
        return self._plan

    @property
    def tbs(self) -> bytes:
        """The bytes that get signed; to sign, `spend` them."""
        return self._tbs

    def spend(self) -> bytes:
        """Return the bytes to sign.

        Raises:
            SpentPlanError: it was called before.
        """
        try:
            return self._unspent.pop()
        except IndexError:
            raise SpentPlanError("this CRL was signed before; check it anew") from None


@lint("V01", "RFC 5280 §5.2.3")
def number_fits(plan: CrlPlan) -> str | None:
    """The number is not negative and fits into 20 octets."""
    return None if 0 <= plan.number < _CRL_NUMBER_LIMIT else f"number {plan.number}"


@lint("V02", "RFC 5280 §5.1.2.4, §5.1.2.5")
def updates_are_in_order(plan: CrlPlan) -> str | None:
    """The next update comes after this one; both are whole seconds with a zone."""
    times = (plan.this_update, plan.next_update)
    if any(at.tzinfo is None or at.microsecond for at in times):
        return "times need a zone and whole seconds"
    return None if plan.this_update < plan.next_update else f"next update {plan.next_update} is not after this one"


@lint("V03", "design §7")
def next_update_is_within_the_issuers_life(plan: CrlPlan) -> str | None:
    """A CRL is not good for longer than the CA that signed it."""
    return None if plan.next_update <= plan.issuer.not_after else f"its issuer ends at {plan.issuer.not_after}"


@lint("V04", "RFC 5280 §5.1.2.6")
def serials_are_distinct(plan: CrlPlan) -> str | None:
    """Each serial is listed once, and could be one of ours."""
    serials = {entry.serial for entry in plan.revoked}
    if len(serials) != len(plan.revoked):
        return "a serial is listed twice"
    bad = serials and not (min(serials) > 0 and max(serials) < _SERIAL_LIMIT)
    return "a serial is not one of 19 bytes above zero" if bad else None


@lint("V05", "RFC 5280 §5.3.1")
def reasons_are_known(plan: CrlPlan) -> str | None:
    """Reasons are those of complete CRLs."""
    unknown = sorted({entry.reason for entry in plan.revoked} - REASONS.keys())
    return f"no such reason: {', '.join(unknown)}" if unknown else None


CRL_LINTS: tuple[Lint[CrlPlan], ...] = (
    number_fits,
    updates_are_in_order,
    next_update_is_within_the_issuers_life,
    serials_are_distinct,
    reasons_are_known,
)


def check_crl(plan: CrlPlan) -> CheckedCrl:
    """Run every lint on the plan, encode it, and read the bytes back.

    Raises:
        LintError: a lint found something.
    """
    require(CRL_LINTS, plan)
    tbs = _tbs(plan)
    try:
        found = x509.load_der_x509_crl(assemble(tbs, plan.issuer.curve, _NO_SIGNATURE))
        if wrong := _difference(found, plan):
            raise LintError([f"V06 what was encoded is what was planned (RFC 5280 §5.1): another {wrong}"])
    except UNREADABLE as error:
        raise LintError([f"V00 the encoded bytes can be read (RFC 5280 §5.1): {error}"]) from error
    return CheckedCrl(_MAKER, plan, tbs)


def finish_crl(checked: CheckedCrl, signature: bytes) -> Crl:
    """Return the signed CRL, which is exactly the planned one.

    Raises:
        MisissueError: the signature is not the issuer's over these bytes, or the result cannot be read.
    """
    plan = checked.plan
    encoded = assemble(checked.tbs, plan.issuer.curve, signature)
    try:
        same = x509.load_der_x509_crl(encoded).tbs_certlist_bytes == checked.tbs
        plan.issuer.public_key.verify(signature, checked.tbs, plan.issuer.curve.ecdsa)
    except (InvalidSignature, *UNREADABLE) as error:
        raise MisissueError("the signature is not the issuer's", field=f"CRL {plan.number}") from error
    if not same:
        raise MisissueError("the signed CRL is not the planned one", field=f"CRL {plan.number}")
    return Crl(encoded, plan.number, plan.this_update, plan.next_update, plan.issuer.id)


def _tbs(plan: CrlPlan) -> bytes:
    """Return the TBSCertList (RFC 5280 §5.1.2); a list without entries leaves revokedCertificates out."""
    entries = b"".join([_entry(entry) for entry in plan.revoked])
    extensions = der.sequence(*(each.encoded for each in _extensions(plan)))
    return der.sequence(
        _VERSION_2,
        plan.issuer.curve.signature_algorithm,
        plan.issuer.subject,
        der.time(plan.this_update),
        der.time(plan.next_update),
        der.sequence(entries) if entries else b"",
        der.explicit(0, extensions),
    )


def _extensions(plan: CrlPlan) -> tuple[Wanted, ...]:
    number = Wanted(x509.CRLNumber(plan.number), critical=False)
    return authority_key(plan.issuer.key_identifier), number


def _entry(entry: RevokedEntry) -> bytes:
    # Read-back proves the shortcut taken here: serial, date and reason together stay under 128 bytes.
    size = entry.serial.bit_length() // 8 + 1
    content = bytes((0x02, size)) + entry.serial.to_bytes(size, "big") + der.time(entry.revoked_at)
    content += _reason(entry.reason)
    return bytes((0x30, len(content))) + content


@lru_cache(maxsize=len(REASONS))
def _reason(reason: str) -> bytes:
    """Return the entry's extensions; 'unspecified' is said by saying nothing (RFC 5280 §5.3.1)."""
    code = REASONS[reason]
    return der.sequence(der.extension(_ID_REASON_CODE, bytes((0x0A, 1, code)), critical=False)) if code else b""


def _difference(found: x509.CertificateRevocationList, plan: CrlPlan) -> str:
    """Return the name of the first field that differs from the plan, "" if none does."""
    if (found.last_update_utc, found.next_update_utc) != (plan.this_update, plan.next_update):
        return "time"
    if found.issuer.public_bytes() != plan.issuer.subject:
        return "issuer"
    if [(each.value, each.critical) for each in found.extensions] != [
        (each.value, each.critical) for each in _extensions(plan)
    ]:
        return "set of extensions"
    return "" if _same_entries(found, plan) else "entry"


def _same_entries(found: x509.CertificateRevocationList, plan: CrlPlan) -> bool:
    read = [(each.serial_number, each.revocation_date_utc, _reason_of(each)) for each in found]
    return read == [(each.serial, whole_seconds(each.revoked_at), each.reason) for each in plan.revoked]


def _reason_of(entry: x509.RevokedCertificate) -> str:
    """Return the name of the reason that is read, which is all that an entry may carry."""
    if len(entry.extensions) == 0:
        return "unspecified"
    (only,) = entry.extensions
    return only.value.reason.value if isinstance(only.value, x509.CRLReason) and not only.critical else ""


def _wrapped(encoded: bytes) -> bytes:
    text = base64.b64encode(encoded)
    return b"".join(text[at : at + 64] + b"\n" for at in range(0, len(text), 64))
