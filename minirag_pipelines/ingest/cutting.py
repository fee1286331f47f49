"""Stage `chunks`: cut versions that the target generation's chunker has not cut."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from psycopg.types.json import Jsonb

from minirag_pipelines.core.database import Transaction, Writer, statements
from minirag_pipelines.core.providers.models import Tokenizer
from minirag_pipelines.core.records import ChunkDraft, Generation, ParsedDocument, embedded_text, text_hash
from minirag_pipelines.ingest.chunking import chunk
from minirag_pipelines.ingest.reading import element_of

SQL = statements("minirag_pipelines.ingest.sql", "cutting.sql")


@dataclass(slots=True)
class CuttingTally:
    """`added` and `dropped` are against what is published now; `kept` have a text that is published already.

    `tokens` counts the new chunks by their length.
    """

    versions: int = 0
    added: int = 0
    kept: int = 0
    dropped: int = 0
    tokens: Counter[int] = field(default_factory=Counter)


def cut_pending(writer: Writer, live: Generation, tokenizer: Tokenizer, *, batch: int = 32) -> CuttingTally:
    """Cut what pending documents point at and the live generation's chunker has not cut, committed in batches."""
    tally = CuttingTally()
    for rows in writer.pages(SQL["versions_to_cut"], "version_id", chunker=live.chunker_fingerprint, most=batch):
        with writer.writing() as transaction:
            for row in rows:
                cut_version(transaction, row.version_id, live, tokenizer, writer.run_id, tally)
    _compare(writer, live, tally)
    return tally


def cut_version(
    transaction: Transaction,
    version_id: uuid.UUID,
    generation: Generation,
    tokenizer: Tokenizer,
    run_id: str,
    tally: CuttingTally,
) -> None:
    """Cut a version with a generation's chunker; the tally learns how many chunks of which length that gave."""
    drafts = chunk(parsed_version(transaction, version_id), generation.chunker, tokenizer)
    record_chunks(transaction, version_id, generation.chunker_fingerprint, drafts, run_id)
    tally.versions += 1
    tally.tokens.update(draft.tokens for draft in drafts)


def record_chunks(
    transaction: Transaction, version_id: uuid.UUID, chunker: str, drafts: Sequence[ChunkDraft], run_id: str
) -> None:
    """Store a version's chunks; no chunks are a result too."""
    added = transaction.run(
        SQL["add_chunking"],
        version_id=version_id,
        chunker=chunker,
        chunks=len(drafts),
        tokens=sum(draft.tokens for draft in drafts),
        run_id=run_id,
    ).fetchone()
    if added is None or not drafts:
        return
    transaction.run(
        SQL["add_chunks"],
        version_id=version_id,
        chunker=chunker,
        ordinals=[draft.ordinal for draft in drafts],
        starts=[draft.start for draft in drafts],
        ends=[draft.end for draft in drafts],
        headings=[Jsonb(list(draft.headings)) for draft in drafts],
        pages=[draft.page for draft in drafts],
        tokens=[draft.tokens for draft in drafts],
        texts=[draft.text for draft in drafts],
        text_hashes=[text_hash(embedded_text(draft.headings, draft.text)) for draft in drafts],
    )


def parsed_version(transaction: Transaction, version_id: uuid.UUID) -> ParsedDocument:
    """What the parser has made of a version's content."""
    row = transaction.one(SQL["version"], version_id=version_id)
    return ParsedDocument(row.title, row.text, tuple(element_of(element) for element in row.elements), row.pages)


def _compare(writer: Writer, live: Generation, tally: CuttingTally) -> None:
    """How the pending documents' chunks differ from what is published for them."""
    with writer.reading() as transaction:
        chunks = transaction.one(SQL["pending_chunks"], chunker=live.chunker_fingerprint, live=live.number)
        if chunks.published:
            tally.kept = transaction.one(SQL["kept_chunks"], chunker=live.chunker_fingerprint, live=live.number).chunks
    tally.added = chunks.wanted - tally.kept
    tally.dropped = max(chunks.published - tally.kept, 0)
