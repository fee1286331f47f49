"""Stage `collection`: publish what is whole, take out what is gone, retire what nothing needs."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from minirag_pipelines.core.database import Row, Transaction, Writer, statements
from minirag_pipelines.core.errors import CollectionMismatch, NotFound
from minirag_pipelines.core.generations import Generations
from minirag_pipelines.core.records import Generation
from minirag_pipelines.core.vector_store import BATCH, VectorStore
from minirag_pipelines.ingest.restoring import restore_lost

SQL = statements("minirag_pipelines.ingest.sql", "publishing.sql")
# A document stays as it was when the model refuses more than this share of its chunks.
_REFUSED_SHARE = 0.5


@dataclass(slots=True)
class PublishingTally:
    """`published` counts documents, `restored` vectors that Chroma had lost."""

    published: int = 0
    restored: int = 0


def publish_pending(writer: Writer, vectors: VectorStore, *, batch: int = 200) -> PublishingTally:
    """Publish every pending document that is whole in the live generation.

    A document appears with its new version in one statement; what it displaces leaves Chroma later. One whose texts the
    model has refused for the most part stays as it was.
    """
    tally = PublishingTally()
    with writer.reading() as transaction:
        generations = Generations(transaction)
        live, building = generations.find_live(), generations.find_building()
    if live is None:
        return tally
    tally.restored = restore_lost(writer, vectors, live)
    for found in writer.pages(
        SQL["publishable"],
        "document_id",
        generation=live.number,
        chunker=live.chunker_fingerprint,
        model=live.model_fingerprint,
        most=batch,
    ):
        with writer.writing() as transaction:
            held = hold_back(transaction, live, found)
            whole = [row for row in found if row.document_id not in held]
            published, displaced = publish_batch(transaction, live, whole, writer.run_id)
            tally.published += published
            if building is not None:
                # Texts on their way to the next generation, of versions that are of the past now.
                displace(transaction, building, displaced)
    return tally


def hold_back(transaction: Transaction, generation: Generation, found: Sequence[Row]) -> set[uuid.UUID]:
    """Documents of which too little would be found stay as they were, and are quarantined; which they are."""
    refused = [row for row in found if row.refused > _REFUSED_SHARE * row.chunks]
    if refused:
        transaction.run(
            SQL["hold_back"],
            model=generation.model_fingerprint,
            chunker=generation.chunker_fingerprint,
            version_ids=[row.version_id for row in refused],
            refused=[row.refused for row in refused],
            chunks=[row.chunks for row in refused],
        )
    return {row.document_id for row in refused}


def publish_batch(
    transaction: Transaction, generation: Generation, found: Sequence[Row], run_id: str
) -> tuple[int, list[uuid.UUID]]:
    """Publish documents as they were found, under their row locks: how many, and which versions they displaced."""
    is_live = generation.state == "live"
    chunks = {row.document_id: row.chunks for row in found}
    ready = transaction.run(
        SQL["lock_documents"],
        generation=generation.number,
        document_ids=list(chunks),
        version_ids=[row.version_id for row in found],
        live=is_live,
    ).fetchall()
    if not ready:
        return 0, []
    versions = {row.document_id: row.version_id for row in found}
    document_ids = [row.document_id for row in ready]
    transaction.run(
        SQL["publish"],
        generation=generation.number,
        document_ids=document_ids,
        version_ids=[versions[document_id] for document_id in document_ids],
        chunks=[chunks[document_id] for document_id in document_ids],
        run_id=run_id,
    )
    if is_live:
        transaction.run(SQL["settle_documents"], document_ids=document_ids)
    displaced = [row.displaced for row in ready if row.displaced not in (None, versions[row.document_id])]
    displace(
        transaction,
        generation,
        displaced,
        documents=sum(row.displaced is None for row in ready),
        chunks=sum(chunks[row.document_id] - row.displaced_chunks for row in ready),
    )
    return len(ready), displaced


def displace(
    transaction: Transaction,
    generation: Generation,
    version_ids: Sequence[uuid.UUID],
    *,
    documents: int = 0,
    chunks: int = 0,
) -> None:
    """Mark what only these versions needed as leaving, and move the generation's counters."""
    entered = 0
    if version_ids:
        marked = transaction.run(
            SQL["displace"],
            generation=generation.number,
            chunker=generation.chunker_fingerprint,
            version_ids=list(version_ids),
        )
        # One that was being sent may be in Chroma: from now on it counts as being there.
        entered = sum(row.was == "sending" for row in marked)
    if documents or chunks or entered or version_ids:
        transaction.run(
            SQL["count_in"], generation=generation.number, documents=documents, chunks=chunks, texts=entered
        )


def remove_documents(transaction: Transaction, document_ids: Sequence[uuid.UUID]) -> tuple[int, int]:
    """Take documents out of every generation: from the commit on no question returns them.

    How many documents there were, and how many chunks of them were live.
    """
    removed = transaction.run(SQL["remove_documents"], document_ids=list(document_ids)).fetchall()
    versions = [row.version_id for row in removed if row.version_id]
    return len(removed), unpublish(transaction, [row.document_id for row in removed], versions)


def unpublish(
    transaction: Transaction, document_ids: Sequence[uuid.UUID], version_ids: Sequence[uuid.UUID] = ()
) -> int:
    """Delete the documents' published rows everywhere; their texts leave, and those of the other versions given.

    How many chunks of the live generation that were.
    """
    live_chunks = 0
    rows = transaction.run(SQL["unpublish"], document_ids=list(document_ids)).fetchall()
    # Texts may be on their way to a generation in which their document is not published yet.
    versions = {row.version_id for row in rows} | set(version_ids)
    for generation in Generations(transaction).all():
        gone = [row for row in rows if row.generation == generation.number]
        if generation.state == "live":
            live_chunks = sum(row.chunks for row in gone)
        if generation.state != "retired" and versions:
            displace(
                transaction,
                generation,
                sorted(versions),
                documents=-len(gone),
                chunks=-sum(row.chunks for row in gone),
            )
    return live_chunks


def remove_source(transaction: Transaction, name: str) -> int:
    """Remove a source and the documents that no other source lists; how many. Raises NotFound."""
    row = transaction.run(SQL["remove_source"], name=name).fetchone()
    if row is None:
        raise NotFound("source", name)
    unlisted = transaction.run(SQL["unlist_source"], source_id=row.source_id).fetchall()
    move_readers(transaction, [one.document_id for one in unlisted if one.elsewhere])
    return remove_documents(transaction, [one.document_id for one in unlisted if not one.elsewhere])[0]


def move_readers(transaction: Transaction, document_ids: Sequence[uuid.UUID]) -> None:
    """Have documents that their source no longer lists read through another one that does."""
    transaction.run(SQL["move_readers"], document_ids=list(document_ids))


def freeze(transaction: Transaction, generation: Generation) -> None:
    """A generation that is live no longer: what was being sent to it and nobody wants there now is to leave."""
    sending = transaction.run(SQL["stop_sending"], generation=generation.number).rowcount
    if sending:
        transaction.run(SQL["count_in"], generation=generation.number, documents=0, chunks=0, texts=sending)


def retire(writer: Writer, vectors: VectorStore, *, after_s: float, keep: int) -> int:
    """Delete from Chroma what has been leaving for long enough: searches under way are over by then. How many vectors.

    Of the generations that were live once, `keep` are kept.
    """
    retired = 0
    with writer.reading() as transaction:
        superfluous = Generations(transaction).kept()[keep:]
    if superfluous:
        with writer.writing() as transaction:
            for generation in superfluous:
                Generations(transaction).set_state(generation.number, "retired")
    with writer.reading() as transaction:
        generations = Generations(transaction).all()
        due = {row.number for row in transaction.run(SQL["retired_due"], after_s=after_s)}
    for generation in generations:
        if generation.number in due:
            writer.check()
            vectors.drop(generation)
            with writer.writing() as transaction:
                Generations(transaction).delete(generation.number)
        elif generation.state != "retired":
            retired += _retire_texts(writer, vectors, generation, after_s)
    return retired


def _retire_texts(writer: Writer, vectors: VectorStore, generation: Generation, after_s: float) -> int:
    retired = 0
    while True:
        with writer.reading() as transaction:
            due = transaction.run(
                SQL["due_to_leave"], generation=generation.number, after_s=after_s, most=BATCH
            ).fetchall()
        if not due:
            return retired
        hashes = [row.text_hash for row in due]
        with suppress(CollectionMismatch):  # a collection that is lost holds none of them
            vectors.collection(generation).delete(hashes, check=writer.check)
        with writer.writing() as transaction:
            gone = transaction.run(SQL["forget_texts"], generation=generation.number, text_hashes=hashes).rowcount
            transaction.run(SQL["count_in"], generation=generation.number, documents=0, chunks=0, texts=-gone)
        retired += gone
