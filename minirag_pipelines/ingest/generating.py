"""Which generation answers and which one is to come: what the tenant's settings ask for, beside what is there."""

from __future__ import annotations

from dataclasses import dataclass

from minirag_pipelines.core.catalog import Catalog
from minirag_pipelines.core.database import Writer, statements
from minirag_pipelines.core.errors import NotFound
from minirag_pipelines.core.generations import Generations
from minirag_pipelines.core.providers.models import Embedder
from minirag_pipelines.core.providers.tokenizers import tokenizer_for
from minirag_pipelines.core.records import Generation, Tenant
from minirag_pipelines.core.vector_store import VectorStore
from minirag_pipelines.ingest.building import build_missed, swap
from minirag_pipelines.ingest.chunking import chunker_fingerprint
from minirag_pipelines.ingest.embedding import EmbedderOf
from minirag_pipelines.ingest.restoring import restore_lost

SQL = statements("minirag_pipelines.ingest.sql", "generating.sql")


@dataclass(frozen=True, slots=True)
class Rollback:
    """A swap back. `changed` documents answer as they last were there; `added` ones came since, and were brought in."""

    displaced: Generation
    live: Generation
    changed: int
    added: int


def live_generation(writer: Writer, tenant: Tenant, vectors: VectorStore, embedder_of: EmbedderOf) -> Generation:
    """The generation that answers. The first one is live from the start, as there is nothing to protect.

    The embedder is asked for only when the first one is made.
    """
    with writer.reading() as transaction:
        generations = Generations(transaction)
        live, building = generations.find_live(), generations.find_building()
    if live is not None:
        return live
    if building is not None and not as_asked(building, tenant):
        _retire(writer, building)
        building = None
    first = building or _add(writer, tenant, embedder_of(tenant))
    vectors.create(first)
    with writer.writing() as transaction:
        Generations(transaction).set_state(first.number, "live")
    return first


def next_generation(writer: Writer, tenant: Tenant, live: Generation, embedder_of: EmbedderOf) -> Generation | None:
    """The generation to be built beside the live one; None when the live one is what the settings ask for.

    A build that they no longer ask for is retired. The embedder is asked for only when a generation is made.
    """
    with writer.reading() as transaction:
        building = Generations(transaction).find_building()
    wanted = not as_asked(live, tenant)
    if building is not None and not (wanted and as_asked(building, tenant)):
        _retire(writer, building)
        building = None
    if not wanted:
        return None
    # The live one's model is not asked for its dimension again.
    known = live if live.embedding_model == tenant.embedding_model else tenant
    return building or _add(writer, tenant, embedder_of(known))


def as_asked(generation: Generation, tenant: Tenant) -> bool:
    """Whether a generation is what the tenant's settings ask for: chunker, embedding model, portable or not.

    The address of a model's server is not compared: it may move, and the model stays the same.
    """
    return (
        generation.embedding_model == tenant.embedding_model
        and generation.portable == tenant.portable
        and generation.chunker_fingerprint == _chunker(tenant)
    )


def roll_back(writer: Writer, vectors: VectorStore, embedder_of: EmbedderOf, number: int | None = None) -> Rollback:
    """Make a kept generation live again, the one that was live last unless `number` says which.

    The documents that came since are brought into it before, so that none is missing. The tenant's settings become its
    own, so that the next sync does not swap forward again; a build is given up. Raises NotFound when there is no such
    kept generation, and what the model of documents that came since raises: nothing is swapped then.
    """
    with writer.reading() as transaction:
        generations = Generations(transaction)
        live = generations.find_live()
        kept = [one for one in generations.kept() if number in (None, one.number)]
    if live is None or not kept:
        raise NotFound("kept generation", "" if number is None else str(number))
    target = kept[0]
    restore_lost(writer, vectors, target)
    added = build_missed(writer, target, live, vectors, embedder_of)
    with writer.writing() as transaction:
        # Harmless while the other one is still live, so that the swap itself takes no longer than a few rows.
        due = transaction.one(SQL["due_after_rollback"], generation=target.number)
    with writer.writing() as transaction:
        generations = Generations(transaction)
        building = generations.find_building()
        if building is not None:
            generations.set_state(building.number, "retired")
        swap(transaction, live, target)
        Catalog(transaction).change_tenant(
            embedding_model=target.embedding_model, chunker=target.chunker, portable=target.portable
        )
    return Rollback(live, target, due.changed, added)


def _chunker(tenant: Tenant) -> str:
    return chunker_fingerprint(tenant.chunker, tokenizer_for(tenant.embedding_model).name)


def _retire(writer: Writer, generation: Generation) -> None:
    with writer.writing() as transaction:
        Generations(transaction).set_state(generation.number, "retired")


def _add(writer: Writer, tenant: Tenant, model: Embedder) -> Generation:
    dimension, fingerprint = model.dimension, model.fingerprint
    with writer.writing() as transaction:
        return Generations(transaction).add(
            tenant, state="building", chunker=_chunker(tenant), model=fingerprint, dimension=dimension
        )
