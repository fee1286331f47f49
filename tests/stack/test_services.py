from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]  # it comes with Dagster, its types do not
from pydantic import SecretStr

from minirag_pipelines.core.settings import Settings
from minirag_pipelines.stack.databases import dagster_database_url
from minirag_pipelines.stack.services import NAMES, choose_ports, dagster_files, dagster_home, environment, services


def test_every_key_of_dagster_yaml_is_one_that_dagster_knows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dagster._core.instance.config import dagster_instance_config

    monkeypatch.setenv("MINIRAG_DAGSTER_DATABASE_URL", "postgresql+psycopg2://dagster@127.0.0.1:1/dagster")
    folder = dagster_home(tmp_path)
    checked, _ = dagster_instance_config(str(folder))
    written = yaml.safe_load(dagster_files()[0].read_text())
    assert checked["telemetry"] == {"enabled": False}
    assert checked["run_retries"]["retry_on_asset_or_op_failure"] is False
    assert set(written) <= set(checked)


def test_the_queue_lets_one_run_a_tenant_through(tmp_path: Path) -> None:
    from dagster._core.run_coordinator import QueuedRunCoordinator

    written = yaml.safe_load(dagster_files()[0].read_text())
    runs = written["concurrency"]["runs"]
    coordinator = QueuedRunCoordinator(
        dequeue_interval_seconds=written["run_coordinator"]["config"]["dequeue_interval_seconds"],
        tag_concurrency_limits=runs["tag_concurrency_limits"],
    )
    assert coordinator.dequeue_interval_seconds == 1
    assert runs["tag_concurrency_limits"] == [
        {"key": "dagster/partition", "value": {"applyLimitPerUniqueValue": True}, "limit": 1}
    ]


def test_the_workspace_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    from dagster._core.workspace.load import location_origins_from_yaml_paths

    monkeypatch.setenv("MINIRAG_CODE_LOCATION_HOST", "code.example")
    monkeypatch.setenv("MINIRAG_CODE_LOCATION_PORT", "4000")
    (origin,) = location_origins_from_yaml_paths([str(dagster_files()[1])])
    assert (origin.host, origin.port, origin.location_name) == ("code.example", 4000, "minirag")  # type: ignore[attr-defined]  # of the gRPC kind


def test_an_environment_spells_every_setting_out_and_compiles_bytecode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    given = environment(Settings(home=tmp_path, database_url=SecretStr("postgresql://a:b@h/d"), parse_workers=3))
    assert given["MINIRAG_DATABASE_URL"] == "postgresql://a:b@h/d"
    assert given["MINIRAG_PARSE_WORKERS"] == "3"
    assert given["MINIRAG_HOME"] == str(tmp_path)
    assert "MINIRAG_UI_URL" not in given
    assert "PYTHONDONTWRITEBYTECODE" not in given


def test_ports_are_kept_while_they_are_free_and_commands_bind_to_loopback(tmp_path: Path) -> None:
    ports = choose_ports({})
    assert choose_ports(ports) == ports
    started = services(tmp_path, ports, "some.module")
    assert tuple(service.name for service in started) == NAMES
    for service in started[:2]:
        assert service.command[service.command.index("-h") + 1] == "127.0.0.1"


def test_a_chosen_database_of_dagster_is_taken_with_the_driver_that_works() -> None:
    for url in ("postgresql://a@h/d", "postgres://a@h/d", "postgresql+psycopg://a@h/d"):
        settings = Settings(dagster_database_url=SecretStr(url))
        assert dagster_database_url(settings) == "postgresql+psycopg2://a@h/d"


def test_importing_the_stack_loads_neither_dagster_nor_a_driver() -> None:
    program = (
        "import sys, minirag_pipelines.stack.supervisor\n"
        "print(sorted({'dagster', 'chromadb', 'psycopg', 'sqlalchemy', 'alembic', 'psutil'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout.strip() == "[]"
