from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.launcher import WorkerStatus
from dagster._core.test_utils import create_run_for_test, instance_for_test

from minirag_pipelines.core.database import Database
from minirag_pipelines.core.settings import settings
from minirag_pipelines.defs import launcher as module
from minirag_pipelines.defs.launcher import MiniRAGRunLauncher

pytestmark = [pytest.mark.postgres, pytest.mark.dagster]


@pytest.fixture
def instance(tmp_path: Path, environment: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    monkeypatch.setattr(module, "GRACE_S", 0.0)
    stanza = {"module": MiniRAGRunLauncher.__module__, "class": MiniRAGRunLauncher.__name__}
    with instance_for_test(temp_dir=str(tmp_path), overrides={"run_launcher": stanza}) as instance:
        yield instance


def started(instance: dg.DagsterInstance, tenant: str | None = "acme") -> dg.DagsterRun:
    tags = {"dagster/partition": tenant} if tenant else {}
    run: dg.DagsterRun = create_run_for_test(instance, status=dg.DagsterRunStatus.STARTING, tags=tags)
    event = dg.DagsterEvent(event_type_value=dg.DagsterEventType.RUN_START.value, job_name=run.job_name)
    instance.report_dagster_event(event, run.run_id)
    return run


def health(instance: dg.DagsterInstance, run: dg.DagsterRun) -> WorkerStatus:
    return instance.run_launcher.check_run_worker_health(run).status


def test_a_run_is_alive_while_somebody_holds_its_lock(instance: dg.DagsterInstance, database: Database) -> None:
    assert instance.run_launcher.supports_check_run_worker_health
    run = started(instance)
    with database.writer("acme", run.run_id):
        assert [health(instance, run) for _ in range(3)] == [WorkerStatus.RUNNING] * 3
    assert health(instance, run) == WorkerStatus.RUNNING, "looked at once more"
    assert health(instance, run) == WorkerStatus.NOT_FOUND


def test_a_lock_that_is_there_at_the_second_look_clears_the_first(
    instance: dg.DagsterInstance, database: Database
) -> None:
    run = started(instance)
    assert health(instance, run) == WorkerStatus.RUNNING
    with database.writer("acme", run.run_id):
        assert health(instance, run) == WorkerStatus.RUNNING
    assert health(instance, run) == WorkerStatus.RUNNING
    assert health(instance, run) == WorkerStatus.NOT_FOUND


def test_a_run_that_has_just_started_is_not_looked_at(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "GRACE_S", 20.0)
    run = started(instance)
    assert [health(instance, run) for _ in range(3)] == [WorkerStatus.RUNNING] * 3


def test_a_run_of_no_tenant_takes_no_lock_and_is_not_looked_at(instance: dg.DagsterInstance) -> None:
    run = started(instance, tenant=None)
    assert [health(instance, run) for _ in range(3)] == [WorkerStatus.RUNNING] * 3


def test_a_database_that_can_not_be_asked_fails_no_run(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINIRAG_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/nothing")
    settings.cache_clear()
    run = started(instance)
    assert [health(instance, run) for _ in range(3)] == [WorkerStatus.RUNNING] * 3
