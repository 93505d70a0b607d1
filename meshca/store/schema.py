"""The tables, as the newest migration leaves them (the contract suite compares the two).

Rules:
- Times are whole microseconds (times.py), sets and specs are canonical JSON text, so that both databases hold the same.
- Trust is a set of CAs. `authorities.generation` is the trust generation that first carried the CA.
- A certificate's row begins as an intent (`pending`, with the whole TBS). Its result replaces the TBS, which stands
  inside the certificate byte for byte. A row is never deleted, but moves to the archive long after its expiry.
- Every list that people page through has an index in the order of pages, which is created_at (then serial).
"""

from __future__ import annotations

from typing import Any

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


def _optional_text(name: str) -> Column[str]:
    return Column(name, Text, nullable=True)


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
    # Since when, by whom and why nothing is issued; null: it is.
    _optional_number("frozen_at"),
    # The newest restore, and the time of the backup that it was made from (restoring.py); null: never restored.
    _optional_number("restored_at"),
    _optional_number("backup_at"),
    _optional_text("frozen_by"),
    _optional_text("frozen_reason"),
    # How often the set of keys that sign JWT-SVIDs has changed.
    Column("jwt_generation", BigInteger, nullable=False, server_default="0"),
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
    _optional_number("prepared_at"),
    _optional_number("activate_at"),
    _optional_number("activated_at"),
    _optional_number("retired_at"),
    _optional_number("tainted_at"),
    CheckConstraint("role IN ('root', 'intermediate', 'issuing')", name="role"),
    CheckConstraint("state IN ('prepared', 'active', 'old', 'removed')", name="state"),
)
# At most one active and one prepared CA of each role, whatever two replicas do at once.
for _state in ("active", "prepared"):
    Index(
        f"uq_authorities_{_state}",
        AUTHORITIES.c.role,
        unique=True,
        sqlite_where=text(f"state = '{_state}' AND role <> 'intermediate'"),
        postgresql_where=text(f"state = '{_state}' AND role <> 'intermediate'"),
    )

# Keys that sign JWT-SVIDs: no CAs, and in slots like theirs (authority/jwt_keys.py).
JWT_KEYS = Table(
    "jwt_keys",
    METADATA,
    Column("id", Text, primary_key=True),
    _text("state"),
    _number("generation"),
    _bytes("spki"),
    _text("key_ref"),
    _number("not_before"),
    _number("not_after"),
    _optional_number("prepared_at"),
    _optional_number("activate_at"),
    _optional_number("activated_at"),
    _optional_number("retired_at"),
    _optional_number("tainted_at"),
    CheckConstraint("state IN ('prepared', 'active', 'old', 'removed')", name="state"),
)
for _state in ("active", "prepared"):
    Index(
        f"uq_jwt_keys_{_state}",
        JWT_KEYS.c.state,
        unique=True,
        sqlite_where=text(f"state = '{_state}'"),
        postgresql_where=text(f"state = '{_state}'"),
    )

# Who follows the bundle of these keys, which generation they were given, and until when they count.
JWT_HOLDERS = Table(
    "jwt_holders",
    METADATA,
    Column("holder", Text, primary_key=True),
    _text("spiffe_id"),  # one that it may have
    _number("generation"),
    _number("until"),
)


def _certificates(name: str) -> Table:
    """Return a table of certificates with what its lists and pages need."""
    table = Table(
        name,
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
        _optional_text("revocation_reason"),
        _optional_number("revocation_listed_until"),
        CheckConstraint("state IN ('pending', 'issued', 'abandoned')", name="state"),
    )
    # Rows that were created in the same microsecond are few: the serial is sorted, not indexed. The expiry comes last,
    # so that a walk for valid or expired ones passes over the others without reading their rows.
    Index(f"ix_{name}_created_at", table.c.created_at, table.c.not_after)
    Index(f"ix_{name}_spiffe_id", table.c.spiffe_id, table.c.created_at, table.c.not_after)
    Index(f"ix_{name}_issuer_id", table.c.issuer_id, table.c.created_at, table.c.not_after)
    Index(f"ix_{name}_not_after", table.c.not_after, table.c.created_at)
    # Partial: what is rare and asked for often costs the common certificate next to nothing.
    _partial(f"ix_{name}_unissued", "state <> 'issued'", table.c.state, table.c.created_at)
    _partial(f"ix_{name}_revoked", "revoked_at IS NOT NULL", table.c.created_at)
    # What a CRL is made of.
    _partial(f"ix_{name}_revoked_by_issuer", "revoked_at IS NOT NULL", table.c.issuer_id, table.c.not_after)
    return table


def _partial(name: str, which: str, *columns: Column[Any]) -> None:
    Index(name, *columns, sqlite_where=text(which), postgresql_where=text(which))


CERTIFICATES = _certificates("certificates")
# What has expired long ago (retention.py); the same columns and lists.
ARCHIVED_CERTIFICATES = _certificates("archived_certificates")

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
    Column("issuer_id", Text, nullable=False, server_default=""),  # of the leaf that the holder has acknowledged
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

# What each of the newest revisions has replaced: the object as it was before; null: there was none.
REPLACED = Table(
    "replaced_objects",
    METADATA,
    _number("revision"),
    _text("mesh"),
    _text("kind"),
    _text("parent"),
    _text("name"),
    _optional_text("spec"),
    PrimaryKeyConstraint("revision", "mesh", "kind", "parent", "name"),
)

# Where virtual nodes are that no DNS finds; port 0: the listener's own.
ENDPOINTS = Table(
    "endpoints",
    METADATA,
    _text("mesh"),
    _text("node"),
    _text("address"),
    Column("port", Integer, nullable=False),
    _number("created_at"),
    PrimaryKeyConstraint("mesh", "node", "address", "port"),
)

REGISTRATIONS = Table(
    "registrations",
    METADATA,
    Column("id", Text, primary_key=True),
    _text("spiffe_id"),
    _text("selectors"),
    _text("parent"),
    _number("created_at"),
    Column("federates_with", Text, nullable=False, server_default="[]"),
    UniqueConstraint("spiffe_id", "selectors", "parent"),
)

# Federated trust domains: where their bundles come from, and the newest, as it was fetched.
FEDERATIONS = Table(
    "federations",
    METADATA,
    Column("trust_domain", Text, primary_key=True),
    _text("url"),
    _text("profile"),
    _text("endpoint_id"),
    _bytes("bundle"),
    _optional_number("sequence"),
    _number("due_at"),
    _optional_number("fetched_at"),
    _text("failure"),
    _number("added_at"),
    CheckConstraint("profile IN ('https_spiffe', 'https_web')", name="profile"),
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

# What replicas have to hear of, by whom and in the order of commits (changes.py).
CHANGES = Table(
    "changes",
    METADATA,
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    _text("origin"),
    _text("topic"),
    _text("subject"),
)

# The request for an issuing CA's certificate, of an upstream that answers offline; answered once its CA is known.
CA_REQUESTS = Table(
    "ca_requests",
    METADATA,
    Column("role", Text, primary_key=True),
    _text("key_id"),
    _text("key_ref"),
    _bytes("csr"),
    _number("created_at"),
)

# Private keys of CAs, each sealed under the passphrase and bound to its id, role, trust domain and generation.
SEALED_KEYS = Table(
    "sealed_keys",
    METADATA,
    Column("key_id", Text, primary_key=True),
    _text("role"),
    _bytes("sealed"),
    _number("created_at"),
)

# Who may call over TCP, beside agents: the name in /meshca/admin/<name>, and what it may do.
ADMINS = Table(
    "admins",
    METADATA,
    Column("name", Text, primary_key=True),
    _text("role"),
    _number("added_at"),
    _text("added_by"),
    CheckConstraint("role IN ('viewer', 'operator', 'admin')", name="role"),
)

# Node agents that have attested; ``serial`` and ``not_after`` are of their newest certificate.
AGENTS = Table(
    "agents",
    METADATA,
    Column("id", Text, primary_key=True),
    _text("method"),
    _number("attested_at"),
    _text("serial"),
    _number("not_after"),
)

# What an agent may join with, once: only a hash of it; burnt by the key (SHA-256 of its SPKI) that came with it.
JOIN_TOKENS = Table(
    "join_tokens",
    METADATA,
    Column("secret_hash", Text, primary_key=True),
    _text("agent_id"),
    _number("created_at"),
    _text("created_by"),
    _number("expires_at"),
    _optional_number("burnt_at"),
    _optional_text("burnt_by"),
)
