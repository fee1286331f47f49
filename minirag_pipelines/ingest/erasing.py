"""What is deleted from PostgreSQL: all of a forgotten document at once, what nothing points at after some days."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from minirag_pipelines.core.database import Transaction, Writer, statements
from minirag_pipelines.core.generations import Generations
from minirag_pipelines.ingest.publishing import unpublish

SQL = statements("minirag_pipelines.ingest.sql", "erasing.sql")
_BATCH = 20
_VECTORS = 1000


def erase_forgotten(writer: Writer) -> int:
    """Take forgotten documents out of every generation, and delete what was made of them alone; how many they were."""
    erased = 0
    while True:
        with writer.reading() as transaction:
            due = transaction.run(SQL["due_to_erase"], most=_BATCH).fetchall()
        if not due:
            return erased
        document_ids = [row.document_id for row in due]
        with writer.writing() as transaction:
            versions = [row.version_id for row in transaction.run(SQL["versions_of"], document_ids=document_ids)]
            unpublish(transaction, document_ids, versions)
            transaction.run(SQL["mark_erased"], document_ids=document_ids)
            _delete_orphans(transaction, versions, left_lately=True)
        erased += len(due)


def prune(writer: Writer, *, after_days: float) -> int:
    """Delete what nothing has pointed at for so many days; how many versions.

    What points at a version is a document that holds it, and every generation in which it is published. What was cut
    and embedded for a generation that is deleted goes too, where no other one has its chunker or its model.
    """
    pruned = 0
    with writer.reading() as transaction:
        # Fixed now: what is looked at again later is not due once more.
        before = transaction.one(SQL["days_ago"], days=after_days).moment
        generations = transaction.run(SQL["deleted_generations"], before=before).fetchall()
    while True:
        with writer.reading() as transaction:
            due = transaction.run(SQL["due_to_prune"], before=before, most=_BATCH).fetchall()
        if not due:
            break
        rows = {
            "document_ids": [row.document_id for row in due],
            "version_ids": [row.version_id for row in due],
        }
        with writer.writing() as transaction:
            transaction.run(SQL["take_left"], **rows)
            pruned += _delete_orphans(transaction, rows["version_ids"], left_lately=False)
            transaction.run(SQL["postpone"], **rows)
    for generation in generations:
        _prune_generation(writer, generation.number)
    return pruned


def _prune_generation(writer: Writer, number: int) -> None:
    with writer.reading() as transaction:
        unused = transaction.one(SQL["unused_makers"], number=number)
    done = False
    while unused.chunker and not done:
        with writer.writing() as transaction:
            uncut = transaction.run(SQL["delete_chunkings"], chunker=unused.chunker, most=_BATCH).fetchall()
            hashes = sorted({text_hash for row in uncut for text_hash in row.text_hashes})
            transaction.run(SQL["delete_orphaned_vectors"], text_hashes=hashes)
            done = not uncut
    done = False
    while unused.model and not done:
        with writer.writing() as transaction:
            done = not transaction.run(SQL["delete_vectors"], model=unused.model, most=_VECTORS).rowcount
            transaction.run(SQL["delete_refusals"], model=unused.model)
    with writer.writing() as transaction:
        Generations(transaction).remove(number)


def _delete_orphans(transaction: Transaction, version_ids: Sequence[uuid.UUID], *, left_lately: bool) -> int:
    """Delete those of the versions that nothing points at, with their chunks and the vectors of no other text.

    How many they were. `left_lately` are those, too, whose days are not over.
    """
    orphaned = transaction.run(
        SQL["orphaned"], version_ids=sorted(set(version_ids)), left_lately=left_lately
    ).fetchall()
    if orphaned:
        versions = [row.version_id for row in orphaned]
        transaction.run(SQL["clear_pointers"], version_ids=versions)
        texts = transaction.run(SQL["texts_of_versions"], version_ids=versions).fetchall()
        transaction.run(SQL["delete_versions"], version_ids=versions)
        transaction.run(SQL["delete_orphaned_vectors"], text_hashes=[row.text_hash for row in texts])
    return len(orphaned)
