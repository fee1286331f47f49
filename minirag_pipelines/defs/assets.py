"""The lineage: sources → documents → chunks → embeddings → collection, one partition a tenant.

Each names the work, has it done in `ingest`, and reports counts: never content.
"""

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field

from minirag_pipelines.core.errors import ProviderRefused, ProviderUnavailable, VectorStoreUnavailable
from minirag_pipelines.defs.failures import as_dagster_failure
from minirag_pipelines.defs.partitions import tenants
from minirag_pipelines.defs.resources import Providers, Stores

if TYPE_CHECKING:
    from minirag_pipelines.ingest.building import BuildingTally
    from minirag_pipelines.ingest.embedding import EmbeddingTally

OWNERS = ["team:minirag"]


class SourcesConfig(dg.Config):
    """What a sync may be asked for besides."""

    force: bool = Field(
        default=False,
        description="Read every document again, try again what failed, and parse what a newer parser would parse anew.",
    )
    allow_empty: bool = Field(
        default=False,
        description="Believe a source that lists nothing, or is not there: remove its documents.",
    )


@dg.asset(partitions_def=tenants, group_name="index", kinds={"postgres"}, owners=OWNERS, code_version="1")
def sources(context: dg.AssetExecutionContext, config: SourcesConfig, stores: Stores) -> dg.MaterializeResult[None]:
    """What the tenant's sources hold now, beside what they held: new, changed, renamed, removed, unchanged."""
    from minirag_pipelines.ingest.listing import list_sources
    from minirag_pipelines.ingest.reading import retry_failures

    with as_dagster_failure():
        writer = stores.writer(context.partition_key, context.run.run_id)
        _, listed = stores.tenant(context.partition_key)
        if config.force:
            retry_failures(writer)
        tally = list_sources(
            writer,
            listed,
            force=config.force,
            allow_empty=config.allow_empty or stores.settings.allow_empty,
            max_bytes=stores.settings.max_document_mib * 2**20,
        )
        if tally.failure:
            # What needs no source goes on: what was forgotten is erased, a build is gone on with.
            stores.carry(tally.failure, context)
        stores.unlisted.update(tally.failed)
    for problem in tally.problems:
        context.log.warning(problem)
    return dg.MaterializeResult(
        metadata={
            "new": tally.new,
            "changed": tally.changed,
            "renamed": tally.renamed,
            "removed": tally.removed,
            "unchanged": tally.unchanged,
            "chunks_removed": tally.chunks_removed,
            "sources": tally.sources,
            "problems": tally.problems,
        }
    )


@dg.asset(partitions_def=tenants, deps=[sources], group_name="index", kinds={"python"}, owners=OWNERS, code_version="1")
def documents(context: dg.AssetExecutionContext, stores: Stores) -> dg.MaterializeResult[None]:
    """What is new or changed, read and parsed; what could not be is quarantined with its reason."""
    from minirag_pipelines.ingest.parser_pool import Parsing
    from minirag_pipelines.ingest.reading import read_pending

    with as_dagster_failure():
        _, listed = stores.tenant(context.partition_key)
        writer = stores.writer(context.partition_key, context.run.run_id)
        # What a source that is away fails to read now would wait for its next attempt when it is back.
        readable = [source for source in listed if source.name not in stores.unlisted]
        tally = read_pending(writer, readable, Parsing.of(stores.settings))
    quarantined = sum(tally.quarantined.values())
    if quarantined:
        context.log.warning(f"{quarantined} documents are quarantined: {_counted(tally.quarantined)}")
    return dg.MaterializeResult(
        metadata={
            "parsed": tally.parsed,
            "reused": tally.reused,
            "quarantined": quarantined,
            "reasons": dict(tally.quarantined),
            "pages": tally.pages,
            "bytes": tally.size_bytes,
        }
    )


@dg.asset(
    partitions_def=tenants, deps=[documents], group_name="index", kinds={"python"}, owners=OWNERS, code_version="1"
)
def chunks(context: dg.AssetExecutionContext, stores: Stores, providers: Providers) -> dg.MaterializeResult[None]:
    """Parsed documents cut into passages that the embedding model reads whole."""
    from minirag_pipelines.core.providers.tokenizers import tokenizer_for
    from minirag_pipelines.ingest.cutting import cut_pending
    from minirag_pipelines.ingest.generating import live_generation

    with as_dagster_failure():
        writer = stores.writer(context.partition_key, context.run.run_id)
        tenant, _ = stores.tenant(context.partition_key)
        live = live_generation(writer, tenant, stores.vectors, providers.embedder_of)
        tally = cut_pending(writer, live, tokenizer_for(live.embedding_model))
    return dg.MaterializeResult(
        metadata={
            "added": tally.added,
            "kept": tally.kept,
            "dropped": tally.dropped,
            "versions": tally.versions,
            "tokens": sum(length * chunks for length, chunks in tally.tokens.items()),
            "tokens_p50": _percentile(tally.tokens, 0.50),
            "tokens_p95": _percentile(tally.tokens, 0.95),
            "tokens_max": max(tally.tokens, default=0),
        }
    )


@dg.asset(partitions_def=tenants, deps=[chunks], group_name="index", kinds={"chroma"}, owners=OWNERS, code_version="1")
def embeddings(context: dg.AssetExecutionContext, stores: Stores, providers: Providers) -> dg.MaterializeResult[None]:
    """A vector for every passage: those known are reused, the others are asked of the embedding model."""
    from minirag_pipelines.ingest.embedding import EmbeddingTally, embed_pending
    from minirag_pipelines.ingest.generating import as_asked, live_generation

    problem = None
    with as_dagster_failure():
        writer = stores.writer(context.partition_key, context.run.run_id)
        tenant, _ = stores.tenant(context.partition_key)
        live = live_generation(writer, tenant, stores.vectors, providers.embedder_of)
        tally = EmbeddingTally()
        try:
            embed_pending(writer, live, stores.vectors, providers.embedder_of, tally)
        except (ProviderUnavailable, ProviderRefused, VectorStoreUnavailable) as error:
            # What is whole is served all the same. Where the next generation has another model, all that waits here is
            # in it when it is swapped in.
            problem = str(error)
            context.log.warning(problem)
            if as_asked(live, tenant) or isinstance(error, VectorStoreUnavailable):
                stores.carry(error, context)
    return dg.MaterializeResult(
        metadata=_embedding_metadata(tally) | ({"problem": problem} if problem else {}),
    )


@dg.asset(
    partitions_def=tenants,
    deps=[embeddings],
    group_name="index",
    kinds={"chroma", "postgres"},
    owners=OWNERS,
    code_version="1",
)
def collection(
    context: dg.AssetExecutionContext, stores: Stores, providers: Providers
) -> Iterator[dg.MaterializeResult[None]]:
    """What questions are answered from: whole documents are published, the next generation is built and swapped in."""
    from minirag_pipelines.ingest.finishing import finish

    with as_dagster_failure():
        tenant, _ = stores.tenant(context.partition_key)
        done = finish(
            stores.writer(context.partition_key, context.run.run_id),
            tenant,
            stores.vectors,
            providers.embedder_of,
            stores.settings,
        )
    build = done.build
    yield dg.MaterializeResult(
        metadata={
            "generation": done.live.number,
            "documents": done.live.documents,
            "chunks": done.live.chunks,
            "published": done.published.published,
            "restored": done.published.restored,
            "erased": done.erased,
            "retired": done.retired,
            "quarantined": done.quarantined.total(),
            "reasons": dict(done.quarantined),
            **({} if build is None else {f"build_{name}": value for name, value in _build_metadata(build).items()}),
        },
        data_version=dg.DataVersion(f"{done.live.number}.{done.live.data_version}"),
    )
    # Only now: what is healthy is served, and reported.
    failure = stores.carried(context) or done.failure
    if failure is not None:
        with as_dagster_failure():
            raise failure


def _build_metadata(build: "BuildingTally") -> dict[str, float | int]:
    return {
        "generation": build.number,
        "documents": build.built,
        "left": build.left,
        "swapped": int(build.swapped),
        "chunks": build.chunks.tokens.total(),
        "dropped": build.dropped,
    } | _embedding_metadata(build.embeddings)


def _embedding_metadata(tally: "EmbeddingTally") -> dict[str, float | int]:
    return {
        "embedded": tally.embedded,
        "reused": tally.reused,
        "refused": tally.refused,
        "requests": tally.usage.requests,
        "tokens": tally.usage.prompt_tokens,
        "retries": tally.usage.retries,
        # An unknown price is said as unknown: nothing is shown for it.
        **({"cost_usd": float(tally.usage.cost_usd)} if tally.usage.cost_usd is not None else {}),
    }


def _counted(reasons: Counter[str]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())


def _percentile(lengths: Counter[int], share: float) -> int:
    """The length that this share of the chunks does not exceed; 0 for none."""
    below, wanted = 0, share * lengths.total()
    for length in sorted(lengths):
        below += lengths[length]
        if below >= wanted:
            return length
    return 0
