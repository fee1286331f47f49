"""`sync`: all five assets for one tenant, one run a tenant, in one process."""

import dagster as dg

from minirag_pipelines.defs.assets import chunks, collection, documents, embeddings, sources

# A process a step would cost its start five times over: parallelism is across tenants and inside the steps.
sync = dg.define_asset_job(
    "sync",
    selection=[sources, documents, chunks, embeddings, collection],
    executor_def=dg.in_process_executor,
    # What a failed run has finished it finds finished: a retry begins anew, with the lock that its first step takes.
    tags={"dagster/retry_strategy": "ALL_STEPS"},
    description="Bring a tenant's collection up to date with its sources.",
)
