"""Rotation: when each CA changed its state, CAs of an upstream, and whose leaf each holder has acknowledged."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_MOMENTS = ("prepared_at", "activate_at", "activated_at", "retired_at", "tainted_at")


def upgrade() -> None:
    """Make the table of CAs anew with its few rows: SQLite cannot change a check in place."""
    connection = op.get_bind()
    rows = [dict(row) for row in connection.execute(sa.text("SELECT * FROM authorities")).mappings()]
    op.drop_index("uq_authorities_active", "authorities")
    op.drop_table("authorities")
    table = _authorities()
    for row in rows:
        moments = dict.fromkeys(_MOMENTS) | {"prepared_at": row["not_before"], "activated_at": row["not_before"]}
        connection.execute(table.insert().values(**row, **moments))
    op.add_column("acknowledgements", sa.Column("issuer_id", sa.Text(), nullable=False, server_default=""))


def _authorities() -> sa.Table:
    table = op.create_table(
        "authorities",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("certificate", sa.LargeBinary(), nullable=False),
        sa.Column("parent_id", sa.Text(), nullable=False),
        sa.Column("key_ref", sa.Text(), nullable=False),
        sa.Column("not_before", sa.BigInteger(), nullable=False),
        sa.Column("not_after", sa.BigInteger(), nullable=False),
        *(sa.Column(name, sa.BigInteger(), nullable=True) for name in _MOMENTS),
        sa.CheckConstraint("role IN ('root', 'intermediate', 'issuing')", name=op.f("ck_authorities_role")),
        sa.CheckConstraint("state IN ('prepared', 'active', 'old', 'removed')", name=op.f("ck_authorities_state")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_authorities")),
    )
    for state in ("active", "prepared"):
        only = sa.text(f"state = '{state}' AND role <> 'intermediate'")
        op.create_index(
            f"uq_authorities_{state}", "authorities", ["role"], unique=True, sqlite_where=only, postgresql_where=only
        )
    return table
