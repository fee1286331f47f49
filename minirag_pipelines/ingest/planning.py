"""What a sync would do now, and why: its stages, rehearsed in a transaction that is undone."""

from __future__ import annotations

import json
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Self

import tenacity

from minirag_pipelines.core.database import Row, Writer, statements
from minirag_pipelines.core.errors import RehearsalInterrupted
from minirag_pipelines.core.generations import Generations
from minirag_pipelines.core.providers.models import Embedder, Usage
from minirag_pipelines.core.providers.tokenizers import tokenizer_for
from minirag_pipelines.core.records import Generation, Source, Tenant, embedded_text, text_hash
from minirag_pipelines.ingest import building, embedding, listing, reading
from minirag_pipelines.ingest.chunking import chunk, chunker_fingerprint
from minirag_pipelines.ingest.cutting import CuttingTally, cut_pending, parsed_version
from minirag_pipelines.ingest.embedding import EMBED_BATCH, EmbedderOf, unsettled_texts
from minirag_pipelines.ingest.erasing import erase_forgotten
from minirag_pipelines.ingest.formats import parser_fingerprint
from minirag_pipelines.ingest.generating import as_asked
from minirag_pipelines.ingest.listing import ListingTally, list_sources
from minirag_pipelines.ingest.parser_pool import Parsing
from minirag_pipelines.ingest.reading import read_pending, refusing_limits, retry_failures

SQL = statements("minirag_pipelines.ingest.sql", "planning.sql")
_PAGE = 500
_ATTEMPTS = 5
# What may happen to a document; where several things do, the last of them says why it is touched.
_WHAT = ("publish", "read", "rename", "erase", "remove")


@dataclass(slots=True)
class Texts:
    """Texts that have to be `embedded`, and those whose vector is known and only has to be sent to Chroma."""

    embedded: int = 0
    reused: int = 0
    usage: Usage = field(default_factory=Usage)

    def __iadd__(self, other: Texts) -> Self:
        self.embedded += other.embedded
        self.reused += other.reused
        self.usage += other.usage
        return self


@dataclass(slots=True)
class PlannedDocument:
    """A document that a sync would do something with; `was` is its URI before a rename.

    A text that several documents lack is counted with the first of them.
    """

    document_id: uuid.UUID
    uri: str = ""
    why: str = ""
    was: str | None = None
    texts: Texts = field(default_factory=Texts)


@dataclass(slots=True)
class PlannedBuild:
    """The next generation: `reason` is the setting that asks for it, `model`, `chunker` or `portable`.

    `documents` and all figures are what is left to build.
    """

    reason: str
    documents: int = 0
    chunks: int = 0
    texts: Texts = field(default_factory=Texts)


@dataclass(slots=True)
class Plan:
    """`quarantined` counts the documents that could not be read or parsed after the sync, by reason.

    `tokenizer` is what counts the tokens: a provider may count otherwise.
    """

    sources: ListingTally
    documents: list[PlannedDocument]
    chunks: CuttingTally
    quarantined: Counter[str]
    texts: Texts
    build: PlannedBuild | None
    tokenizer: str

    @property
    def reasons(self) -> Counter[str]:
        """Documents by why they are touched, those of a build by the setting that asks for it."""
        reasons = Counter(document.why for document in self.documents)
        if self.build is not None and self.build.documents:
            reasons[self.build.reason] += self.build.documents
        return reasons

    @property
    def all_texts(self) -> Texts:
        """Those of the live generation and of the next one together, as a sync reports them."""
        total = Texts()
        for part in (self.texts, *([self.build.texts] if self.build else [])):
            total += part
        return total


def plan_sync(
    writer: Writer,
    tenant: Tenant,
    sources: Sequence[Source],
    parsing: Parsing,
    embedder_of: EmbedderOf,
    *,
    force: bool = False,
    allow_empty: bool = False,
) -> Plan:
    """What a sync would do now. It lists, reads, parses and cuts, and leaves no trace: no row, no failed attempt.

    Neither a model nor Chroma is asked. It begins anew when somebody waits for a document that it holds, a few times,
    and then raises RehearsalInterrupted. Raises SyncInProgress when somebody waits to write the tenant, and
    SourceUnreadable when there are sources and none could be listed.
    """
    attempts = tenacity.Retrying(
        stop=tenacity.stop_after_attempt(_ATTEMPTS),
        retry=tenacity.retry_if_exception_type(RehearsalInterrupted),
        reraise=True,
    )
    return attempts(_planned, writer, tenant, sources, parsing, embedder_of, force=force, allow_empty=allow_empty)


def _planned(
    writer: Writer,
    tenant: Tenant,
    sources: Sequence[Source],
    parsing: Parsing,
    embedder_of: EmbedderOf,
    *,
    force: bool,
    allow_empty: bool,
) -> Plan:
    with writer.rehearsing() as rehearsing:
        rehearsal = _Rehearsal(rehearsing, tenant, sources, parsing, embedder_of)
        rehearsal.run(force=force, allow_empty=allow_empty)
    return Plan(
        sources=rehearsal.sources,
        documents=rehearsal.explained(writer),
        chunks=rehearsal.chunks,
        quarantined=rehearsal.quarantined,
        texts=rehearsal.texts,
        build=rehearsal.build,
        tokenizer=tokenizer_for(tenant.embedding_model).name,
    )


class _Rehearsal:
    """A sync up to where it would ask a model or Chroma, and what it would ask them then."""

    sources: ListingTally
    chunks: CuttingTally
    quarantined: Counter[str]

    def __init__(
        self,
        writer: Writer,
        tenant: Tenant,
        sources: Sequence[Source],
        parsing: Parsing,
        embedder_of: EmbedderOf,
    ) -> None:
        self.texts = Texts()
        self.build: PlannedBuild | None = None
        self._writer = writer
        self._tenant = tenant
        self._listed = sources
        self._embedder_of = embedder_of
        self._parsing = parsing
        self._parsers: dict[str, str] = {}
        self._kinds: dict[uuid.UUID, str] = {}
        self._changed: set[uuid.UUID] = set()
        # By what happens to each: what becomes of a document is known now, what it was only after the rehearsal.
        self._documents: dict[str, dict[uuid.UUID, PlannedDocument]] = {what: {} for what in _WHAT}

    def run(self, *, force: bool, allow_empty: bool) -> None:
        if force:
            retry_failures(self._writer)
        self.sources = list_sources(
            self._writer, self._listed, force=force, allow_empty=allow_empty, max_bytes=self._parsing.max_bytes
        )
        if self.sources.failure:
            raise self.sources.failure
        readable = [source for source in self._listed if source.name not in self.sources.failed]
        self._note_documents(readable)
        read = read_pending(self._writer, readable, self._parsing)
        self.quarantined = read.quarantined
        with self._writer.reading() as transaction:
            generations = Generations(transaction)
            live, begun = generations.find_live(), generations.find_building()
            transaction.run(SQL["planned_texts"])
            transaction.run(SQL["planned_versions"])
        if begun is not None and not as_asked(begun, self._tenant):
            begun = None
        first = live or begun or self._asked_for
        self.chunks = cut_pending(self._writer, first, tokenizer_for(first.embedding_model))
        published = first.chunks + self.chunks.added - self.chunks.dropped
        self.chunks.dropped += self.sources.chunks_removed
        self._plan_documents(first)
        if live is not None and not as_asked(live, self._tenant):
            # Vectors that only a forgotten document needs are gone before a build looks for them.
            erase_forgotten(self._writer)
            self.build = PlannedBuild(_reason(live, self._tenant))
            target = begun or self._asked_for
            self._plan_build(live, target, self.build)
            self.chunks.added += self.build.chunks
            if target.chunker_fingerprint != live.chunker_fingerprint:
                self.chunks.dropped += published

    def _note_documents(self, sources: Sequence[Source]) -> None:
        """Which documents the sync is about to touch, as the listing has left them."""
        source_ids = [source.source_id for source in sources]
        with self._writer.reading() as transaction:
            kinds = [row.kind for row in transaction.run(reading.SQL["kinds_to_read"])]
        self._parsers = {kind: parser_fingerprint(kind, self._parsing.languages) for kind in kinds}
        read_limits, parse_limits = refusing_limits(self._parsing)
        to_read = self._writer.pages(
            reading.SQL["to_read"],
            "document_id",
            source_ids=source_ids,
            parsers=json.dumps(self._parsers),
            read_limits=read_limits,
            parse_limits=parse_limits,
            most=_PAGE,
        )
        for rows in to_read:
            self._kinds |= {row.document_id: row.kind for row in rows}
            self._note("read", rows)
        to_publish = self._writer.pages(embedding.SQL["documents_to_embed"], "document_id", most=_PAGE)
        for rows in to_publish:
            self._note("publish", rows)
        with self._writer.reading() as transaction:
            if self.sources.changed:
                self._changed = {row.document_id for row in transaction.run(SQL["changed"])}
            if self.sources.renamed:
                self._note("rename", transaction.run(SQL["renamed"]))
            if self.sources.removed:
                gone = transaction.run(listing.SQL["vanished_documents"])
                self._note("remove", (row for row in gone if not row.elsewhere))
            self._note("erase", transaction.run(SQL["to_erase"]))

    def _note(self, what: str, rows: Iterable[Row]) -> None:
        self._documents[what] |= {
            row.document_id: PlannedDocument(row.document_id, getattr(row, "uri", "")) for row in rows
        }

    def _plan_documents(self, generation: Generation) -> None:
        """What the live generation lacks, document by document."""
        planned = self._documents["publish"] | self._documents["read"]
        for rows in self._writer.pages(embedding.SQL["documents_to_embed"], "document_id", most=_PAGE):
            for row in rows:
                texts = self._texts_of(generation, row.version_id)
                self.texts += texts
                planned[row.document_id].texts = texts

    def _plan_build(self, live: Generation, target: Generation, build: PlannedBuild) -> None:
        for rows in self._writer.pages(
            building.SQL["documents_to_build"],
            "document_id",
            generation=target.number,
            live=live.number,
            only_missed=False,
            most=_PAGE,
        ):
            build.documents += len(rows)
            with self._writer.reading() as transaction:
                noted = transaction.run(
                    SQL["note_versions"], version_ids=sorted({row.version_id for row in rows})
                ).fetchall()
                versions = [row.version_id for row in noted]
                uncut = transaction.run(
                    building.SQL["uncut"], chunker=target.chunker_fingerprint, version_ids=versions
                ).fetchall()
            uncut_versions = {row.version_id for row in uncut}
            for version_id in versions:
                if version_id in uncut_versions:
                    build.texts += self._texts_when_cut(target, version_id, build)
                else:
                    build.texts += self._texts_of(target, version_id)

    def _texts_of(self, generation: Generation, version_id: uuid.UUID) -> Texts:
        """What a version that is cut brings into a generation."""
        texts = Texts()
        for hashes in unsettled_texts(self._writer, generation, [[version_id]]):
            texts += self._counted(generation, hashes)
        return texts

    def _texts_when_cut(self, generation: Generation, version_id: uuid.UUID, build: PlannedBuild) -> Texts:
        """The same of one that is not: cut in memory, so that a build is planned without writing it."""
        with self._writer.reading() as transaction:
            document = parsed_version(transaction, version_id)
        drafts = chunk(document, generation.chunker, tokenizer_for(generation.embedding_model))
        build.chunks += len(drafts)
        passages = [embedded_text(draft.headings, draft.text) for draft in drafts]
        by_hash = {text_hash(passage): passage for passage in passages}
        hashes, texts = list(by_hash), Texts()
        for start in range(0, len(hashes), EMBED_BATCH):
            texts += self._counted(generation, hashes[start : start + EMBED_BATCH], by_hash)
        return texts

    def _counted(
        self, generation: Generation, hashes: Sequence[bytes], passages: Mapping[bytes, str] | None = None
    ) -> Texts:
        """Those of the texts that no other document has been counted with; `passages` where they are not stored."""
        with self._writer.reading() as transaction:
            model = {"model": generation.model_fingerprint, "generation": generation.number}
            noted = [row.text_hash for row in transaction.run(SQL["note_texts"], text_hashes=list(hashes), **model)]
            unknown = [row.text_hash for row in transaction.run(SQL["unknown"], text_hashes=noted, **model)]
            if passages is None:
                rows = transaction.run(
                    embedding.SQL["texts"], chunker=generation.chunker_fingerprint, text_hashes=unknown
                )
                texts = [embedded_text(row.headings, row.text) for row in rows] if unknown else []
            else:
                texts = [passages[text_hash] for text_hash in unknown]
        return Texts(len(unknown), len(noted) - len(unknown), self._embedder(generation).estimate(texts))

    def _embedder(self, generation: Generation) -> Embedder:
        return self._embedder_of(generation if generation.number else self._tenant)

    @cached_property
    def _asked_for(self) -> Generation:
        """The generation that the settings ask for, where there is none: its number is 0.

        A model's fingerprint holds its dimension, which only the provider knows, unless it has been used before. No
        vector of one that never was is known.
        """
        tenant = self._tenant
        asked = Generation(
            tenant_id=tenant.tenant_id,
            number=0,
            state="building",
            chunker=tenant.chunker,
            chunker_fingerprint=chunker_fingerprint(tenant.chunker, tokenizer_for(tenant.embedding_model).name),
            embedding_model=tenant.embedding_model,
            model_fingerprint="",
            dimension=0,
            portable=tenant.portable,
            collection="",
            created_at=datetime.now(UTC),
        )
        with self._writer.reading() as transaction:
            used = transaction.run(SQL["used_models"]).fetchall()
        for row in used:
            if self._embedder_of(replace(asked, dimension=row.dimension)).fingerprint == row.model:
                return replace(asked, model_fingerprint=row.model, dimension=row.dimension)
        return asked

    def explained(self, writer: Writer) -> list[PlannedDocument]:
        """Why each document is touched: after the rehearsal, when the rows are again as they were."""
        found: dict[uuid.UUID, PlannedDocument] = {}
        for what in _WHAT:
            for document_id, document in self._documents[what].items():
                # One that is renamed may have to be read too.
                planned = found.setdefault(document_id, document)
                planned.uri = document.uri or planned.uri
        before = self._before(writer, list(found))
        for what in _WHAT:
            for document_id in self._documents[what]:
                self._explain(found[document_id], what, before.get(document_id))
        return sorted((one for one in found.values() if one.why), key=lambda one: (one.why, one.uri))

    def _before(self, writer: Writer, document_ids: Sequence[uuid.UUID]) -> dict[uuid.UUID, Row]:
        before: dict[uuid.UUID, Row] = {}
        for start in range(0, len(document_ids), _PAGE):
            page = list(document_ids[start : start + _PAGE])
            with writer.reading() as transaction:
                rows = transaction.run(SQL["before"], document_ids=page, parsers=json.dumps(self._parsers))
                before |= {row.document_id: row for row in rows}
        return before

    def _explain(self, document: PlannedDocument, what: str, before: Row | None) -> None:
        document.uri = document.uri or (before.uri if before else "")
        if what == "rename":
            if before is not None and not before.removed and before.uri != document.uri:
                document.why, document.was = "renamed", before.uri
        elif what in ("remove", "erase"):
            document.why = "removed" if what == "remove" else "forgotten"
        elif before is None or before.removed:
            document.why = "new"
        elif document.document_id in self._changed:
            document.why = "changed"
        elif what == "publish":
            document.why = "pending"
        else:
            document.why = _why_read(before, self._kinds[document.document_id])


def _why_read(before: Row, kind: str) -> str:
    """Why content that has not changed is read."""
    if before.due is not None:
        return "retry" if before.due else "parser"
    if before.kind != kind:
        return "parser"
    return "pending" if before.pending == "content" else "forced"


def _reason(live: Generation, tenant: Tenant) -> str:
    """Which setting differs from what the live generation was made with: the model's, where others differ too."""
    if live.embedding_model != tenant.embedding_model:
        return "model"
    return "portable" if live.chunker == tenant.chunker and live.portable != tenant.portable else "chunker"
