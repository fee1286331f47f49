"""Migrations, the writer's lock and epoch, and errors that say what to do."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from minirag_pipelines.core.database import Database, run_is_alive
from minirag_pipelines.core.errors import (
    DatabaseUnavailable,
    InvalidInput,
    SchemaOutdated,
    SyncInProgress,
    WriterSuperseded,
)
from minirag_pipelines.core.schema import migrate
from tests.workbench import Workbench

pytestmark = pytest.mark.postgres


def test_an_empty_database_is_said_to_lack_its_schema(new_database: str) -> None:
    with (
        Database(new_database) as database,
        pytest.raises(SchemaOutdated, match="minirag migrate"),
        database.connection(),
    ):
        pass


def test_migrations_run_at_once_from_several_processes_and_again(new_database: str) -> None:
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(migrate, [new_database] * 4))
    migrate(new_database)
    with Database(new_database) as database, database.connection() as connection:
        assert connection.execute("SELECT * FROM tenant_ids()").fetchall() == []


def test_a_login_without_the_right_to_prepare_is_told_what_to_do(new_database: str) -> None:
    with psycopg.connect(new_database, autocommit=True) as admin:
        admin.execute("DROP ROLE IF EXISTS minirag_test_weak")
        admin.execute("CREATE ROLE minirag_test_weak LOGIN PASSWORD 'weak'")
    scheme, rest = new_database.split("://")
    weak = f"{scheme}://minirag_test_weak:weak@{rest.split('@')[1]}"
    with pytest.raises(DatabaseUnavailable, match="MINIRAG_ADMIN_DATABASE_URL"):
        migrate(weak)
    with psycopg.connect(new_database, autocommit=True) as admin:
        admin.execute("DROP ROLE minirag_test_weak")


def test_an_unreachable_server_is_named_without_its_password() -> None:
    with Database("postgresql://user:hunter2@127.0.0.1:1/minirag") as database:
        with pytest.raises(DatabaseUnavailable, match=r"127\.0\.0\.1:1/minirag") as raised, database.connection():
            pass
        assert "hunter2" not in str(raised.value)


def test_what_is_no_address_is_refused() -> None:
    with pytest.raises(InvalidInput):
        Database("not an address = 'at all")


def test_a_tenant_has_one_writer_and_others_do_not_wait(workbench: Workbench) -> None:
    workbench.add_tenant("other")
    with workbench.database.writer("acme", "run-1"):
        with pytest.raises(SyncInProgress), workbench.database.writer("acme", "run-2"):
            pass
        with workbench.database.writer("other", "run-3"):
            pass
    with workbench.database.writer("acme", "run-2"):
        pass


def test_whether_a_run_lives_is_told_by_its_lock(workbench: Workbench, database_url: str) -> None:
    with workbench.database.writer("acme", "run-1"):
        assert run_is_alive(database_url, "run-1")
        assert not run_is_alive(database_url, "run-2")
    assert not run_is_alive(database_url, "run-1")


def test_a_writer_that_lost_its_lock_commits_nothing_more(workbench: Workbench, database_url: str) -> None:
    with workbench.database.writer("acme", "run-1") as first:
        with first.writing() as transaction:
            transaction.connection.execute("UPDATE tenant SET name = 'first' WHERE tenant_id = 'acme'")
        # What a paused process looks like to the server: its lock is gone, and its connection is not.
        first.connection.execute("SELECT pg_advisory_unlock_all()")
        with workbench.database.writer("acme", "run-2") as second:
            with second.writing() as transaction:
                transaction.connection.execute("UPDATE tenant SET name = 'second' WHERE tenant_id = 'acme'")
            with pytest.raises(WriterSuperseded), first.writing() as transaction:
                transaction.connection.execute("UPDATE tenant SET name = 'first again' WHERE tenant_id = 'acme'")
            with pytest.raises(WriterSuperseded):
                first.check()
    with workbench.database.transaction("acme") as transaction:
        row = transaction.connection.execute("SELECT name FROM tenant").fetchone()
        assert row.name == "second"


def test_a_pool_survives_the_loss_of_its_connections(workbench: Workbench, database_url: str) -> None:
    with workbench.database.transaction("acme"):
        pass
    with psycopg.connect(database_url, autocommit=True) as admin:
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    with workbench.database.transaction("acme") as transaction:
        assert transaction.connection.execute("SELECT 1 AS one").fetchone() is not None
