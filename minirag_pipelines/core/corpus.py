"""Documents and passages as rows: what serving cites from, and what people are shown."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from minirag_pipelines.core.database import Row, Transaction, statements
from minirag_pipelines.core.records import Document, Generation, uri_key

SQL = statements("minirag_pipelines.core.sql", "corpus.sql")
# A text that several documents contain names this many of them besides the oldest.
ALSO_IN = 10


@dataclass(frozen=True, slots=True)
class Place:
    """One document that contains a text: where, and in which words around it."""

    rank: int
    text_hash: bytes
    document_id: uuid.UUID
    version_id: uuid.UUID
    ordinal: int
    source: str
    uri: str
    title: str | None
    start: int
    end: int
    headings: tuple[str, ...]
    page: int | None
    text: str
    documents: int


@dataclass(frozen=True, slots=True)
class Corpus:
    """One tenant's documents, in the caller's transaction."""

    transaction: Transaction

    def places(self, generation: Generation, text_hashes: Sequence[bytes]) -> list[Place]:
        """Where the published documents of a generation contain these texts, in the texts' order, oldest first."""
        rows = self.transaction.run(
            SQL["passages"],
            text_hashes=list(text_hashes),
            generation=generation.number,
            chunker=generation.chunker_fingerprint,
            most=ALSO_IN + 1,
        )
        return [
            Place(
                rank=row.rank - 1,
                text_hash=row.text_hash,
                document_id=row.document_id,
                version_id=row.version_id,
                ordinal=row.ordinal,
                source=row.source,
                uri=row.uri,
                title=row.title,
                start=row.start_char,
                end=row.end_char,
                headings=tuple(row.headings),
                page=row.page,
                text=row.text,
                documents=row.documents,
            )
            for row in rows
        ]

    def gone(self, document_ids: Sequence[uuid.UUID]) -> set[uuid.UUID]:
        """Those of the documents that have been removed or forgotten."""
        return {row.document_id for row in self.transaction.run(SQL["gone"], document_ids=list(document_ids))}

    def find_page(self, version_id: uuid.UUID, position: int) -> int | None:
        """The page that a character of a version stands on; None for what has no pages."""
        row = self.transaction.run(SQL["page"], version_id=version_id, position=position).fetchone()
        return row.page if row else None

    def find_document(self, document_id: uuid.UUID | None, uris: Sequence[str] = ()) -> Document | None:
        """By id or by URI; of several that had one of the URIs, the one that has it now, or had it last."""
        row = self.transaction.run(
            SQL["document"], document_id=document_id, uri_keys=[uri_key(uri) for uri in uris]
        ).fetchone()
        if row is None:
            return None
        return Document(row.document_id, row.source_id, row.uri, row.removed_at, row.forgotten_at)

    def forget(self, document_id: uuid.UUID) -> None:
        """From the commit on no question returns the document; what was made of it is erased by the tenant's writer.

        One row is written, so that it waits for no sync.
        """
        self.transaction.run(SQL["forget"], document_id=document_id)

    def restore(self, document_id: uuid.UUID) -> bool:
        """Take back that a document was forgotten; whether it was. What was made of it is erased: it is read anew."""
        return self.transaction.run(SQL["restore"], document_id=document_id).rowcount > 0

    def retry(self, document_id: uuid.UUID | None = None) -> int:
        """Let what could not be read, parsed or embedded be tried again now, in all documents or one; how many."""
        due = self.transaction.run(SQL["retry"], document_id=document_id).fetchall()
        self.transaction.run(SQL["offer"], version_ids=[str(row.version_id) for row in due if row.version_id])
        return len(due)

    def documents(self, state: str | None = None) -> list[Row]:
        """Every document with its state and the reason, by URI.

        The state is `live`, `pending`, `quarantined`, `removed` or `forgotten`, the most telling that is true.
        """
        return self.transaction.run(SQL["documents"], state=state).fetchall()
