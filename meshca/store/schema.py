"""The tables, as the newest migration leaves them (the contract suite compares the two).

Rules:
- Times are whole microseconds (times.py), sets and specs are canonical JSON text, so that both databases hold the same.
- Trust is a set of CAs. `authorities.generation` is the trust generation that first carried the CA.
- A certificate's row begins as an intent (`pending`, with the whole TBS). Its result replaces the TBS, which stands
  inside the certificate byte for byte. A row is never deleted here.
- Every list that people page through has an index that ends in created_at, as the order of pages does (then serial).
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    text,
)

METADATA = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _text(name: str) -> Column[str]:
    return Column(name, Text, nullable=False)


def _number(name: str) -> Column[int]:
    return Column(name, BigInteger, nullable=False)


def _optional_number(name: str) -> Column[int]:
    return Column(name, BigInteger, nullable=True)


def _bytes(name: str) -> Column[bytes]:
    return Column(name, LargeBinary, nullable=False)


REALM = Table(
    "realm",
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=False),
    _text("trust_domain"),
    _number("created_at"),
    _number("trust_generation"),
    _number("mesh_revision"),
    _text("lifetimes"),
    CheckConstraint("id = 1", name="one_row"),
)

AUTHORITIES = Table(
    "authorities",
    METADATA,
    Column("id", Text, primary_key=True),
    _text("role"),
    _text("state"),
    _number("generation"),
    _bytes("certificate"),
    _text("parent_id"),
    _text("key_ref"),
    _number("not_before"),
    _number("not_after"),
    CheckConstraint("role IN ('root', 'issuing')", name="role"),
    CheckConstraint("state IN ('prepared', 'active', 'old', 'removed')", name="state"),
)
# At most one active CA of each role, whatever two replicas do at once.
Index(
    "uq_authorities_active",
    AUTHORITIES.c.role,
    unique=True,
    sqlite_where=text("state = 'active'"),
    postgresql_where=text("state = 'active'"),
)

CERTIFICATES = Table(
    "certificates",
    METADATA,
    Column("serial", Text, primary_key=True),
    _text("spiffe_id"),
    _text("issuer_id"),
    _text("state"),
    Column("tbs", LargeBinary, nullable=True),
    Column("certificate", LargeBinary, nullable=True),
    _number("not_before"),
    _number("not_after"),
    _text("holder"),
    _text("kind"),
    _text("requested_by"),
    _number("created_at"),
    _optional_number("revoked_at"),
    Column("revocation_reason", Text, nullable=True),
    _optional_number("revocation_listed_until"),
    CheckConstraint("state IN ('pending', 'issued', 'abandoned')", name="state"),
)
# Rows that were created in the same microsecond are few: the serial is sorted, not indexed.
Index("ix_certificates_created_at", CERTIFICATES.c.created_at)
Index("ix_certificates_spiffe_id", CERTIFICATES.c.spiffe_id, CERTIFICATES.c.created_at)
Index("ix_certificates_issuer_id", CERTIFICATES.c.issuer_id, CERTIFICATES.c.created_at)
Index("ix_certificates_not_after", CERTIFICATES.c.not_after, CERTIFICATES.c.created_at)
# Partial: what is rare and asked for often costs the common certificate next to nothing.
Index(
    "ix_certificates_unissued",
    CERTIFICATES.c.state,
    CERTIFICATES.c.created_at,
    sqlite_where=text("state <> 'issued'"),
    postgresql_where=text("state <> 'issued'"),
)
Index(
    "ix_certificates_revoked",
    CERTIFICATES.c.created_at,
    sqlite_where=text("revoked_at IS NOT NULL"),
    postgresql_where=text("revoked_at IS NOT NULL"),
)
# What a CRL is made of.
Index(
    "ix_certificates_revoked_by_issuer",
    CERTIFICATES.c.issuer_id,
    CERTIFICATES.c.not_after,
    sqlite_where=text("revoked_at IS NOT NULL"),
    postgresql_where=text("revoked_at IS NOT NULL"),
)

CRLS = Table(
    "crls",
    METADATA,
    _text("issuer_id"),
    _number("number"),
    _number("this_update"),
    _number("next_update"),
    _bytes("der"),
    PrimaryKeyConstraint("issuer_id", "number"),
)

SUSPENSIONS = Table(
    "suspensions",
    METADATA,
    Column("spiffe_id", Text, primary_key=True),
    _number("since"),
    _text("reason"),
    _text("actor"),
)

ACKNOWLEDGEMENTS = Table(
    "acknowledgements",
    METADATA,
    _text("holder"),
    _text("kind"),
    _text("spiffe_id"),
    _number("generation"),
    _number("at"),
    PrimaryKeyConstraint("holder", "spiffe_id"),
)

NACKS = Table(
    "nacks",
    METADATA,
    _text("node"),
    _text("content_hash"),
    _text("type_url"),
    _text("message"),
    _number("at"),
    PrimaryKeyConstraint("node", "content_hash"),
)

DRAIN_EPOCHS = Table("drain_epochs", METADATA, Column("scope", Text, primary_key=True), _number("value"))

OBJECTS = Table(
    "objects",
    METADATA,
    _text("mesh"),
    _text("kind"),
    _text("parent"),
    _text("name"),
    _text("spec"),
    _number("revision"),
    PrimaryKeyConstraint("mesh", "kind", "parent", "name"),
)

REVISIONS = Table(
    "revisions",
    METADATA,
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    _number("at"),
    _text("actor"),
    _text("summary"),
)

REGISTRATIONS = Table(
    "registrations",
    METADATA,
    Column("id", Text, primary_key=True),
    _text("spiffe_id"),
    _text("selectors"),
    _text("parent"),
    _number("created_at"),
    UniqueConstraint("spiffe_id", "selectors", "parent"),
)

AUDIT = Table(
    "audit",
    METADATA,
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
    PrimaryKeyConstraint("writer", "seq"),
    CheckConstraint("outcome IN ('ok', 'refused', 'failed')", name="outcome"),
    sqlite_with_rowid=False,
)
# The tail over all writers.
Index("ix_audit_at", AUDIT.c.at, AUDIT.c.writer, AUDIT.c.seq)

AUDIT_CHECKPOINTS = Table(
    "audit_checkpoints",
    METADATA,
    _text("writer"),
    _number("seq"),
    _text("hash"),
    _number("at"),
    _text("signer_id"),
    _bytes("signature"),
    PrimaryKeyConstraint("writer", "seq"),
)

LEASES = Table(
    "leases",
    METADATA,
    Column("name", Text, primary_key=True),
    _text("holder"),
    _number("epoch"),
    _number("expires_at"),
)
