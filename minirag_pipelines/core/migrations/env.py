"""Runs inside Alembic: applies the pending versions on the connection that `schema.migrate` hands over."""

from __future__ import annotations

from alembic import context

connection = context.config.attributes["connection"]
context.configure(connection=connection, version_table_schema="minirag")
with context.begin_transaction():
    context.run_migrations()
