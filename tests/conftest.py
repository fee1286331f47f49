"""Real servers for the whole test run, and for each test a database of its own."""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from minirag_pipelines.core.database import Database
from minirag_pipelines.core.settings import settings
from minirag_pipelines.core.vector_store import VectorStore
from minirag_pipelines.stack.files import locked
from tests.fakes import OpenAIServer
from tests.servers import start_test_chroma, start_test_postgres
from tests.syncs import Starter
from tests.workbench import Workbench
from tests.worlds import Worlds

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
TEMPLATE = "minirag_template"


def pytest_configure(config: pytest.Config) -> None:
    """The controller of a parallel run makes the folder of the servers; its workers are told where it is."""
    if not hasattr(config, "workerinput"):
        config.minirag_servers = Path(tempfile.mkdtemp(prefix="minirag-tests-"))  # type: ignore[attr-defined]
        # PostgreSQL may run under another account than ours.
        config.minirag_servers.chmod(0o755)  # type: ignore[attr-defined]
    # What the machine has set must not reach a test.
    for name in [name for name in os.environ if name.startswith(("MINIRAG_", "DAGSTER_", "OPENAI_"))]:
        del os.environ[name]


class _TellWorkers:
    def pytest_configure_node(self, node: object) -> None:
        node.workerinput["minirag_servers"] = str(node.config.minirag_servers)  # type: ignore[attr-defined]


def pytest_plugin_registered(plugin: object, manager: pytest.PytestPluginManager) -> None:
    """Only where pytest-xdist is at work does its hook exist."""
    if manager.hasplugin("dsession") and not manager.hasplugin("minirag-tell-workers"):
        manager.register(_TellWorkers(), "minirag-tell-workers")


def pytest_unconfigure(config: pytest.Config) -> None:
    folder = getattr(config, "minirag_servers", None)
    if folder is not None:
        from minirag_pipelines.stack.chroma import ChromaServer
        from minirag_pipelines.stack.postgres import Postgres

        if (folder / "started").exists():
            ChromaServer(folder).stop()
            Postgres(folder).stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def servers(request: pytest.FixtureRequest) -> tuple[str, str]:
    """The URL of PostgreSQL's administrator and of Chroma, started by the first test that asks."""
    config = request.config
    told = getattr(config, "workerinput", {}).get("minirag_servers")
    folder = Path(told) if told else config.minirag_servers  # type: ignore[attr-defined]
    with locked(folder / "tests.lock"):
        (folder / "started").touch()
        postgres, chroma = start_test_postgres(folder), start_test_chroma(folder)
        _make_template(postgres.admin_url)
    return postgres.admin_url, chroma.url


def _make_template(admin_url: str) -> None:
    from minirag_pipelines.core.schema import migrate

    with psycopg.connect(admin_url, autocommit=True) as connection:
        if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [TEMPLATE]).fetchone() is None:
            connection.execute(f"CREATE DATABASE {TEMPLATE}")
            migrate(_in_database(admin_url, TEMPLATE))


def _in_database(url: str, database: str) -> str:
    return url.rsplit("/", 1)[0] + "/" + database


@pytest.fixture
def new_database(servers: tuple[str, str]) -> Iterator[str]:
    """The URL of an empty database of the test's own, as the administrator."""
    yield from _cloned(servers[0], "template1")


@pytest.fixture
def database_url(servers: tuple[str, str]) -> Iterator[str]:
    """The URL of a migrated database of the test's own, as the administrator."""
    yield from _cloned(servers[0], TEMPLATE)


def _cloned(admin_url: str, template: str) -> Iterator[str]:
    name = f"test_{uuid.uuid4().hex}"
    with psycopg.connect(admin_url, autocommit=True) as connection:
        # Copies of one template wait for each other.
        connection.execute("SELECT pg_advisory_lock(1)")
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY")
    yield _in_database(admin_url, name)
    with psycopg.connect(admin_url, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    with Database(database_url) as opened:
        yield opened


@pytest.fixture
def chroma_url(servers: tuple[str, str]) -> str:
    return servers[1]


@pytest.fixture
def vectors(chroma_url: str) -> VectorStore:
    return VectorStore(chroma_url)


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenAIServer]:
    """A provider that speaks OpenAI's protocol, as the default one of this process and of those it starts."""
    with OpenAIServer() as server:
        monkeypatch.setenv("OPENAI_API_BASE", server.url)
        monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
        yield server


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, database_url: str, chroma_url: str) -> Iterator[None]:
    """The test's stores in the environment, as production has them."""
    monkeypatch.setenv("MINIRAG_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MINIRAG_DATABASE_URL", database_url)
    monkeypatch.setenv("MINIRAG_CHROMA_URL", chroma_url)
    settings.cache_clear()
    yield
    settings.cache_clear()


@pytest.fixture
def workbench(database: Database, vectors: VectorStore, provider: OpenAIServer, tmp_path: Path) -> Iterator[Workbench]:
    """A tenant `acme` with a folder, whose stages a test runs one by one or all."""
    folder = tmp_path / "documents"
    folder.mkdir()
    bench = Workbench(database, vectors, provider, folder)
    bench.add_tenant()
    yield bench
    bench.drop_collections()


@pytest.fixture(scope="session")
def starter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Starter]:
    """Starts syncs as processes of their own."""
    with Starter(tmp_path_factory.mktemp("syncs")) as started:
        yield started


@pytest.fixture
def worlds(workbench: Workbench, starter: Starter, chroma_url: str, tmp_path: Path) -> Worlds:
    return Worlds(workbench, starter, chroma_url, tmp_path)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real documents that are no part of the project."""
    if not SHARED_DATA.is_dir():
        pytest.skip("real documents are looked for in ../shared/data, and there are none")
    return SHARED_DATA
