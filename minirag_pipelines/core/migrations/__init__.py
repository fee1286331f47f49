"""The schema's history: numbered SQL files, applied by Alembic. One that has been merged is never edited."""
