"""Endpoints of nodes that no DNS finds, and what each of the newest revisions has replaced, to go back to."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "endpoints",
        sa.Column("mesh", sa.Text(), nullable=False),
        sa.Column("node", sa.Text(), nullable=False),
        sa.Column("address", sa.Text(), nullable=False),
        sa.Column("port", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("mesh", "node", "address", "port", name=op.f("pk_endpoints")),
    )
    op.create_table(
        "replaced_objects",
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("mesh", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("parent", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("spec", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("revision", "mesh", "kind", "parent", "name", name=op.f("pk_replaced_objects")),
    )
