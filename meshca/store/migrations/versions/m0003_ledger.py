"""The archive of the ledger, a freeze, and what a restored database remembers of its backup."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_TABLE = "archived_certificates"
_IN_ORDER = {
    "created_at": ["created_at", "not_after"],
    "issuer_id": ["issuer_id", "created_at", "not_after"],
    "spiffe_id": ["spiffe_id", "created_at", "not_after"],
}


def upgrade() -> None:
    """Add the archive and the new columns of the realm, and make wider what lists are walked by."""
    _archive()
    for name, columns in _IN_ORDER.items():
        op.drop_index(f"ix_certificates_{name}", "certificates")
        op.create_index(f"ix_certificates_{name}", "certificates", columns, unique=False)
    for name in ("frozen_at", "restored_at", "backup_at"):
        op.add_column("realm", sa.Column(name, sa.BigInteger(), nullable=True))
    for name in ("frozen_by", "frozen_reason"):
        op.add_column("realm", sa.Column(name, sa.Text(), nullable=True))


def _archive() -> None:
    op.create_table(
        _TABLE,
        sa.Column("serial", sa.Text(), nullable=False),
        sa.Column("spiffe_id", sa.Text(), nullable=False),
        sa.Column("issuer_id", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("tbs", sa.LargeBinary(), nullable=True),
        sa.Column("certificate", sa.LargeBinary(), nullable=True),
        sa.Column("not_before", sa.BigInteger(), nullable=False),
        sa.Column("not_after", sa.BigInteger(), nullable=False),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("requested_by", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("revoked_at", sa.BigInteger(), nullable=True),
        sa.Column("revocation_reason", sa.Text(), nullable=True),
        sa.Column("revocation_listed_until", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("state IN ('pending', 'issued', 'abandoned')", name=op.f("ck_archived_certificates_state")),
        sa.PrimaryKeyConstraint("serial", name=op.f("pk_archived_certificates")),
    )
    for name, columns in (*_IN_ORDER.items(), ("not_after", ["not_after", "created_at"])):
        op.create_index(f"ix_{_TABLE}_{name}", _TABLE, columns, unique=False)
    for name, columns, which in (
        ("unissued", ["state", "created_at"], "state <> 'issued'"),
        ("revoked", ["created_at"], "revoked_at IS NOT NULL"),
        ("revoked_by_issuer", ["issuer_id", "not_after"], "revoked_at IS NOT NULL"),
    ):
        op.create_index(
            f"ix_{_TABLE}_{name}",
            _TABLE,
            columns,
            unique=False,
            sqlite_where=sa.text(which),
            postgresql_where=sa.text(which),
        )
