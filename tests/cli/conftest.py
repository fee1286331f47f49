"""The command with the test's stores, and a tenant of one document."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.cli.command import Command
from tests.cli.forking import Forks
from tests.fakes import OpenAIServer

FERRY = "# Ferries\n\nThe night ferry to Norhaven leaves at 22:40 from pier four.\n"


@pytest.fixture(scope="session")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    with Forks(tmp_path_factory.mktemp("forks")) as started:
        yield started


@pytest.fixture
def minirag(
    tmp_path: Path, database_url: str, chroma_url: str, provider: OpenAIServer, forks: Forks
) -> Iterator[Command]:
    environment = os.environ | {
        "MINIRAG_HOME": str(tmp_path / "home"),
        "MINIRAG_DATABASE_URL": database_url,
        "MINIRAG_CHROMA_URL": chroma_url,
        "COLUMNS": "200",
        "MINIRAG_PARSE_WORKERS": "1",
    }
    (tmp_path / "docs").mkdir()
    yield Command(tmp_path, environment, forks=forks)
    with psycopg.connect(database_url, autocommit=True) as admin:
        name = database_url.rsplit("/", 1)[1]
        admin.execute(f"DROP DATABASE IF EXISTS {name}_dagster WITH (FORCE)")


@pytest.fixture
def acme(minirag: Command) -> Command:
    (minirag.folder / "docs" / "ferry.md").write_text(FERRY)
    assert minirag.run("tenant", "add", "acme", "--embedding-model", "openai/text-embedding-3-small").returncode == 0
    assert minirag.run("source", "add", "acme", "files", "--name", "docs", "--path", "docs").returncode == 0
    return minirag
