"""Values that the store's tests share."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from meshca.authority.audit import AuditEntry
from meshca.authority.lifetimes import Lifetimes
from meshca.authority.ports import Intent, Revocation
from meshca.authority.records import AuthorityRecord, CertificateRecord, Realm, Role
from meshca.spiffe.id import SpiffeId, TrustDomain

T0 = datetime(2026, 11, 25, 12, 0, 0, 123456, tzinfo=UTC)
HOUR = timedelta(hours=1)
SECOND = timedelta(seconds=1)
ISSUER = "ab" * 10
WEB = SpiffeId.parse("spiffe://m.test/mesh/shop/virtualNode/web")
API = SpiffeId.parse("spiffe://m.test/mesh/shop/virtualNode/api")
REALM = Realm(trust_domain=TrustDomain("m.test"), lifetimes=Lifetimes(), created_at=T0)
LEAK = Revocation(at=T0 + SECOND, reason="keyCompromise", actor="uid:0")


def entry(action: str = "issue", subject: str = "x", outcome: str = "ok", reason: str = "") -> AuditEntry:
    """An audit entry with one field of interest."""
    return AuditEntry(action=action, subject=subject, outcome=outcome, reason=reason, actor="uid:0")


def serial(number: int) -> str:
    """A serial of the usual length."""
    return f"{number:038x}"


def intent(number: int, spiffe_id: SpiffeId = WEB, created_at: datetime = T0, life: timedelta = HOUR) -> Intent:
    """An intent; the number makes serial and holder."""
    return Intent(
        serial=serial(number),
        spiffe_id=spiffe_id,
        issuer_id=ISSUER,
        tbs=b"tbs",
        not_before=created_at,
        not_after=created_at + life,
        holder=f"stream:{number}",
        kind="stream",
        requested_by="uid:1000",
        created_at=created_at,
    )


def authority(name: str, role: Role = "root", certificate: bytes = b"der") -> AuthorityRecord:
    """An active CA of generation 1."""
    return AuthorityRecord(
        id=name,
        role=role,
        state="active",
        generation=1,
        certificate=certificate,
        parent_id=name,
        key_ref=f"file:{name}",
        not_before=T0,
        not_after=T0 + 1000 * HOUR,
    )


def no_audit(_: Sequence[bool] | Sequence[CertificateRecord]) -> Sequence[AuditEntry]:
    """What a caller gives who has nothing to say."""
    return ()
