"""Stage `embeddings`: a vector for every text that is wanted, and all of them in the generation's collection."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

from minirag_pipelines.core.database import Row, Transaction, Writer, statements
from minirag_pipelines.core.errors import ContentRefused
from minirag_pipelines.core.providers.models import Embedded, Embedder, Usage, Vectors, stored_vector, vector_of
from minirag_pipelines.core.records import Generation, Tenant, embedded_text, heading_path
from minirag_pipelines.core.vector_store import BATCH, Collection, VectorStore
from minirag_pipelines.ingest.progress import Progress

SQL = statements("minirag_pipelines.ingest.sql", "embedding.sql")
# The model of a tenant's settings, or of a generation that was made from them.
EmbedderOf = Callable[[Tenant | Generation], Embedder]
# Texts that are embedded and committed together: what a killed sync may have paid for in vain.
EMBED_BATCH = 256


@dataclass(slots=True)
class EmbeddingTally:
    """Texts `embedded` by the model and `reused` from earlier vectors; `refused` counts what it will never take."""

    embedded: int = 0
    reused: int = 0
    refused: int = 0
    usage: Usage = field(default_factory=Usage)

    def __iadd__(self, other: EmbeddingTally) -> Self:
        self.embedded += other.embedded
        self.reused += other.reused
        self.refused += other.refused
        self.usage += other.usage
        return self


def embed_pending(
    writer: Writer, live: Generation, vectors: VectorStore, embedder_of: EmbedderOf, tally: EmbeddingTally
) -> None:
    """Embed and index the texts that pending documents still lack, one committed batch after another.

    Texts that the tenant has embedded before with this model are reused. Interrupted, the next call goes on behind
    the last committed batch. Memory is one batch. Model and collection are asked for only when there is work. The tally
    is true also when ProviderUnavailable is raised, which says that a rerun may help.
    """
    progress: Progress | None = None
    pages = writer.pages(SQL["documents_to_embed"], "document_id", most=50)
    versions = ([row.version_id for row in documents] for documents in pages)
    for hashes in unsettled_texts(writer, live, versions):
        progress = progress or Progress("Embedding texts", _wanted(writer, live))
        embed_texts(writer, live, hashes, vectors, embedder_of, tally)
        progress.add(len(hashes))
    with writer.reading() as transaction:
        tally.refused = transaction.one(
            SQL["refused"], model=live.model_fingerprint, chunker=live.chunker_fingerprint
        ).texts


def unsettled_texts(
    writer: Writer, generation: Generation, versions: Iterable[Sequence[uuid.UUID]]
) -> Iterator[list[bytes]]:
    """Hashes of the versions' texts that are not settled, at most EMBED_BATCH at a time, in reading order."""
    waiting: list[bytes] = []
    for version_ids in versions:
        with writer.reading() as transaction:
            found = transaction.run(
                SQL["unsettled"],
                generation=generation.number,
                chunker=generation.chunker_fingerprint,
                model=generation.model_fingerprint,
                version_ids=list(version_ids),
            ).fetchall()
        known = set(waiting)
        waiting += [row.text_hash for row in found if row.text_hash not in known]
        while len(waiting) >= EMBED_BATCH:
            yield waiting[:EMBED_BATCH]
            waiting = waiting[EMBED_BATCH:]
    if waiting:
        yield waiting


def embed_texts(
    writer: Writer,
    generation: Generation,
    hashes: Sequence[bytes],
    store: VectorStore,
    embedder_of: EmbedderOf,
    tally: EmbeddingTally,
) -> None:
    """Settle these texts in a generation: embedded or refused, and in its collection."""
    with writer.reading() as transaction:
        known = transaction.run(
            SQL["known_vectors"], model=generation.model_fingerprint, text_hashes=list(hashes)
        ).fetchall()
        vectors = {row.text_hash: vector_of(row.vector) for row in known}
        rows = (
            transaction.run(SQL["texts"], chunker=generation.chunker_fingerprint, text_hashes=list(hashes)).fetchall()
            if generation.portable or len(vectors) < len(hashes)
            else []
        )
    passages = {row.text_hash: (row.text, heading_path(row.headings)) for row in rows}
    texts = {row.text_hash: embedded_text(row.headings, row.text) for row in rows if row.text_hash not in vectors}
    tally.reused += len(vectors)
    if texts:
        vectors |= _embed(writer, generation, embedder_of(generation), texts, tally)
    settled = list(vectors)
    for start in range(0, len(settled), BATCH):
        batch = {text_hash: vectors[text_hash] for text_hash in settled[start : start + BATCH]}
        index(writer, generation, store.create(generation), batch, passages if generation.portable else None)


def _wanted(writer: Writer, live: Generation) -> int:
    """How many chunks are wanted in all: no fewer than the texts to come."""
    with writer.reading() as transaction:
        return int(transaction.one(SQL["wanted_chunks"], chunker=live.chunker_fingerprint).chunks)


def _embed(
    writer: Writer, generation: Generation, embedder: Embedder, texts: Mapping[bytes, str], tally: EmbeddingTally
) -> dict[bytes, Vectors]:
    """Vectors of texts that have none yet, recorded before anything is made of them."""
    vectors: dict[bytes, Vectors] = {}
    refused: dict[bytes, str] = {}
    usage = Usage()
    for hashes, result in _results(embedder, list(texts), texts):
        if isinstance(result, ContentRefused):
            refused[hashes[0]] = result.reason
        else:
            vectors |= dict(zip(hashes, result.vectors, strict=True))
            usage += result.usage
    with writer.writing() as transaction:
        transaction.run(
            SQL["record_vectors"],
            model=generation.model_fingerprint,
            text_hashes=list(vectors),
            vectors=[stored_vector(vector) for vector in vectors.values()],
            run_id=writer.run_id,
        )
        transaction.run(
            SQL["record_usage"],
            stage="embed",
            model=generation.embedding_model,
            requests=usage.requests,
            unpriced=usage.requests if usage.cost_usd is None else 0,
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=0,
            cost_usd=usage.cost_usd or 0,
        )
        for text_hash, reason in refused.items():
            transaction.run(SQL["add_refusal"], model=generation.model_fingerprint, text_hash=text_hash, reason=reason)
    tally.embedded += len(vectors)
    tally.usage += usage
    return vectors


def _results(
    embedder: Embedder, hashes: list[bytes], texts: Mapping[bytes, str]
) -> Iterator[tuple[list[bytes], Embedded | ContentRefused]]:
    """Vectors of the texts; a text that spoils the request for the others is found by halving.

    An embedder that has found it itself says what became of the others: they are not asked for again.
    """
    try:
        yield hashes, embedder.embed([texts[text_hash] for text_hash in hashes])
    except ContentRefused as refusal:
        if refusal.parts:
            yield from ((hashes[start:end], result) for start, end, result in refusal.parts)
        elif len(hashes) == 1:
            yield hashes, refusal
        else:
            for half in (hashes[: len(hashes) // 2], hashes[len(hashes) // 2 :]):
                yield from _results(embedder, half, texts)


def passages_of(generation: Generation, rows: Iterable[Row]) -> dict[bytes, tuple[str, str]] | None:
    """Each text with its heading path, as a portable generation has them in Chroma; None for another one."""
    if not generation.portable:
        return None
    return {row.text_hash: (row.text or "", heading_path(row.headings or ())) for row in rows}


def index(
    writer: Writer,
    generation: Generation,
    collection: Collection,
    vectors: Mapping[bytes, Vectors],
    passages: Mapping[bytes, tuple[str, str]] | None,
) -> None:
    """`sending` is committed before Chroma is told, `there` after it has answered."""
    hashes = list(vectors)
    with writer.writing() as transaction:
        sent = transaction.run(SQL["record_sending"], generation=generation.number, text_hashes=hashes)
        revived = sum(row.was_leaving for row in sent)
        _count(transaction, generation, -revived)
    collection.upsert(vectors, passages, check=writer.check_if_late)
    with writer.writing() as transaction:
        there = transaction.run(SQL["record_there"], generation=generation.number, text_hashes=hashes).rowcount
        _count(transaction, generation, there)


def _count(transaction: Transaction, generation: Generation, texts: int) -> None:
    if texts:
        transaction.run(SQL["count_texts"], generation=generation.number, texts=texts)
