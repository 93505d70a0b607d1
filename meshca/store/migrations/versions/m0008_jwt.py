"""Keys that sign JWT-SVIDs, who follows their bundle, and how often it has changed."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Make the tables, and the count."""
    op.add_column("realm", sa.Column("jwt_generation", sa.BigInteger(), nullable=False, server_default="0"))
    op.create_table(
        "jwt_keys",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("spki", sa.LargeBinary(), nullable=False),
        sa.Column("key_ref", sa.Text(), nullable=False),
        sa.Column("not_before", sa.BigInteger(), nullable=False),
        sa.Column("not_after", sa.BigInteger(), nullable=False),
        sa.Column("prepared_at", sa.BigInteger(), nullable=True),
        sa.Column("activate_at", sa.BigInteger(), nullable=True),
        sa.Column("activated_at", sa.BigInteger(), nullable=True),
        sa.Column("retired_at", sa.BigInteger(), nullable=True),
        sa.Column("tainted_at", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("state IN ('prepared', 'active', 'old', 'removed')", name=op.f("ck_jwt_keys_state")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_jwt_keys")),
    )
    for state in ("active", "prepared"):
        op.create_index(
            f"uq_jwt_keys_{state}",
            "jwt_keys",
            ["state"],
            unique=True,
            sqlite_where=sa.text(f"state = '{state}'"),
            postgresql_where=sa.text(f"state = '{state}'"),
        )
    op.create_table(
        "jwt_holders",
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("spiffe_id", sa.Text(), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("until", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("holder", name=op.f("pk_jwt_holders")),
    )
