"""What a document was before, so that it can be deleted; what a generation lacks of another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    # Past SQLAlchemy, which would take a colon or a per cent sign in the file for a parameter.
    connection: Any = op.get_bind().connection.driver_connection
    connection.execute(Path(__file__).with_suffix(".sql").read_text())
