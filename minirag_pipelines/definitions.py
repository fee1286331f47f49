"""All that Dagster loads."""

import dagster as dg

from minirag_pipelines.defs.assets import chunks, collection, documents, embeddings, sources
from minirag_pipelines.defs.jobs import sync
from minirag_pipelines.defs.resources import Providers, Stores
from minirag_pipelines.defs.sensors import tenants_sensor

defs = dg.Definitions(
    assets=[sources, documents, chunks, embeddings, collection],
    jobs=[sync],
    sensors=[tenants_sensor],
    resources={"stores": Stores(), "providers": Providers()},
    # For what is launched from an asset's own page.
    executor=dg.in_process_executor,
)
