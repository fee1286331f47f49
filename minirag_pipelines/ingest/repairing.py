"""One generation's collection mended from the vectors that PostgreSQL stores: no model is asked."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from minirag_pipelines.core.database import Row, Transaction, Writer
from minirag_pipelines.core.providers.models import stored_vector, vector_of
from minirag_pipelines.core.records import Generation
from minirag_pipelines.core.vector_store import BATCH, Collection, VectorStore
from minirag_pipelines.ingest.comparing import (
    FIRST,
    PAGE,
    SQL,
    Drift,
    opened_collection,
    same_vector,
    unsettled_in,
    wrong_counters,
    wrong_passages,
)
from minirag_pipelines.ingest.embedding import SQL as EMBEDDING
from minirag_pipelines.ingest.embedding import index, passages_of
from minirag_pipelines.ingest.progress import Progress
from minirag_pipelines.ingest.publishing import SQL as PUBLISHING
from minirag_pipelines.ingest.restoring import delete_foreign


@dataclass(slots=True)
class Mended:
    """What a repair did: vectors `written` and ids `deleted` in Chroma; vectors `recovered` from it.

    `marked` texts have no stored vector: their documents wait for the next sync. `counters` were set.
    """

    written: int = 0
    deleted: int = 0
    recovered: int = 0
    marked: int = 0
    counters: int = 0


class Repair:
    """One generation, mended from stored vectors by the tenant's writer, a committed batch after another."""

    def __init__(
        self, writer: Writer, vectors: VectorStore, generation: Generation, drift: Drift, mended: Mended
    ) -> None:
        self._writer = writer
        self._vectors = vectors
        self._generation = generation
        self._drift = drift
        self._mended = mended
        # What is wrong in the sample may be wrong anywhere.
        self._every = drift.lost or drift.unfindable > 0
        self._closely = drift.wrong > 0 or drift.wrong_passages > 0

    def run(self) -> None:
        collection = None if self._drift.lost else opened_collection(self._vectors, self._generation)
        if collection is None:
            self._every = True
            self._writer.check()
            self._vectors.drop(self._generation)  # one of another model under this name
            collection = self._vectors.create(self._generation)
        self._mend_texts(collection)
        self._mend_published(collection)
        if self._drift.foreign:
            self._mended.deleted += delete_foreign(self._writer, collection, self._generation, self._drift.foreign)
        self._set_counters()

    def _mend_texts(self, collection: Collection) -> None:
        """Whatever PostgreSQL says is there is written where it is not, or not so."""
        progress = Progress("Mending vectors", self._drift.texts)
        for rows in self._writer.pages(SQL["indexed_page"], "text_hash", after=FIRST, most=PAGE, **self._keys()):
            present = collection.present([row.text_hash for row in rows])
            there = [row for row in rows if row.state == "there"]
            embedded = [row.text_hash for row in there if row.embedded]
            for start in range(0, len(embedded), BATCH):
                self._write(collection, embedded[start : start + BATCH], present)
            unembedded = [row.text_hash for row in there if not row.embedded]
            if unembedded and self._generation.state == "kept":
                # No sync embeds for a kept generation: what Chroma still holds of it is all there is.
                self._recover(collection, unembedded)
            elif unembedded:
                self._mark(unembedded)
            progress.add(len(rows))

    def _write(self, collection: Collection, hashes: Sequence[bytes], present: set[bytes]) -> None:
        wanted = [one for one in hashes if self._every or self._closely or one not in present]
        if not wanted:
            return
        stored = {row.text_hash: row for row in self._stored(wanted)}
        wrong = set(stored)
        if self._closely and not self._every:
            held = collection.vectors([one for one in stored if one in present])
            wrong -= {one for one, vector in held.items() if same_vector(vector, vector_of(stored[one].vector))}
            if self._generation.portable:
                wrong |= set(wrong_passages(collection, list(stored.values())))
        if wrong:
            # The rows say `there` already, so that no id is ever in Chroma without one.
            self._writer.check()
            collection.upsert(
                {one: vector_of(stored[one].vector) for one in wrong},
                passages_of(self._generation, [stored[one] for one in wrong]),
            )
            self._mended.written += len(wrong)

    def _recover(self, collection: Collection, hashes: Sequence[bytes]) -> None:
        """Store the vectors that Chroma holds of these texts."""
        held = {
            one: vector
            for one, vector in collection.vectors(hashes).items()
            if vector.shape == (self._generation.dimension,) and np.isfinite(vector).all() and vector.any()
        }
        with self._writer.writing() as transaction:
            transaction.run(
                EMBEDDING["record_vectors"],
                model=self._generation.model_fingerprint,
                text_hashes=list(held),
                vectors=[stored_vector(vector) for vector in held.values()],
                run_id=None,
            )
        self._mended.recovered += len(held)

    def _mend_published(self, collection: Collection) -> None:
        """Texts of published documents that are not in the collection: written where a vector is stored."""
        for rows in self._writer.pages(SQL["published_page"], "document_id", most=PAGE, **self._keys()):
            for waiting in (False, True):
                versions = [row.version_id for row in rows if not row.settled and row.waiting is waiting]
                if versions:
                    self._settle(collection, versions, waiting=waiting)

    def _settle(self, collection: Collection, versions: Sequence[uuid.UUID], *, waiting: bool) -> None:
        with self._writer.reading() as transaction:
            hashes = [row.text_hash for row in unsettled_in(transaction, self._generation, versions)]
        for start in range(0, len(hashes), BATCH):
            batch = hashes[start : start + BATCH]
            stored = {row.text_hash: row for row in self._stored(batch)}
            if stored:
                index(
                    self._writer,
                    self._generation,
                    collection,
                    {one: vector_of(row.vector) for one, row in stored.items()},
                    passages_of(self._generation, stored.values()),
                )
                self._mended.written += len(stored)
            # What a sync is due to do, it does; nothing is embedded for a kept generation.
            unembedded = [one for one in batch if one not in stored]
            if unembedded and not waiting and self._generation.state != "kept":
                self._mark(unembedded)

    def _mark(self, hashes: Sequence[bytes]) -> None:
        """Have texts without a stored vector embedded by the next sync; those that nothing needs leave."""
        with self._writer.writing() as transaction:
            holders = transaction.run(
                SQL["holders"],
                generation=self._generation.number,
                chunker=self._generation.chunker_fingerprint,
                text_hashes=list(hashes),
            ).fetchall()
            wanted = {row.text_hash for row in holders}
            document_ids = sorted({row.document_id for row in holders})
            doubted = self._doubt(transaction, sorted(wanted), "sending")
            self._doubt(transaction, [one for one in hashes if one not in wanted], "leaving")
            unpublished: list[Row] = []
            if self._generation.state == "live":
                transaction.run(SQL["make_pending"], document_ids=document_ids)
            elif self._generation.state == "building":
                unpublished = transaction.run(
                    SQL["unpublish"], generation=self._generation.number, document_ids=document_ids
                ).fetchall()
            transaction.run(
                PUBLISHING["count_in"],
                generation=self._generation.number,
                documents=-len(unpublished),
                chunks=-sum(row.chunks for row in unpublished),
                texts=-doubted,
            )
        self._mended.marked += len(wanted)

    def _doubt(self, transaction: Transaction, hashes: Sequence[bytes], state: str) -> int:
        return len(
            transaction.run(
                SQL["doubt"], generation=self._generation.number, text_hashes=list(hashes), state=state
            ).fetchall()
        )

    def _set_counters(self) -> None:
        """Counted under the generation's row lock: whoever changes what is counted changes the counters too."""
        with self._writer.writing() as transaction:
            transaction.run(SQL["lock_generation"], generation=self._generation.number)
            row = transaction.one(SQL["counters"], generation=self._generation.number)
            wrong = wrong_counters(row)
            if wrong:
                transaction.run(
                    SQL["set_counters"],
                    generation=self._generation.number,
                    documents=row.documents_counted,
                    chunks=row.chunks_counted,
                    texts=row.texts_counted,
                )
            self._mended.counters += len(wrong)

    def _stored(self, hashes: Sequence[bytes]) -> list[Row]:
        with self._writer.reading() as transaction:
            return transaction.run(
                SQL["stored"],
                model=self._generation.model_fingerprint,
                chunker=self._generation.chunker_fingerprint,
                portable=self._generation.portable,
                text_hashes=list(hashes),
            ).fetchall()

    def _keys(self) -> dict[str, object]:
        return {"generation": self._generation.number, "model": self._generation.model_fingerprint}
