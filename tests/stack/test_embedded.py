from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from minirag_pipelines.core.settings import Settings
from minirag_pipelines.stack.chroma import ChromaServer
from minirag_pipelines.stack.embedded import available
from minirag_pipelines.stack.postgres import Postgres
from minirag_pipelines.stack.processes import ProcessId

pytestmark = pytest.mark.stack

USER = """
import pathlib, sys, time
import psycopg
from minirag_pipelines.core.settings import Settings
from minirag_pipelines.stack.embedded import available
with available(Settings(home=pathlib.Path(sys.argv[1]))) as settings:
    with psycopg.connect(settings.database_url.get_secret_value()) as connection:
        print(connection.execute("SELECT current_user").fetchone()[0], flush=True)
    sys.stdin.readline()
"""


def user(home: Path) -> subprocess.Popen[str]:
    """A process that uses the servers until it is told something."""
    return subprocess.Popen(
        [sys.executable, "-c", USER, str(home)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def told(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def server_processes(home: Path) -> list[ProcessId]:
    return [process for process in (Postgres(home).process(), ChromaServer(home).process()) if process]


def test_the_servers_are_up_for_as_long_as_the_block_lasts(settings: Settings, home: Path) -> None:
    with available(settings) as addressed:
        assert addressed.database_url is not None
        with psycopg.connect(addressed.database_url.get_secret_value()) as connection:
            assert connection.execute("SELECT current_user, current_database()").fetchone() == (
                "minirag_app",
                "minirag",
            )
        assert len(server_processes(home)) == 2
        with available(addressed) as again:
            assert again == addressed
        assert len(server_processes(home)) == 2
    assert server_processes(home) == []
    assert (home / "addresses.json").stat().st_mode & 0o777 == 0o600


def test_settings_read_later_have_the_addresses(settings: Settings, home: Path) -> None:
    with available(settings) as addressed:
        assert Settings(home=home).with_addresses() == addressed
        with available(Settings(home=home).with_addresses()) as again:
            assert again == addressed


def test_the_logins_reach_their_own_database_only(settings: Settings) -> None:
    with available(settings) as addressed:
        assert addressed.database_url is not None
        assert addressed.admin_database_url is not None
        assert addressed.dagster_database_url is not None
        app = addressed.database_url.get_secret_value()
        dagster = addressed.dagster_database_url.get_secret_value()
        assert dagster.startswith("postgresql+psycopg2://")
        dagster = dagster.replace("+psycopg2", "")
        with psycopg.connect(dagster) as connection:
            connection.execute("CREATE TABLE anything (a int)")
        for url, other in ((dagster, "minirag"), (app, "dagster"), (app, "postgres")):
            with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
                psycopg.connect(url.rpartition("/")[0] + f"/{other}")
        with psycopg.connect(app) as connection:
            row = connection.execute("SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user")
            assert row.fetchone() == (False,)


def test_the_last_of_several_users_stops_the_servers(settings: Settings, home: Path) -> None:
    with user(home) as one, user(home) as two:
        assert told(one) == told(two) == "minirag_app"
        processes = server_processes(home)
        one.communicate("enough\n")
        assert server_processes(home) == processes
        with available(settings):
            two.communicate("enough\n")
            assert server_processes(home) == processes
        assert server_processes(home) == []


def test_servers_of_a_killed_user_are_adopted_and_stopped_by_the_next(settings: Settings, home: Path) -> None:
    with user(home) as killed:
        assert told(killed) == "minirag_app"
        processes = server_processes(home)
        killed.send_signal(signal.SIGKILL)
    assert server_processes(home) == processes
    with available(settings):
        assert server_processes(home) == processes
    assert server_processes(home) == []


def test_ctrl_c_in_the_terminal_ends_the_user_and_the_last_user_the_servers(home: Path) -> None:
    with user(home) as interrupted:
        assert told(interrupted) == "minirag_app"
        interrupted.send_signal(signal.SIGINT)
    assert server_processes(home) == []


def test_a_server_that_died_meanwhile_is_started_for_the_next_user(settings: Settings, home: Path) -> None:
    with available(settings):
        for process in server_processes(home):
            process.signal(signal.SIGKILL)
            assert process.wait(5)
        with available(settings) as addressed:
            assert addressed.database_url is not None
            psycopg.connect(addressed.database_url.get_secret_value()).close()
            assert len(server_processes(home)) == 2


def test_preparing_goes_on_where_a_killed_one_stopped(settings: Settings, home: Path) -> None:
    postgres = Postgres(home)
    postgres.start(durable=False)
    with psycopg.connect(postgres.admin_url, autocommit=True) as connection:
        connection.execute("CREATE ROLE dagster")
    with available(settings) as addressed:
        assert addressed.dagster_database_url is not None
        psycopg.connect(addressed.dagster_database_url.get_secret_value().replace("+psycopg2", "")).close()


def test_with_addresses_of_ones_own_nothing_is_started(home: Path) -> None:
    chosen = Settings(
        home=home, database_url="postgresql://me@db.example/minirag", chroma_url="http://chroma.example:8000"
    )
    with available(chosen) as addressed:
        assert addressed.database_url == chosen.database_url
        assert addressed.chroma_url == chosen.chroma_url
    assert not home.exists()


def test_with_a_postgresql_of_ones_own_only_chroma_is_started(settings: Settings, home: Path) -> None:
    with available(settings):
        pass
    assert "admin_database_url" in json.loads((home / "addresses.json").read_text())
    chosen = Settings(home=home, database_url="postgresql://me@db.example/minirag").with_addresses()
    with available(chosen) as addressed:
        assert addressed.database_url == chosen.database_url
        assert addressed.admin_database_url is None, "that of the embedded one must not stand beside another's"
        assert addressed.dagster_database_url is None
        assert Postgres(home).process() is None
        assert ChromaServer(home).running()
        assert addressed.chroma_url == ChromaServer(home).url
