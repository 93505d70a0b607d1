"""Federated trust domains, and which registrations may have their bundles."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Make the table, and the column."""
    op.add_column("registrations", sa.Column("federates_with", sa.Text(), nullable=False, server_default="[]"))
    op.create_table(
        "federations",
        sa.Column("trust_domain", sa.Text(), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("profile", sa.Text(), nullable=False),
        sa.Column("endpoint_id", sa.Text(), nullable=False),
        sa.Column("bundle", sa.LargeBinary(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=True),
        sa.Column("due_at", sa.BigInteger(), nullable=False),
        sa.Column("fetched_at", sa.BigInteger(), nullable=True),
        sa.Column("failure", sa.Text(), nullable=False),
        sa.Column("added_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("trust_domain", name=op.f("pk_federations")),
        sa.CheckConstraint("profile IN ('https_spiffe', 'https_web')", name=op.f("ck_federations_profile")),
    )
