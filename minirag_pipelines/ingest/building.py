"""The next generation: built beside the live one in slices, verified, and made live by one row."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from minirag_pipelines.core.database import Row, Transaction, Writer, statements
from minirag_pipelines.core.errors import CollectionMismatch, GenerationUnsound
from minirag_pipelines.core.generations import Generations
from minirag_pipelines.core.providers.models import Vectors, vector_of
from minirag_pipelines.core.providers.tokenizers import tokenizer_for
from minirag_pipelines.core.records import Generation
from minirag_pipelines.core.vector_store import VectorStore
from minirag_pipelines.ingest.cutting import CuttingTally, cut_version
from minirag_pipelines.ingest.embedding import EmbedderOf, EmbeddingTally, embed_texts, unsettled_texts
from minirag_pipelines.ingest.progress import Progress
from minirag_pipelines.ingest.publishing import freeze, hold_back, publish_batch
from minirag_pipelines.ingest.restoring import restore_lost

SQL = statements("minirag_pipelines.ingest.sql", "building.sql")
_PAGE = 100
# What a verification asks Chroma for, and how much of it must be found; an approximate index may miss one.
_SAMPLE = 64
_RECALLED = 0.95


@dataclass(slots=True)
class BuildingTally:
    """A slice of a build: documents `built` in it and `left` to build, in the generation `number`.

    `dropped` are the chunks that another chunker had cut, when it is `swapped` in.
    """

    number: int = 0
    built: int = 0
    left: int = 0
    swapped: bool = False
    dropped: int = 0
    chunks: CuttingTally = field(default_factory=CuttingTally)
    embeddings: EmbeddingTally = field(default_factory=EmbeddingTally)


def build_slice(
    writer: Writer,
    building: Generation,
    live: Generation,
    vectors: VectorStore,
    embedder_of: EmbedderOf,
    tally: BuildingTally,
    *,
    slice_s: float,
) -> None:
    """Go on with a build for about `slice_s`, from what is parsed already; whole and verified, it becomes live.

    Every document goes in the version that answers or is about to; nothing is read. Interrupted, the next call goes on
    behind the last committed batch. Raises ProviderUnavailable when a rerun may help, and GenerationUnsound when what
    was built does not hold: the live generation goes on answering in either case, and the tally is true.
    """
    _Build(writer, building, live, vectors, embedder_of, tally, until=time.monotonic() + slice_s).run()
    if not tally.left:
        restore_lost(writer, vectors, building)
        _verify(writer, building, vectors)
        tally.swapped = _swap_if_whole(writer, building, live)
        if tally.swapped and building.chunker_fingerprint != live.chunker_fingerprint:
            tally.dropped = live.chunks


def build_missed(
    writer: Writer, kept: Generation, live: Generation, vectors: VectorStore, embedder_of: EmbedderOf
) -> int:
    """Bring into a kept generation what would be missed if it answered instead of the live one; how many documents.

    Raises ProviderUnavailable or ProviderRefused when its model can't be asked: what was done is done, and what is left
    is left to the next call.
    """
    tally = BuildingTally(kept.number)
    _Build(writer, kept, live, vectors, embedder_of, tally, only_missed=True).run()
    if tally.left:
        raise GenerationUnsound(kept.number, f"{tally.left} documents would be missing from it.")
    return tally.built


class _Build:
    """One slice: pages of documents, each cut, embedded and published into the generation before the next."""

    def __init__(
        self,
        writer: Writer,
        building: Generation,
        live: Generation,
        vectors: VectorStore,
        embedder_of: EmbedderOf,
        tally: BuildingTally,
        *,
        until: float = math.inf,
        only_missed: bool = False,
    ) -> None:
        self._writer = writer
        self._building = building
        self._live = live
        self._vectors = vectors
        self._tokenizer = tokenizer_for(building.embedding_model)
        self._embedder_of = embedder_of
        self._tally = tally
        self._until = until
        self._wanted = {"generation": building.number, "live": live.number, "only_missed": only_missed}

    def run(self) -> None:
        self._tally.left = self._unbuilt()
        self._vectors.create(self._building)
        progress = Progress(f"Building generation {self._building.number}", self._tally.left)
        # Where a document is held back, what is live of it is to be built instead.
        while self._build_all(progress):
            pass
        self._tally.left = self._unbuilt()
        with self._writer.reading() as transaction:
            self._tally.embeddings.refused = transaction.one(
                SQL["refused"],
                generation=self._building.number,
                model=self._building.model_fingerprint,
                chunker=self._building.chunker_fingerprint,
            ).texts

    def _build_all(self, progress: Progress) -> bool:
        """Whether there is more to build in this slice."""
        held = 0
        for documents in self._writer.pages(SQL["documents_to_build"], "document_id", most=_PAGE, **self._wanted):
            whole = self._cut(documents) and self._embed(documents)
            held += self._publish(documents)
            progress.add(len(documents))
            if not whole or self._is_over():
                return False
        return held > 0

    def _is_over(self) -> bool:
        return time.monotonic() >= self._until

    def _unbuilt(self) -> int:
        with self._writer.reading() as transaction:
            return int(transaction.one(SQL["unbuilt"], **self._wanted).documents)

    def _cut(self, documents: Sequence[Row]) -> bool:
        """Whether all were cut before the time was over."""
        chunker = self._building.chunker_fingerprint
        with self._writer.reading() as transaction:
            uncut = transaction.run(
                SQL["uncut"], chunker=chunker, version_ids=sorted({row.version_id for row in documents})
            ).fetchall()
        for row in uncut:
            with self._writer.writing() as transaction:
                cut_version(
                    transaction,
                    row.version_id,
                    self._building,
                    self._tokenizer,
                    self._writer.run_id,
                    self._tally.chunks,
                )
            if self._is_over():
                return False
        return True

    def _embed(self, documents: Sequence[Row]) -> bool:
        """Whether all were embedded before the time was over."""
        for hashes in unsettled_texts(self._writer, self._building, [[row.version_id for row in documents]]):
            embed_texts(
                self._writer,
                self._building,
                hashes,
                self._vectors,
                self._embedder_of,
                self._tally.embeddings,
            )
            if self._is_over():
                return False
        return True

    def _publish(self, documents: Sequence[Row]) -> int:
        """How many documents were held back."""
        with self._writer.writing() as transaction:
            ready = transaction.run(
                SQL["buildable"],
                generation=self._building.number,
                live=self._live.number,
                chunker=self._building.chunker_fingerprint,
                document_ids=[row.document_id for row in documents],
                version_ids=[row.version_id for row in documents],
            ).fetchall()
            # What is live is taken over with what can be had of it.
            held = hold_back(transaction, self._building, [row for row in ready if row.unlike_live])
            whole = [row for row in ready if row.document_id not in held]
            if whole:
                published, _ = publish_batch(transaction, self._building, whole, self._writer.run_id)
                self._tally.built += published
            return len(held)


def _verify(writer: Writer, building: Generation, vectors: VectorStore) -> None:
    """Raises GenerationUnsound unless the collection holds the vectors it must, and finds them."""
    with writer.reading() as transaction:
        texts = Generations(transaction).generation(building.number).texts
        sample = _sample(transaction, building)
    if not texts:
        return
    try:
        collection = vectors.collection(building)
        found = collection.vectors(list(sample))
    except CollectionMismatch as error:
        raise GenerationUnsound(building.number, error.reason) from error
    missing = len(sample) - len(found)
    if missing:
        raise GenerationUnsound(building.number, f"{missing} of {len(sample)} vectors asked for are not in Chroma.")
    for text_hash, vector in found.items():
        if vector.shape != (building.dimension,):
            raise GenerationUnsound(
                building.number, f"a vector has {vector.size} numbers instead of {building.dimension}."
            )
        if not np.isfinite(vector).all() or not vector.any():
            raise GenerationUnsound(building.number, "a vector is not finite, or zero.")
        if not np.allclose(vector, sample[text_hash], atol=1e-5):
            raise GenerationUnsound(building.number, "a vector in Chroma is not the one that was made.")
    unfound = len(collection.unfound(sample))
    if unfound > (1 - _RECALLED) * len(sample):
        raise GenerationUnsound(
            building.number, f"{unfound} of {len(sample)} texts are not found by their own vectors."
        )


def _sample(transaction: Transaction, generation: Generation) -> dict[bytes, Vectors]:
    step = 256 / _SAMPLE
    points = [bytes([int(number * step)]) for number in range(_SAMPLE)]
    rows = transaction.run(
        SQL["sample"], generation=generation.number, model=generation.model_fingerprint, points=points
    )
    return {row.text_hash: vector_of(row.vector) for row in rows}


def swap(transaction: Transaction, live: Generation, new: Generation) -> None:
    """Make a generation live, and keep the one that was. Documents that waited for one that has them wait no longer."""
    transaction.run(SQL["settle_published"], generation=new.number)
    freeze(transaction, live)
    generations = Generations(transaction)
    generations.set_state(live.number, "kept")
    generations.set_state(new.number, "live")


def _swap_if_whole(writer: Writer, building: Generation, live: Generation) -> bool:
    """Make the generation live, if it still has every document."""
    with writer.writing() as transaction:
        left = transaction.one(SQL["unbuilt"], generation=building.number, live=live.number, only_missed=False)
        if left.documents:
            return False
        swap(transaction, live, building)
    return True
