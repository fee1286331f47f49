"""Where a chunk or a document comes from, step by step down to its source: read in one snapshot, nothing recorded."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from minirag_pipelines.core.corpus import Corpus
from minirag_pipelines.core.database import Database, Row, Transaction, snapshot, statements
from minirag_pipelines.core.errors import InvalidInput, NotFound
from minirag_pipelines.core.records import uuid_of
from minirag_pipelines.ingest.connectors.files import addresses

SQL = statements("minirag_pipelines.ingest.sql", "explaining.sql")
CHUNK_ID = re.compile(r"([0-9a-fA-F-]{32,36}):([0-9a-f]{16}):(\d{1,9})")
# Other documents with the same version that are named, of however many there are.
ALSO_IN = 10
_BATCH = 1000


@dataclass(frozen=True, slots=True)
class SourceLine:
    """The source that a document is read through."""

    name: str
    kind: str
    config: Mapping[str, Any]
    removed_at: datetime | None


@dataclass(frozen=True, slots=True)
class DocumentLine:
    """`state` is `live`, `pending`, `quarantined`, `removed` or `forgotten`; `reason` says why it is not `live`."""

    document_id: uuid.UUID
    uri: str
    kind: str
    state: str
    reason: str | None
    first_seen_at: datetime
    removed_at: datetime | None
    forgotten_at: datetime | None
    content_hash: str | None
    size_bytes: int | None


@dataclass(frozen=True, slots=True)
class VersionLine:
    """What a parser made of certain bytes; `run_id` is the run that parsed them."""

    version_id: uuid.UUID
    content_hash: str
    kind: str
    parser: str
    title: str | None
    pages: int | None
    warnings: tuple[str, ...]
    size_bytes: int
    run_id: str
    parsed_at: datetime


@dataclass(frozen=True, slots=True)
class ChunkerLine:
    """How the version was cut, into `chunks` chunks, by which run; settings are None when no generation has them."""

    fingerprint: str
    max_tokens: int | None
    overlap_tokens: int | None
    embedding_model: str | None
    chunks: int
    run_id: str
    cut_at: datetime


@dataclass(frozen=True, slots=True)
class EmbeddingLine:
    """A text's vector in one generation; `run_id` and `embedded_at` are None where there is none.

    `state` is `there`, `sending` or `leaving`, and None where nothing of it is in the generation's collection;
    `refused` is the model's reason when it will not take the text.
    """

    generation: int
    model: str
    model_fingerprint: str
    dimension: int
    run_id: str | None
    embedded_at: datetime | None
    state: str | None
    refused: str | None


@dataclass(frozen=True, slots=True)
class ChunkLine:
    """One chunk, its span in characters of the version's text; `text` is None when its document is forgotten."""

    chunk_id: str
    ordinal: int
    span: tuple[int, int]
    headings: tuple[str, ...]
    page: int | None
    tokens: int
    text_hash: str
    text: str | None
    embeddings: tuple[EmbeddingLine, ...]


@dataclass(frozen=True, slots=True)
class PublicationLine:
    """A generation in which the document is published, with which version, by which run."""

    number: int
    state: str
    embedding_model: str
    chunker: str
    version_id: uuid.UUID
    run_id: str
    published_at: datetime


@dataclass(frozen=True, slots=True)
class Lineage:
    """The chain from the tenant to the generations. `chunks` is one chunk, or all of a document.

    `also_in` are the URIs of other documents in which the version is published, at most ALSO_IN of `also_in_count`.
    """

    tenant_id: str
    source: SourceLine | None
    document: DocumentLine | None
    also_in: tuple[str, ...]
    also_in_count: int
    version: VersionLine | None
    chunker: ChunkerLine | None
    chunks: tuple[ChunkLine, ...]
    generations: tuple[PublicationLine, ...]
    whole: bool

    def to_json(self) -> dict[str, Any]:
        """As `minirag explain --json` prints it: a source's configuration is not among it."""
        found = asdict(self)
        if found["source"]:
            del found["source"]["config"]
        return {"tenant": found.pop("tenant_id")} | {key: found[key] for key in found if key != "whole"}


def explain(database: Database, tenant_id: str, subject: str) -> Lineage:
    """The chain of a chunk (by the id that a search gives) or a document (by id, URI or path), in one snapshot.

    Raises NotFound for what the tenant does not have, and InvalidInput for what names nothing.
    """
    if not subject.strip():
        raise InvalidInput("chunk or document", "is empty.")
    with database.connection() as connection, snapshot(connection, tenant_id) as transaction:
        if named := CHUNK_ID.fullmatch(subject):
            version_id = uuid_of(named[1])
            if version_id is None:
                raise NotFound("chunk", subject)
            return _of_chunk(transaction, subject, version_id, named[2], int(named[3]))
        document = Corpus(transaction).find_document(uuid_of(subject), addresses(subject))
        row = transaction.run(SQL["document"], document_id=document.document_id).fetchone() if document else None
        if row is None:
            raise NotFound("chunk or document", subject)
        return _chain(transaction, row, row.version_id, None, None)


def _of_chunk(transaction: Transaction, chunk_id: str, version_id: uuid.UUID, chunker: str, ordinal: int) -> Lineage:
    found = transaction.run(SQL["chunks"], version_id=version_id, chunker=chunker, ordinal=ordinal).fetchone()
    if found is None:
        raise NotFound("chunk", chunk_id)
    holders = transaction.run(SQL["holders"], version_id=version_id, most=1).fetchall()
    row = transaction.one(SQL["document"], document_id=holders[0].document_id) if holders else None
    return _chain(transaction, row, version_id, chunker, ordinal)


def _chain(
    transaction: Transaction, row: Row | None, version_id: uuid.UUID | None, chunker: str | None, ordinal: int | None
) -> Lineage:
    """`chunker` and `ordinal` name a chunk; without them all chunks of the version are meant, as it was cut last."""
    version = transaction.run(SQL["version"], version_id=version_id).fetchone() if version_id else None
    cut = transaction.run(SQL["chunking"], version_id=version_id, chunker=chunker).fetchone() if version else None
    others = transaction.run(SQL["holders"], version_id=version_id, most=ALSO_IN + 1).fetchall() if version else []
    own = row.document_id if row else None
    also_in = [one.uri for one in others if one.published and one.document_id != own]
    publications = (
        transaction.run(
            SQL["publications"],
            document_id=own,
        ).fetchall()
        if row
        else []
    )
    listed = any(one.version_id == version_id for one in publications)
    return Lineage(
        tenant_id=transaction.tenant_id,
        source=SourceLine(row.source, row.source_kind, row.config, row.source_removed_at) if row else None,
        document=_document(row) if row else None,
        also_in=tuple(also_in[:ALSO_IN]),
        also_in_count=(others[0].published_in if others else 0) - listed,
        version=_version(version, hidden=bool(row and row.forgotten_at)) if version else None,
        chunker=_chunker(cut) if cut else None,
        chunks=tuple(_chunks(transaction, version_id, cut.chunker, ordinal, row)) if cut and version_id else (),
        generations=tuple(
            PublicationLine(
                one.number, one.state, one.embedding_model, one.chunker, one.version_id, one.run_id, one.published_at
            )
            for one in publications
            if ordinal is None or (one.version_id, one.chunker) == (version_id, chunker)
        ),
        whole=ordinal is None,
    )


def _chunks(
    transaction: Transaction, version_id: uuid.UUID, chunker: str, ordinal: int | None, document: Row | None
) -> list[ChunkLine]:
    rows = transaction.run(SQL["chunks"], version_id=version_id, chunker=chunker, ordinal=ordinal).fetchall()
    hidden = document is not None and document.forgotten_at is not None
    embeddings: dict[bytes, list[EmbeddingLine]] = {}
    hashes = sorted({row.text_hash for row in rows})
    for start in range(0, len(hashes), _BATCH):
        batch = hashes[start : start + _BATCH]
        for row in transaction.run(SQL["embeddings"], text_hashes=batch, chunker=chunker):
            embeddings.setdefault(row.text_hash, []).append(
                EmbeddingLine(
                    generation=row.number,
                    model=row.embedding_model,
                    model_fingerprint=row.model,
                    dimension=row.dimension,
                    run_id=row.run_id,
                    embedded_at=row.created_at,
                    state=row.state,
                    refused=row.refused,
                )
            )
    return [
        ChunkLine(
            chunk_id=f"{version_id}:{chunker}:{row.ordinal}",
            ordinal=row.ordinal,
            span=(row.start_char, row.end_char),
            headings=() if hidden else tuple(row.headings),
            page=row.page,
            tokens=row.tokens,
            text_hash=row.text_hash.hex(),
            text=None if hidden else row.text,
            embeddings=tuple(embeddings.get(row.text_hash, ())),
        )
        for row in rows
    ]


def _document(row: Row) -> DocumentLine:
    reason = row.reason
    if row.forgotten_at is not None:
        reason = "It was forgotten: no question returns it, although a source may list it."
    elif row.removed_at is not None:
        reason = "It was removed: no source lists it any more."
    return DocumentLine(
        document_id=row.document_id,
        uri=row.uri,
        kind=row.kind,
        state=row.state,
        reason=reason,
        first_seen_at=row.first_seen_at,
        removed_at=row.removed_at,
        forgotten_at=row.forgotten_at,
        content_hash=row.content_hash.hex() if row.content_hash else None,
        size_bytes=row.size_bytes,
    )


def _version(row: Row, *, hidden: bool) -> VersionLine:
    return VersionLine(
        version_id=row.version_id,
        content_hash=row.content_hash.hex(),
        kind=row.kind,
        parser=row.parser,
        title=None if hidden else row.title,
        pages=row.pages,
        warnings=tuple(row.warnings),
        size_bytes=row.size_bytes,
        run_id=row.run_id,
        parsed_at=row.created_at,
    )


def _chunker(row: Row) -> ChunkerLine:
    return ChunkerLine(
        fingerprint=row.chunker,
        max_tokens=row.chunk_tokens,
        overlap_tokens=row.chunk_overlap,
        embedding_model=row.embedding_model,
        chunks=row.chunks,
        run_id=row.run_id,
        cut_at=row.created_at,
    )
