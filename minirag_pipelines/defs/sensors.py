"""Sensors: the tenants of the catalog become partitions."""

import dagster as dg

from minirag_pipelines.core.catalog import tenant_ids
from minirag_pipelines.core.errors import MiniRAGError
from minirag_pipelines.defs.partitions import partition_changes, tenants
from minirag_pipelines.defs.resources import Stores

UNFINISHED = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


# The daemon looks every 5 s: an interval of 5 would miss every other look.
@dg.sensor(
    name="tenants",
    minimum_interval_seconds=4,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Keeps the tenants' partitions equal to the catalog.",
)
def tenants_sensor(context: dg.SensorEvaluationContext, stores: Stores) -> dg.SensorResult | dg.SkipReason:
    try:
        catalogued = tenant_ids(stores.database)
    except MiniRAGError as error:
        return dg.SkipReason(f"The catalog can't be read, so no partition is touched: {error}")
    registered = context.instance.get_dynamic_partitions(tenants.name or "")
    changes = partition_changes(catalogued, registered, [])
    if changes.remove:
        changes = partition_changes(catalogued, registered, _in_flight(context.instance))
    if not (changes.add or changes.remove):
        return dg.SkipReason(f"{len(catalogued)} tenants, each with its partition.")
    requests: list[dg.AddDynamicPartitionsRequest | dg.DeleteDynamicPartitionsRequest] = []
    if changes.add:
        requests.append(tenants.build_add_request(changes.add))
    if changes.remove:
        requests.append(tenants.build_delete_request(changes.remove))
    return dg.SensorResult(dynamic_partitions_requests=requests)


def _in_flight(instance: dg.DagsterInstance) -> set[str]:
    runs = instance.get_runs(filters=dg.RunsFilter(statuses=UNFINISHED))
    return {run.tags["dagster/partition"] for run in runs if "dagster/partition" in run.tags}
