"""What the embedded PostgreSQL holds: two databases, and a login for each."""

from __future__ import annotations

import re
from typing import LiteralString
from urllib.parse import quote, unquote, urlsplit

from minirag_pipelines.core.errors import StackFailed
from minirag_pipelines.core.settings import Settings
from minirag_pipelines.stack.postgres import SUPERUSER, Postgres

APP = "minirag_app"
DAGSTER = "dagster"
DATABASE = "minirag"


def prepare(postgres: Postgres) -> dict[str, str]:
    """Make databases, logins and schema, as far as they are not there. Returns the addresses, by setting.

    Raises StackFailed.
    """
    import psycopg

    from minirag_pipelines.core.database import first_line

    try:
        return _prepared(postgres)
    except psycopg.Error as error:
        reason = f"its databases can't be made ready: {first_line(error)}"
        raise StackFailed("postgres", reason, str(postgres.log)) from error


def _prepared(postgres: Postgres) -> dict[str, str]:
    import psycopg
    from psycopg import sql

    from minirag_pipelines.core.schema import migrate

    urls = addresses(postgres)
    with psycopg.connect(postgres.admin_url, autocommit=True) as connection:

        def run(statement: LiteralString, **names: str) -> None:
            given = {
                key: sql.Literal(name) if key == "password" else sql.Identifier(name) for key, name in names.items()
            }
            connection.execute(sql.SQL(statement).format(**given))

        databases = {name for (name,) in connection.execute("SELECT datname FROM pg_database")}
        if not connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [DAGSTER]).fetchone():
            run("CREATE ROLE {name}", name=DAGSTER)
        if DATABASE not in databases:
            run("CREATE DATABASE {name}", name=DATABASE)
        if DAGSTER not in databases:
            run("CREATE DATABASE {name} OWNER {name}", name=DAGSTER)
        migrate(urls["admin_database_url"])
        for role in (APP, DAGSTER):
            run("ALTER ROLE {role} LOGIN PASSWORD {password}", role=role, password=postgres.password(role))
        # Dagster's login has no business in the tenants' database, nor theirs in Dagster's.
        for database in (DATABASE, DAGSTER, SUPERUSER):
            run("REVOKE CONNECT, TEMPORARY ON DATABASE {database} FROM PUBLIC", database=database)
        run("GRANT CONNECT, TEMPORARY ON DATABASE {database} TO {role}", database=DATABASE, role=APP)
    return urls


def addresses(postgres: Postgres) -> dict[str, str]:
    """Where the databases are, as the settings call them."""
    return {
        "database_url": postgres.url(APP, DATABASE),
        "admin_database_url": postgres.url(SUPERUSER, DATABASE),
        "dagster_database_url": _with_driver(postgres.url(DAGSTER, DAGSTER)),
    }


def dagster_database_url(settings: Settings) -> str:
    """The address of Dagster's database on a server of the user's own: the one set, else `<name>_dagster` beside ours.

    The latter is made when it is missing. Raises StackFailed when that can't be done.
    """
    import psycopg
    from psycopg import sql

    from minirag_pipelines.core.database import first_line, plain

    if settings.dagster_database_url:
        return _with_driver(settings.dagster_database_url.get_secret_value())
    if settings.database_url is None:
        raise StackFailed("dagster", "there is no address of a database: set MINIRAG_DAGSTER_DATABASE_URL.")
    ours = urlsplit(settings.database_url.get_secret_value())
    name = f"{ours.path.strip('/') or ours.username or DATABASE}_dagster"
    admin = (settings.admin_database_url or settings.database_url).get_secret_value()
    try:
        with psycopg.connect(plain(admin), autocommit=True, connect_timeout=10) as connection:
            if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone():
                owner = sql.Identifier(unquote(ours.username)) if ours.username else sql.SQL("CURRENT_USER")
                command = sql.SQL("CREATE DATABASE {name} OWNER {owner}")
                connection.execute(command.format(name=sql.Identifier(name), owner=owner))
    except psycopg.Error as error:
        reason = f"its database {name} can't be made ({first_line(error)}). Set MINIRAG_DAGSTER_DATABASE_URL."
        raise StackFailed("dagster", reason) from error
    return _with_driver(ours._replace(path=f"/{quote(name)}").geturl())


def _with_driver(url: str) -> str:
    """With the one driver that dagster-postgres works with."""
    return re.sub(r"^postgres(ql)?(\+\w+)?://", "postgresql+psycopg2://", url)
