"""Alembic's entry point: run the migrations on the connection, and in the transaction, that the caller gives."""

from __future__ import annotations

from alembic import context

from meshca.store.schema import METADATA

context.configure(connection=context.config.attributes["connection"], target_metadata=METADATA)
with context.begin_transaction():
    context.run_migrations()
