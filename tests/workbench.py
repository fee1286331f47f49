"""A tenant whose stages a test runs without Dagster: the same functions that the assets call, in the same order."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from minirag_pipelines.core.catalog import Catalog
from minirag_pipelines.core.corpus import Corpus
from minirag_pipelines.core.database import Database, Row, Transaction, Writer
from minirag_pipelines.core.errors import DocumentUnreadable, MiniRAGError, ProviderRefused, ProviderUnavailable
from minirag_pipelines.core.generations import Generations
from minirag_pipelines.core.providers.models import Embedder
from minirag_pipelines.core.providers.registry import embedder_of
from minirag_pipelines.core.providers.tokenizers import tokenizer_for
from minirag_pipelines.core.records import ChunkerSettings, Generation, Tenant
from minirag_pipelines.core.settings import Settings
from minirag_pipelines.core.vector_store import VectorStore
from minirag_pipelines.ingest.connectors.kinds import checked_config
from minirag_pipelines.ingest.cutting import CuttingTally, cut_pending
from minirag_pipelines.ingest.embedding import EmbeddingTally, embed_pending
from minirag_pipelines.ingest.finishing import Finished, finish
from minirag_pipelines.ingest.generating import as_asked, live_generation
from minirag_pipelines.ingest.limits import Limits
from minirag_pipelines.ingest.listing import ListingTally, list_sources
from minirag_pipelines.ingest.parser_pool import Outcome, ParseJob, ParserPool, Parsing
from minirag_pipelines.ingest.parsing import parse
from minirag_pipelines.ingest.reading import ReadingTally, read_pending
from minirag_serving import SearchResult
from minirag_serving.retrieval import search
from tests.fakes import OpenAIServer

MODEL = "openai/text-embedding-3-small"
LIMITS = Limits.of(Settings())


@dataclass
class SyncTally:
    sources: ListingTally
    documents: ReadingTally
    chunks: CuttingTally
    embeddings: EmbeddingTally
    collection: Finished


class ParserHere:
    """A pool that parses in this process, without the second that a parser process takes to start."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits

    def __enter__(self) -> ParserHere:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def parse_all(self, jobs: Iterable[ParseJob]) -> Iterator[tuple[ParseJob, Outcome]]:
        for job in jobs:
            try:
                yield job, parse(job.content, job.kind, name=job.name, languages=("eng",), limits=self._limits)
            except DocumentUnreadable as error:
                yield job, error


@dataclass
class Workbench:
    database: Database
    vectors: VectorStore
    provider: OpenAIServer
    folder: Path
    tenant_id: str = "acme"
    model: str = MODEL
    retire_after_s: float = 60.0
    build_slice_s: float = 60.0
    kept_generations: int = 1
    keep_unused_days: float = 30.0
    limits: Limits = LIMITS
    max_bytes: int = 10 * 2**20
    wait_s: float = 5.0
    tenants: list[str] = field(default_factory=list)
    parser_processes: bool = False

    def add_tenant(self, tenant_id: str = "acme", *, chunk_tokens: int = 128, source: str = "docs") -> Tenant:
        with self.database.transaction(tenant_id) as transaction:
            catalog = Catalog(transaction)
            tenant = catalog.add_tenant(name=None, embedding_model=self.model, chunker=ChunkerSettings(chunk_tokens))
            catalog.add_source(source, "files", checked_config("files", {"path": str(self.folder)}))
        self.tenants.append(tenant_id)
        return tenant

    def add_source(self, name: str, path: Path) -> None:
        with self.database.transaction(self.tenant_id) as transaction:
            Catalog(transaction).add_source(name, "files", checked_config("files", {"path": str(path)}))

    def write(self, name: str, text: str | bytes) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    @contextmanager
    def writer(self, tenant_id: str | None = None) -> Iterator[Writer]:
        with self.database.writer(tenant_id or self.tenant_id, str(uuid.uuid4()), wait_s=self.wait_s) as writer:
            yield writer

    def embedder_of(self, whose: Tenant | Generation) -> Embedder:
        return embedder_of(whose)

    @property
    def parsing(self) -> Parsing:
        processes = partial(ParserPool, workers=1, timeout_s=60, memory_mib=2048, languages=["eng"], limits=self.limits)
        pool: Any = processes if self.parser_processes else partial(ParserHere, self.limits)
        return Parsing(("eng",), self.limits, self.max_bytes, pool)

    @property
    def settings(self) -> Settings:
        return Settings(
            retire_after_s=self.retire_after_s,
            build_slice_s=self.build_slice_s,
            kept_generations=self.kept_generations,
            keep_unused_days=self.keep_unused_days,
        )

    def list(self, writer: Writer, *, force: bool = False, allow_empty: bool = False) -> ListingTally:
        with self.database.transaction(writer.tenant_id) as transaction:
            sources = Catalog(transaction).sources()
        return list_sources(writer, sources, force=force, allow_empty=allow_empty, max_bytes=self.max_bytes)

    def read(self, writer: Writer, unlisted: Collection[str] = ()) -> ReadingTally:
        with self.database.transaction(writer.tenant_id) as transaction:
            sources = [one for one in Catalog(transaction).sources() if one.name not in unlisted]
        return read_pending(writer, sources, self.parsing)

    def change_tenant(self, *, model: str | None = None, chunk_tokens: int | None = None) -> None:
        chunker = None if chunk_tokens is None else ChunkerSettings(chunk_tokens)
        with self.database.transaction(self.tenant_id) as transaction:
            Catalog(transaction).change_tenant(embedding_model=model, chunker=chunker)

    def tenant(self, tenant_id: str) -> Tenant:
        with self.database.transaction(tenant_id) as transaction:
            return Catalog(transaction).tenant()

    def cut(self, writer: Writer) -> CuttingTally:
        live = live_generation(writer, self.tenant(writer.tenant_id), self.vectors, self.embedder_of)
        return cut_pending(writer, live, tokenizer_for(live.embedding_model))

    def embed(self, writer: Writer) -> EmbeddingTally:
        tally = EmbeddingTally()
        embed_pending(writer, self.live(writer.tenant_id), self.vectors, self.embedder_of, tally)
        return tally

    def finish(self, writer: Writer) -> Finished:
        return finish(writer, self.tenant(writer.tenant_id), self.vectors, self.embedder_of, self.settings)

    def sync(self, tenant_id: str | None = None, *, force: bool = False, allow_empty: bool = False) -> SyncTally:
        """Raises what a run would fail with: at the end, as a run does."""
        with self.writer(tenant_id) as writer:
            listed = self.list(writer, force=force, allow_empty=allow_empty)
            failure: MiniRAGError | None = listed.failure
            read = self.read(writer, listed.failed)
            cut = self.cut(writer)
            embedded = EmbeddingTally()
            try:
                embedded = self.embed(writer)
            except (ProviderUnavailable, ProviderRefused) as error:
                if as_asked(self.live(writer.tenant_id), self.tenant(writer.tenant_id)):
                    failure = failure or error
            done = self.finish(writer)
        failure = failure or done.failure
        if failure is not None:
            raise failure
        return SyncTally(listed, read, cut, embedded, done)

    def search(self, question: str, *, tenant_id: str | None = None, top_k: int = 5) -> SearchResult:
        return search(self.database, self.vectors, self.embedder_of, tenant_id or self.tenant_id, question, top_k=top_k)

    def documents(self, state: str | None = None) -> list[Row]:
        with self.database.transaction(self.tenant_id) as transaction:
            return Corpus(transaction).documents(state)

    def forget(self, name: str) -> None:
        with self.database.transaction(self.tenant_id) as transaction:
            Corpus(transaction).forget(self._document_id(transaction, name))

    def restore(self, name: str) -> None:
        with self.database.transaction(self.tenant_id) as transaction:
            Corpus(transaction).restore(self._document_id(transaction, name))

    def _document_id(self, transaction: Transaction, name: str) -> uuid.UUID:
        found = Corpus(transaction).find_document(None, [(self.folder / name).as_uri()])
        assert found is not None
        document_id: uuid.UUID = found.document_id
        return document_id

    def generations(self) -> list[Generation]:
        with self.database.transaction(self.tenant_id) as transaction:
            return Generations(transaction).all()

    def live(self, tenant_id: str | None = None) -> Generation:
        with self.database.transaction(tenant_id or self.tenant_id) as transaction:
            return Generations(transaction).live()

    def row_versions(self) -> dict[str, list[str]]:
        """The physical row version of every row of the tenant, by table: equal before and after means none rewritten."""
        with self.database.transaction(self.tenant_id) as transaction:
            tables = transaction.connection.execute(
                "SELECT tablename FROM pg_tables WHERE schemaname = 'minirag' AND tablename <> 'alembic_version'"
            ).fetchall()
            return {
                table.tablename: [
                    row.at
                    for row in transaction.connection.execute(
                        f"SELECT ctid || ' ' || xmin AS at FROM {table.tablename} ORDER BY 1".encode()
                    )
                ]
                for table in tables
            }

    def drop_collections(self) -> None:
        for tenant_id in self.tenants:
            with self.database.transaction(tenant_id) as transaction:
                generations = Generations(transaction).all()
            for generation in generations:
                self.vectors.drop(generation)
