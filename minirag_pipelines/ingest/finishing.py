"""What a sync ends with: publish, go on with the next generation, retire; and whether too much has failed."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from minirag_pipelines.core.database import Transaction, Writer, statements
from minirag_pipelines.core.errors import (
    GenerationUnsound,
    MiniRAGError,
    ModelUnknown,
    ProviderRefused,
    ProviderUnavailable,
    TooManyFailures,
)
from minirag_pipelines.core.generations import Generations
from minirag_pipelines.core.records import Generation, Tenant
from minirag_pipelines.core.settings import Settings
from minirag_pipelines.core.vector_store import VectorStore
from minirag_pipelines.ingest.building import BuildingTally, build_slice
from minirag_pipelines.ingest.embedding import EmbedderOf
from minirag_pipelines.ingest.erasing import erase_forgotten, prune
from minirag_pipelines.ingest.generating import next_generation
from minirag_pipelines.ingest.publishing import PublishingTally, publish_pending, retire
from minirag_pipelines.ingest.restoring import bring_in_offered

SQL = statements("minirag_pipelines.ingest.sql", "finishing.sql")


@dataclass(slots=True)
class Finished:
    """`live` is the generation that answers now, `failure` what the run has to say after all that could be done is.

    `erased` counts documents that were forgotten; `quarantined` those that are not as their source has them, by reason.
    `build` is None where the live generation is what the tenant's settings ask for.
    """

    live: Generation
    erased: int
    published: PublishingTally
    build: BuildingTally | None
    retired: int
    quarantined: Counter[str]
    failure: MiniRAGError | None


def finish(
    writer: Writer, tenant: Tenant, vectors: VectorStore, embedder_of: EmbedderOf, settings: Settings
) -> Finished:
    """First what was forgotten; all that the live generation lacks; a slice of the next one; then what is to leave."""
    erased = erase_forgotten(writer)
    published = publish_pending(writer, vectors)
    with writer.reading() as transaction:
        live = Generations(transaction).live()
    build: BuildingTally | None = None
    failure: MiniRAGError | None = None
    try:
        building = next_generation(writer, tenant, live, embedder_of)
        if building is not None:
            build = BuildingTally(building.number)
            build_slice(writer, building, live, vectors, embedder_of, build, slice_s=settings.build_slice_s)
    except (ProviderUnavailable, ProviderRefused, ModelUnknown, GenerationUnsound) as error:
        failure = error
    with writer.reading() as transaction:
        behind = [one for one in Generations(transaction).all() if one.state in ("kept", "building")]
    for generation in behind:
        bring_in_offered(writer, vectors, generation)
    retired = retire(writer, vectors, after_s=settings.retire_after_s, keep=settings.kept_generations)
    prune(writer, after_days=settings.keep_unused_days)
    with writer.reading() as transaction:
        quarantined = Counter({row.code: row.documents for row in transaction.run(SQL["quarantined"])})
        live = Generations(transaction).live()
        failure = failure or _too_many(transaction, live, quarantined, settings)
        return Finished(live, erased, published, build, retired, quarantined, failure)


def _too_many(
    transaction: Transaction, live: Generation, quarantined: Counter[str], settings: Settings
) -> TooManyFailures | None:
    failed = quarantined.total()
    # There are no fewer documents than are live.
    if failed < settings.failed_least or failed <= settings.failed_share * live.documents:
        return None
    documents = live.documents + transaction.one(SQL["unpublished"], generation=live.number).documents
    if failed <= settings.failed_share * documents:
        return None
    return TooManyFailures(
        failed, documents, ", ".join(f"{count:,} {code}" for code, count in quarantined.most_common())
    )
