"""The servers of a test run: real ones, in a folder that goes away with the run."""

from __future__ import annotations

from pathlib import Path

from minirag_pipelines.stack.chroma import ChromaServer
from minirag_pipelines.stack.postgres import Postgres


def start_test_postgres(folder: Path) -> Postgres:
    """A running PostgreSQL that does not wait for the disk. The caller stops it."""
    postgres = Postgres(folder)
    postgres.start(durable=False)
    return postgres


def start_test_chroma(folder: Path) -> ChromaServer:
    """A running Chroma. The caller stops it."""
    chroma = ChromaServer(folder)
    chroma.start()
    return chroma
