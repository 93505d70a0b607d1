"""The first schema: realm, trust, ledger, acknowledgements, meshes, registrations, audit."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make every table; there is no way back but a backup."""
    _acknowledgements()
    _audit()
    _audit_checkpoints()
    _authorities()
    _certificates()
    _crls()
    _drain_epochs()
    _leases()
    _nacks()
    _objects()
    _realm()
    _registrations()
    _revisions()
    _suspensions()


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text(), nullable=False)


def _number(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), nullable=False)


def _acknowledgements() -> None:
    op.create_table(
        "acknowledgements",
        _text("holder"),
        _text("kind"),
        _text("spiffe_id"),
        _number("generation"),
        _number("at"),
        sa.PrimaryKeyConstraint("holder", "spiffe_id", name=op.f("pk_acknowledgements")),
    )


def _audit() -> None:
    op.create_table(
        "audit",
        _text("writer"),
        _number("seq"),
        _number("at"),
        _text("actor"),
        _text("action"),
        _text("subject"),
        _text("outcome"),
        _text("reason"),
        _text("previous"),
        _text("hash"),
        sa.CheckConstraint("outcome IN ('ok', 'refused', 'failed')", name=op.f("ck_audit_outcome")),
        sa.PrimaryKeyConstraint("writer", "seq", name=op.f("pk_audit")),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_audit_at", "audit", ["at", "writer", "seq"], unique=False)


def _audit_checkpoints() -> None:
    op.create_table(
        "audit_checkpoints",
        _text("writer"),
        _number("seq"),
        _text("hash"),
        _number("at"),
        _text("signer_id"),
        sa.Column("signature", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("writer", "seq", name=op.f("pk_audit_checkpoints")),
    )


def _authorities() -> None:
    op.create_table(
        "authorities",
        _text("id"),
        _text("role"),
        _text("state"),
        _number("generation"),
        sa.Column("certificate", sa.LargeBinary(), nullable=False),
        _text("parent_id"),
        _text("key_ref"),
        _number("not_before"),
        _number("not_after"),
        sa.CheckConstraint("role IN ('root', 'issuing')", name=op.f("ck_authorities_role")),
        sa.CheckConstraint("state IN ('prepared', 'active', 'old', 'removed')", name=op.f("ck_authorities_state")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_authorities")),
    )
    op.create_index(
        "uq_authorities_active",
        "authorities",
        ["role"],
        unique=True,
        sqlite_where=sa.text("state = 'active'"),
        postgresql_where=sa.text("state = 'active'"),
    )


def _certificates() -> None:
    op.create_table(
        "certificates",
        _text("serial"),
        _text("spiffe_id"),
        _text("issuer_id"),
        _text("state"),
        sa.Column("tbs", sa.LargeBinary(), nullable=True),
        sa.Column("certificate", sa.LargeBinary(), nullable=True),
        _number("not_before"),
        _number("not_after"),
        _text("holder"),
        _text("kind"),
        _text("requested_by"),
        _number("created_at"),
        sa.Column("revoked_at", sa.BigInteger(), nullable=True),
        sa.Column("revocation_reason", sa.Text(), nullable=True),
        sa.Column("revocation_listed_until", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("state IN ('pending', 'issued', 'abandoned')", name=op.f("ck_certificates_state")),
        sa.PrimaryKeyConstraint("serial", name=op.f("pk_certificates")),
    )
    op.create_index("ix_certificates_created_at", "certificates", ["created_at"], unique=False)
    op.create_index("ix_certificates_issuer_id", "certificates", ["issuer_id", "created_at"], unique=False)
    op.create_index("ix_certificates_not_after", "certificates", ["not_after", "created_at"], unique=False)
    op.create_index(
        "ix_certificates_unissued",
        "certificates",
        ["state", "created_at"],
        unique=False,
        sqlite_where=sa.text("state <> 'issued'"),
        postgresql_where=sa.text("state <> 'issued'"),
    )
    op.create_index(
        "ix_certificates_revoked",
        "certificates",
        ["created_at"],
        unique=False,
        sqlite_where=sa.text("revoked_at IS NOT NULL"),
        postgresql_where=sa.text("revoked_at IS NOT NULL"),
    )
    op.create_index(
        "ix_certificates_revoked_by_issuer",
        "certificates",
        ["issuer_id", "not_after"],
        unique=False,
        sqlite_where=sa.text("revoked_at IS NOT NULL"),
        postgresql_where=sa.text("revoked_at IS NOT NULL"),
    )
    op.create_index("ix_certificates_spiffe_id", "certificates", ["spiffe_id", "created_at"], unique=False)


def _crls() -> None:
    op.create_table(
        "crls",
        _text("issuer_id"),
        _number("number"),
        _number("this_update"),
        _number("next_update"),
        sa.Column("der", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("issuer_id", "number", name=op.f("pk_crls")),
    )


def _drain_epochs() -> None:
    op.create_table(
        "drain_epochs", _text("scope"), _number("value"), sa.PrimaryKeyConstraint("scope", name=op.f("pk_drain_epochs"))
    )


def _leases() -> None:
    op.create_table(
        "leases",
        _text("name"),
        _text("holder"),
        _number("epoch"),
        _number("expires_at"),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_leases")),
    )


def _nacks() -> None:
    op.create_table(
        "nacks",
        _text("node"),
        _text("content_hash"),
        _text("type_url"),
        _text("message"),
        _number("at"),
        sa.PrimaryKeyConstraint("node", "content_hash", name=op.f("pk_nacks")),
    )


def _objects() -> None:
    op.create_table(
        "objects",
        _text("mesh"),
        _text("kind"),
        _text("parent"),
        _text("name"),
        _text("spec"),
        _number("revision"),
        sa.PrimaryKeyConstraint("mesh", "kind", "parent", "name", name=op.f("pk_objects")),
    )


def _realm() -> None:
    op.create_table(
        "realm",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        _text("trust_domain"),
        _number("created_at"),
        _number("trust_generation"),
        _number("mesh_revision"),
        _text("lifetimes"),
        sa.CheckConstraint("id = 1", name=op.f("ck_realm_one_row")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_realm")),
    )


def _registrations() -> None:
    op.create_table(
        "registrations",
        _text("id"),
        _text("spiffe_id"),
        _text("selectors"),
        _text("parent"),
        _number("created_at"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_registrations")),
        sa.UniqueConstraint(
            "spiffe_id", "selectors", "parent", name=op.f("uq_registrations_spiffe_id_selectors_parent")
        ),
    )


def _revisions() -> None:
    op.create_table(
        "revisions",
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        _number("at"),
        _text("actor"),
        _text("summary"),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_revisions")),
    )


def _suspensions() -> None:
    op.create_table(
        "suspensions",
        _text("spiffe_id"),
        _number("since"),
        _text("reason"),
        _text("actor"),
        sa.PrimaryKeyConstraint("spiffe_id", name=op.f("pk_suspensions")),
    )
