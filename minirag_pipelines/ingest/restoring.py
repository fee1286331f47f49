"""A collection that Chroma has lost, or lost a part of, filled again from PostgreSQL: no model is asked."""

from __future__ import annotations

import logging

from minirag_pipelines.core.database import Writer, statements
from minirag_pipelines.core.errors import CollectionMismatch
from minirag_pipelines.core.providers.models import vector_of
from minirag_pipelines.core.records import Generation, heading_path
from minirag_pipelines.core.vector_store import BATCH, VectorStore

SQL = statements("minirag_pipelines.ingest.sql", "restoring.sql")
_log = logging.getLogger(__name__)


def restore_lost(writer: Writer, vectors: VectorStore, generation: Generation) -> int:
    """Write every vector anew when Chroma holds fewer than PostgreSQL says; how many were written.

    Comparing the counts takes milliseconds, so every sync does it. What is on its way in or out may be there or not.
    """
    with writer.reading() as transaction:
        texts = transaction.one(SQL["expected"], generation=generation.number)
    try:
        found = vectors.count(generation)
    except CollectionMismatch:
        vectors.forget_opened(generation)
        found = -1
    if found >= texts.least:
        if found > texts.most:
            _log.warning(
                "Chroma holds %s vectors that PostgreSQL does not know: minirag reconcile %s --repair deletes them.",
                f"{found - texts.most:,}",
                writer.tenant_id,
            )
        return 0
    _log.warning("Chroma holds %s of %s vectors; all are written anew.", f"{max(found, 0):,}", f"{texts.least:,}")
    return _write_all(writer, vectors, generation)


def _write_all(writer: Writer, vectors: VectorStore, generation: Generation) -> int:
    collection = vectors.create(generation)
    written = 0
    for rows in writer.pages(
        SQL["present_vectors"],
        "text_hash",
        after=b"",
        generation=generation.number,
        model=generation.model_fingerprint,
        chunker=generation.chunker_fingerprint,
        most=BATCH,
    ):
        passages = {row.text_hash: (row.text, heading_path(row.headings)) for row in rows}
        collection.upsert(
            {row.text_hash: vector_of(row.vector) for row in rows}, passages if generation.portable else None
        )
        written += len(rows)
    return written
