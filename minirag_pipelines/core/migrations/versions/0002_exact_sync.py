"""What went wrong with a document, what is to be forgotten, and which run embedded a text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    # Past SQLAlchemy, which would take a colon or a per cent sign in the file for a parameter.
    connection: Any = op.get_bind().connection.driver_connection
    connection.execute(Path(__file__).with_suffix(".sql").read_text())
