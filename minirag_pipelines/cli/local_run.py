"""A run in this process, with no webserver and no daemon: recorded like any other, so that the UI shows it later."""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from minirag_pipelines.cli.syncing import LOCATION, REPOSITORY, STEPS, Outcome
from minirag_pipelines.core.database import run_held, run_is_alive
from minirag_pipelines.core.errors import SyncInProgress
from minirag_pipelines.core.settings import Settings

if TYPE_CHECKING:
    import dagster as dg
    from dagster import DagsterEvent, DagsterInstance, DagsterRun


class _Shown(logging.Handler):
    def __init__(self, update: Callable[[str], None]) -> None:
        super().__init__(logging.INFO)
        self._update = update

    def emit(self, record: logging.LogRecord) -> None:
        self._update(record.getMessage())


@contextmanager
def _shown(update: Callable[[str], None]) -> Iterator[None]:
    """What a step says of its progress, on the terminal."""
    logger, handler = logging.getLogger("minirag_pipelines.ingest.progress"), _Shown(update)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def run(settings: Settings, tenant: str, config: Mapping[str, Any], update: Callable[[str], None]) -> Outcome:
    """Do the `sync` job here. Raises SyncInProgress while another run of the tenant lives."""
    update("loading Dagster")
    from minirag_pipelines.stack.databases import dagster_database_url
    from minirag_pipelines.stack.services import dagster_home

    os.environ["MINIRAG_DAGSTER_DATABASE_URL"] = dagster_database_url(settings)
    os.environ["DAGSTER_HOME"] = str(dagster_home(settings.home.absolute()))
    import dagster as dg
    from dagster._core.definitions.job_base import InMemoryJob
    from dagster._core.execution.api import execute_run_iterator

    from minirag_pipelines.definitions import defs

    job = defs.resolve_job_def("sync")
    run_id = str(uuid.uuid4())
    url = settings.database_url.get_secret_value() if settings.database_url else ""
    with _shown(update), dg.DagsterInstance.get() as instance, run_held(url, run_id):
        _fail_dead_runs(instance, url, tenant)
        instance.add_dynamic_partitions("tenants", [tenant])
        created = instance.create_run_for_job(
            job,
            run_id=run_id,
            run_config={**config, "loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
            tags={
                "dagster/partition": tenant,
                ".dagster/repository": f"{REPOSITORY}@{LOCATION}",
                "minirag/launched_by": "command",
                # Whoever typed it sees that it failed; the daemon must not do it once more, later and unasked.
                "dagster/max_retries": "0",
            },
            remote_job_origin=_origin(settings),
        )
        return _outcome(created, execute_run_iterator(InMemoryJob(job), created, instance), update)


def _origin(settings: Settings) -> Any:
    """The job as the code location knows it: without it the UI shows the run on no job's page."""
    from dagster._core.remote_origin import GrpcServerCodeLocationOrigin, RemoteRepositoryOrigin

    location = GrpcServerCodeLocationOrigin(
        host=settings.code_location_host, port=settings.code_location_port or 4266, location_name=LOCATION
    )
    return RemoteRepositoryOrigin(location, REPOSITORY).get_job_origin("sync")


def _fail_dead_runs(instance: DagsterInstance, database_url: str, tenant: str) -> None:
    """Runs of the tenant whose process is gone are failed; raises SyncInProgress when one lives."""
    import dagster as dg

    started = [dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.CANCELING]
    filters = dg.RunsFilter(statuses=started, tags={"dagster/partition": tenant})
    for unfinished in instance.get_runs(filters=filters):
        if run_is_alive(database_url, unfinished.run_id):
            raise SyncInProgress(tenant)
        instance.report_run_failed(unfinished, "The process of this run is gone.")


def _outcome(created: DagsterRun, events: Iterable[DagsterEvent], update: Callable[[str], None]) -> Outcome:
    outcome = Outcome(created.run_id, succeeded=False)
    for event in events:
        if event.is_step_start and event.step_key:
            update(STEPS.get(event.step_key, event.step_key))
        elif event.is_step_materialization:
            materialization = event.step_materialization_data.materialization
            outcome.metadata[materialization.asset_key.path[-1]] = {
                name: _value(value) for name, value in materialization.metadata.items()
            }
        elif event.is_step_failure and outcome.error is None:
            outcome.error = _error(event)
        elif event.is_job_success:
            outcome.succeeded = True
        elif event.is_job_failure and outcome.error is None:
            outcome.error = (event.message or "The run failed.").splitlines()[0]
    return outcome


def _value(value: dg.MetadataValue[Any]) -> Any:
    return value.value


def _error(event: DagsterEvent) -> str:
    failure = event.step_failure_data
    if failure.user_failure_data is not None and failure.user_failure_data.description:
        return failure.user_failure_data.description
    error = failure.error
    while error is not None and error.cause is not None:
        error = error.cause  # Dagster's own words say only that a step failed
    return error.message.strip().splitlines()[0] if error else "A step failed."
