"""What the database itself enforces: read from its own catalog, so that a new table can't slip through."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files

import psycopg
import pytest

from minirag_pipelines.core.database import APP, Database, statements
from tests.workbench import Workbench

pytestmark = pytest.mark.postgres

FILES = [
    (package, file.name)
    for package in ("minirag_pipelines.core.sql", "minirag_pipelines.ingest.sql")
    for file in sorted(files(package).iterdir(), key=lambda file: file.name)
    if file.name.endswith(".sql")
]
STATEMENTS = [(file, name, body) for package, file in FILES for name, body in statements(package, file).items()]
# They run before a tenant is known, or on tables that are the connection's own.
WITHOUT_TENANT = {
    "tenant_ids", "token_owner", "stage", "clear_stage", "analyze_stage", "stage_differences", "index_differences",
    "clear_differences", "analyze_differences", "stage_unlisted", "clear_unlisted", "vanished", "clear_vanished",
    "staged_count", "to_hash", "set_hashes", "vanished_documents",
    "planned_texts", "planned_versions", "changed", "note_versions", "days_ago",
}  # fmt: skip


@pytest.fixture
def admin(database_url: str) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


def test_every_table_has_forced_row_level_security_for_its_tenant(admin: psycopg.Connection[tuple[str, ...]]) -> None:
    tables = admin.execute(
        """SELECT c.relname, c.relrowsecurity, c.relforcerowsecurity,
                  (SELECT array_agg(p.polname::text) FROM pg_policy p
                    WHERE p.polrelid = c.oid
                      AND pg_get_expr(p.polqual, c.oid) = '(tenant_id = current_setting(''minirag.tenant_id''::text, true))'
                      AND pg_get_expr(p.polwithcheck, c.oid) = pg_get_expr(p.polqual, c.oid))
             FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE n.nspname = 'minirag' AND c.relkind IN ('r', 'p') AND c.relname <> 'alembic_version'"""
    ).fetchall()
    assert len(tables) >= 15
    for name, enabled, forced, policies in tables:
        assert (enabled, forced) == (True, True), name
        assert policies == ["own_tenant"], name


def test_every_key_and_constraint_is_led_by_the_tenant(admin: psycopg.Connection[tuple[str, ...]]) -> None:
    keys = admin.execute(
        """SELECT conrelid::regclass::text, conname, contype::text,
                  (SELECT attname FROM pg_attribute WHERE attrelid = conrelid AND attnum = conkey[1])
             FROM pg_constraint
            WHERE connamespace = 'minirag'::regnamespace AND contype IN ('p', 'u', 'f')
              AND conrelid <> 'minirag.alembic_version'::regclass"""
    ).fetchall()
    assert keys
    assert [key for key in keys if key[3] != "tenant_id"] == []
    unique = admin.execute(
        """SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid, 1, true)
             FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid
            WHERE indisunique AND c.relnamespace = 'minirag'::regnamespace AND c.relname <> 'alembic_version'"""
    ).fetchall()
    assert [index for index in unique if index[1] != "tenant_id"] == []


def test_the_role_that_works_owns_nothing_and_bypasses_nothing(admin: psycopg.Connection[tuple[object, ...]]) -> None:
    role = admin.execute(
        "SELECT rolsuper, rolbypassrls, rolcreaterole, rolcreatedb FROM pg_roles WHERE rolname = %s", [APP]
    ).fetchone()
    assert role == (False, False, False, False)
    owned = admin.execute(
        "SELECT count(*) FROM pg_class WHERE relowner = (SELECT oid FROM pg_roles WHERE rolname = %s)", [APP]
    ).fetchone()
    assert owned == (0,)


def test_with_no_tenant_set_no_row_is_seen(workbench: Workbench) -> None:
    with workbench.database.connection() as connection:
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'minirag'").fetchall()
        for table in tables:
            if table.tablename != "alembic_version":
                assert connection.execute(f"SELECT * FROM {table.tablename}".encode()).fetchall() == []


def test_a_reset_does_not_lead_out_of_the_role(database: Database) -> None:
    with database.connection() as connection:
        connection.execute("RESET ROLE")
        assert connection.execute("SELECT current_user AS name").fetchone().name == APP  # type: ignore[union-attr]


def test_another_tenants_rows_are_neither_read_nor_written(workbench: Workbench) -> None:
    workbench.add_tenant("other")
    with workbench.database.transaction("other") as transaction:
        seen = transaction.connection.execute("SELECT DISTINCT tenant_id FROM source").fetchall()
        assert [row.tenant_id for row in seen] == ["other"]
        changed = transaction.connection.execute("UPDATE source SET name = 'x' WHERE tenant_id = 'acme'")
        assert changed.rowcount == 0
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            transaction.connection.execute(
                "INSERT INTO source (tenant_id, name, kind, config) VALUES ('acme', 'x', 'files', '{}')"
            )


def test_a_pooled_connection_carries_no_tenant_over(database_url: str) -> None:
    with Database(database_url, max_connections=1) as database:
        with database.transaction("acme") as transaction:
            first = transaction.connection.info.backend_pid
        with database.connection() as connection:
            assert connection.info.backend_pid == first
            setting = connection.execute("SELECT current_setting('minirag.tenant_id', true) AS tenant").fetchone()
            assert not setting.tenant  # type: ignore[union-attr]


@pytest.mark.parametrize(("file", "name", "body"), STATEMENTS, ids=[f"{file}:{name}" for file, name, _ in STATEMENTS])
def test_every_statement_names_its_tenant(file: str, name: str, body: bytes) -> None:
    assert (b"%(tenant_id)s" in body) == (name not in WITHOUT_TENANT)


@pytest.mark.parametrize("file", sorted({file for file, _, _ in STATEMENTS}))
def test_every_statement_is_understood_by_the_database(database: Database, file: str) -> None:
    class Nulls(dict[str, None]):
        def __missing__(self, key: str) -> None:
            return None

    with database.transaction("acme") as transaction:
        for name in ("stage", "stage_differences", "stage_unlisted", "vanished"):
            transaction.run(statements("minirag_pipelines.ingest.sql", "listing.sql")[name])
        for name in ("planned_texts", "planned_versions"):
            transaction.run(statements("minirag_pipelines.ingest.sql", "planning.sql")[name])
        for _, name, body in [one for one in STATEMENTS if one[0] == file]:
            code = b"\n".join(line for line in body.splitlines() if not line.startswith(b"--"))
            if code.startswith((b"SELECT", b"INSERT", b"UPDATE", b"DELETE", b"WITH")):
                cursor = psycopg.ClientCursor(transaction.connection)
                explained = cursor.mogrify(b"EXPLAIN " + code.rstrip(b";"), Nulls())
                try:
                    transaction.connection.execute(explained.encode())
                except psycopg.Error as error:
                    pytest.fail(f"{file}:{name}: {error}")
