"""The schema and the roles it stands on: made, and brought to this version, by a login that may create roles."""

from __future__ import annotations

from contextlib import suppress
from importlib.resources import files
from typing import Any

import psycopg

from minirag_pipelines.core.database import APP, OPERATOR, OWNER, SCHEMA_VERSION, address, first_line, plain
from minirag_pipelines.core.errors import DatabaseUnavailable, SchemaOutdated

_MIGRATION_LOCK = 0x6D696E69726167


def migrate(admin_url: str) -> None:
    """Bring the schema to this version, as a login that may create roles. At this version already: one query.

    Any number of processes may call it at once. Raises DatabaseUnavailable with what the login lacks.
    """
    shown = address(admin_url)
    try:
        with psycopg.connect(plain(admin_url), autocommit=True, connect_timeout=10) as connection:
            if _version(connection) == SCHEMA_VERSION:
                return
            connection.execute("SELECT pg_advisory_lock(%s)", [_MIGRATION_LOCK])
            if (found := _version(connection)) == SCHEMA_VERSION:
                return
            if found is not None and found > SCHEMA_VERSION:
                raise SchemaOutdated(found, SCHEMA_VERSION)
            _create_roles(connection)
            _upgrade(plain(admin_url))
    except psycopg.errors.InsufficientPrivilege as error:
        raise DatabaseUnavailable(
            shown,
            f"its login may not prepare the schema ({first_line(error)}); "
            "set MINIRAG_ADMIN_DATABASE_URL to one that may create roles, and run `minirag migrate`.",
        ) from error
    except psycopg.OperationalError as error:
        raise DatabaseUnavailable(shown, first_line(error)) from error


def _version(connection: psycopg.Connection[Any]) -> str | None:
    with suppress(psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
        row = connection.execute("SELECT version_num FROM minirag.alembic_version").fetchone()
        return row[0] if row else None
    return None


def _create_roles(connection: psycopg.Connection[Any]) -> None:
    """Roles belong to the server, not to the database: another database of MiniRAG may have made them already."""
    for role in (OWNER, OPERATOR, APP):
        if connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [role]).fetchone() is None:
            with suppress(psycopg.errors.DuplicateObject, psycopg.errors.UniqueViolation):
                connection.execute(f"CREATE ROLE {role} NOLOGIN".encode())
    superuser = connection.execute("SELECT rolsuper FROM pg_roles WHERE rolname = current_user").fetchone()
    for role, member in ((OPERATOR, OWNER), *((role, None) for role in (OWNER, APP))):
        if member is None and superuser is not None and superuser[0]:
            continue
        known = connection.execute(
            "SELECT pg_has_role(coalesce(%(member)s, current_user::text), %(role)s, 'MEMBER')",
            {"role": role, "member": member},
        ).fetchone()
        if not (known and known[0]):
            connection.execute(f"GRANT {role} TO {member or 'CURRENT_USER'}".encode())
    connection.execute(f"CREATE SCHEMA IF NOT EXISTS minirag AUTHORIZATION {OWNER}".encode())


def _upgrade(url: str) -> None:
    from alembic import command
    from alembic.config import Config
    from sqlalchemy import create_engine
    from sqlalchemy.pool import NullPool

    config = Config()
    config.set_main_option("script_location", str(files("minirag_pipelines.core").joinpath("migrations")))
    engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(url), poolclass=NullPool)
    with engine.begin() as connection:
        connection.exec_driver_sql(f"SET ROLE {OWNER}")
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        connection.exec_driver_sql(f"GRANT SELECT ON minirag.alembic_version TO {APP}, {OPERATOR}")
    engine.dispose()
