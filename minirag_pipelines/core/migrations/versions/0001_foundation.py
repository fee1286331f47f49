"""Tenants, catalog, documents, versions, chunks, embeddings, generations: the shape of all state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    # Past SQLAlchemy, which would take a colon or a per cent sign in the file for a parameter.
    connection: Any = op.get_bind().connection.driver_connection
    connection.execute(Path(__file__).with_suffix(".sql").read_text())
