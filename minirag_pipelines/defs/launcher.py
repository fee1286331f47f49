"""Launches runs through the code location, and can tell whether a run's process still lives."""

import logging
from typing import Any

from dagster import DagsterRun, DefaultRunLauncher
from dagster._core.launcher import CheckRunHealthResult, WorkerStatus
from dagster._core.storage.tags import PARTITION_NAME_TAG
from dagster._time import get_current_timestamp

from minirag_pipelines.core.errors import MiniRAGError
from minirag_pipelines.core.settings import settings

GRACE_S = 10.0

_log = logging.getLogger(__name__)


class MiniRAGRunLauncher(DefaultRunLauncher):
    """Dagster's default launcher can't tell that a run's process was killed; its run then blocks the tenant for ever.

    A sync holds a lock in PostgreSQL on its run id, on whichever machine it runs, and the lock goes when it dies.
    """

    def __init__(self, inst_data: Any = None) -> None:
        super().__init__(inst_data)
        self._missed: set[str] = set()

    @property
    def supports_check_run_worker_health(self) -> bool:
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """Not alive only when nobody holds the run's lock at two checks in a row.

        A run that has just started has not taken its lock yet; one that has just ended no longer holds it. What can't
        be asked is taken to be alive: a database that is down for a moment must not fail every run. So is a run of no
        tenant: it takes no lock, and blocks nobody.
        """
        if PARTITION_NAME_TAG not in run.tags:
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        record = self._instance.get_run_record_by_id(run.run_id)
        started = record.start_time if record else None
        if started is None or get_current_timestamp() - started < GRACE_S or self._holds_its_lock(run.run_id):
            self._missed.discard(run.run_id)
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        if run.run_id not in self._missed:
            self._missed.add(run.run_id)
            return CheckRunHealthResult(WorkerStatus.RUNNING, "Nobody holds the run's lock; looking once more.")
        self._missed.discard(run.run_id)
        return CheckRunHealthResult(WorkerStatus.NOT_FOUND, "The run's process is gone: nobody holds its lock.")

    def _holds_its_lock(self, run_id: str) -> bool:
        from minirag_pipelines.core.database import run_is_alive

        url = settings().database_url
        if url is None:
            return True
        try:
            return run_is_alive(url.get_secret_value(), run_id)
        except MiniRAGError as error:
            _log.warning("Can't tell whether run %s lives: %s", run_id, error)
            return True
