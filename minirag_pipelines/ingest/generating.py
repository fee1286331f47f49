"""Which generation answers, and which one is being built: what the tenant's settings ask for, beside what is there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from minirag_pipelines.core.database import Transaction, Writer
from minirag_pipelines.core.errors import NotFound
from minirag_pipelines.core.generations import Generations
from minirag_pipelines.core.providers.models import Embedder
from minirag_pipelines.core.providers.tokenizers import tokenizer_for
from minirag_pipelines.core.records import Generation, Tenant
from minirag_pipelines.core.vector_store import VectorStore
from minirag_pipelines.ingest.chunking import chunker_fingerprint


@dataclass(frozen=True, slots=True)
class Targets:
    """`live` answers questions; `building`, if any, is what the tenant's settings ask for and is not live yet."""

    live: Generation
    building: Generation | None

    def each(self) -> list[Generation]:
        """What has to be brought up to date, the live one first."""
        return [self.live] if self.building is None else [self.live, self.building]


def target_generations(
    writer: Writer, tenant: Tenant, vectors: VectorStore, embedder: Callable[[], Embedder]
) -> Targets:
    """The tenant's generations, made where the settings ask for one that is not there.

    The first is live from the start, as there is nothing to protect; a later one is built beside it. A build that the
    settings no longer ask for is retired. The embedder is asked for only when a generation is made.
    """
    chunker = chunker_fingerprint(tenant.chunker, tokenizer_for(tenant.embedding_model).name)
    with writer.reading() as transaction:
        live, building = _current(transaction)
    if live is None:
        if building is not None and not _as_asked(building, tenant, chunker):
            with writer.writing() as transaction:
                Generations(transaction).set_state(building.number, "retired")
            building = None
        first = building or _add(writer, tenant, chunker, embedder())
        vectors.create(first)
        with writer.writing() as transaction:
            Generations(transaction).set_state(first.number, "live")
            return Targets(first, None)
    wanted = None if _as_asked(live, tenant, chunker) else building
    if building is not None and (wanted is None or not _as_asked(building, tenant, chunker)):
        with writer.writing() as transaction:
            Generations(transaction).set_state(building.number, "retired")
        wanted = None
    if wanted is None and not _as_asked(live, tenant, chunker):
        wanted = _add(writer, tenant, chunker, embedder())
    if wanted is not None:
        vectors.create(wanted)
    return Targets(live, wanted)


def current_generations(writer: Writer) -> Targets:
    """The generations that `target_generations` has found or made in this sync."""
    with writer.reading() as transaction:
        live, building = _current(transaction)
    if live is None:
        raise NotFound("live generation of tenant", writer.tenant_id)
    return Targets(live, building)


def _current(transaction: Transaction) -> tuple[Generation | None, Generation | None]:
    by_state = {generation.state: generation for generation in Generations(transaction).all()}
    return by_state.get("live"), by_state.get("building")


def _as_asked(generation: Generation, tenant: Tenant, chunker: str) -> bool:
    return (
        generation.chunker_fingerprint == chunker
        and generation.embedding_model == tenant.embedding_model
        and generation.portable == tenant.portable
    )


def _add(writer: Writer, tenant: Tenant, chunker: str, embedder: Embedder) -> Generation:
    dimension, model = embedder.dimension, embedder.fingerprint
    with writer.writing() as transaction:
        return Generations(transaction).add(tenant, state="building", chunker=chunker, model=model, dimension=dimension)
