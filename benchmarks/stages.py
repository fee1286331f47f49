"""The five stages in this process, without Dagster and its processes: what the stages themselves take."""

from __future__ import annotations

import cProfile
import io
import pstats
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from minirag_pipelines.core.catalog import Catalog
from minirag_pipelines.core.database import Database, Writer
from minirag_pipelines.core.providers.registry import embedder_of
from minirag_pipelines.core.providers.tokenizers import tokenizer_for
from minirag_pipelines.core.records import ChunkerSettings, Source, Tenant
from minirag_pipelines.core.schema import migrate
from minirag_pipelines.core.settings import Settings
from minirag_pipelines.core.vector_store import VectorStore
from minirag_pipelines.ingest.connectors.kinds import checked_config
from minirag_pipelines.ingest.cutting import CuttingTally, cut_pending
from minirag_pipelines.ingest.embedding import EmbeddingTally, embed_pending
from minirag_pipelines.ingest.finishing import Finished, finish
from minirag_pipelines.ingest.generating import live_generation
from minirag_pipelines.ingest.listing import ListingTally, list_sources
from minirag_pipelines.ingest.parser_pool import ParserPool, Parsing
from minirag_pipelines.ingest.reading import ReadingTally, read_pending
from minirag_pipelines.stack.embedded import available

_MOST_LINES = 30


@dataclass
class Stages:
    """A tenant's stages, as the assets run them.

    `pool` makes the parser pool where it is not the usual one. `profiles` is each stage's profile, when asked for.
    `seconds` and `tallies` are the last sync's, by stage: list, read, cut, embed, finish.
    """

    database: Database
    vectors: VectorStore
    settings: Settings
    tenant: Tenant
    sources: list[Source]
    pool: Callable[[], AbstractContextManager[ParserPool]] | None = None
    profiles: dict[str, cProfile.Profile] | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    tallies: dict[str, Any] = field(default_factory=dict)

    def sync(self) -> dict[str, float]:
        """Seconds by stage."""
        self.seconds, self.tallies = {}, {}
        with self.database.writer(self.tenant.tenant_id, str(uuid.uuid4())) as writer:
            for stage in (self._list, self._read, self._cut, self._embed, self._finish):
                self._time(stage, writer)
        return self.seconds

    def _time(self, stage: Callable[[Writer], Any], writer: Writer) -> None:
        name = stage.__name__.removeprefix("_")
        began = time.perf_counter()
        if self.profiles is None:
            self.tallies[name] = stage(writer)
        else:
            self.tallies[name] = self.profiles.setdefault(name, cProfile.Profile()).runcall(stage, writer)
        self.seconds[name] = time.perf_counter() - began

    def _list(self, writer: Writer) -> ListingTally:
        return list_sources(writer, self.sources, max_bytes=self.settings.max_document_mib * 2**20)

    def _read(self, writer: Writer) -> ReadingTally:
        parsing = Parsing.of(self.settings)
        return read_pending(writer, self.sources, replace(parsing, pool=self.pool or parsing.pool))

    def _cut(self, writer: Writer) -> CuttingTally:
        live = live_generation(writer, self.tenant, self.vectors, embedder_of)
        return cut_pending(writer, live, tokenizer_for(live.embedding_model))

    def _embed(self, writer: Writer) -> EmbeddingTally:
        tally = EmbeddingTally()
        live = live_generation(writer, self.tenant, self.vectors, embedder_of)
        embed_pending(writer, live, self.vectors, embedder_of, tally)
        return tally

    def _finish(self, writer: Writer) -> Finished:
        return finish(writer, self.tenant, self.vectors, embedder_of, self.settings)

    def hottest(self) -> str:
        """Where each stage's time went, by cumulative time; libraries' imports are in it when they happen there."""
        shown = io.StringIO()
        for name, profile in (self.profiles or {}).items():
            print(f"\n{name}", file=shown)
            pstats.Stats(profile, stream=shown).strip_dirs().sort_stats("cumulative").print_stats(_MOST_LINES)
        return shown.getvalue()


def usual_pool(settings: Settings) -> AbstractContextManager[ParserPool]:
    """The parser pool of the asset `documents`."""
    return Parsing.of(settings).pool()


@contextmanager
def opened(settings: Settings) -> Iterator[tuple[Settings, Database]]:
    """The stores of a home, up and migrated for as long as the block lasts."""
    with available(settings) as chosen:
        assert chosen.admin_database_url is not None
        assert chosen.database_url is not None
        migrate(chosen.admin_database_url.get_secret_value())
        with Database(chosen.database_url.get_secret_value()) as database:
            yield chosen, database


def add_tenant(
    database: Database, tenant_id: str, model: str, tokens: int, folder: Path
) -> tuple[Tenant, list[Source]]:
    """A tenant with the folder as its one source."""
    with database.transaction(tenant_id) as transaction:
        catalog = Catalog(transaction)
        tenant = catalog.add_tenant(name=None, embedding_model=model, chunker=ChunkerSettings(tokens))
        catalog.add_source("docs", "files", checked_config("files", {"path": str(folder)}))
        return tenant, catalog.sources()


def syncs_in_process(
    home: Path, folder: Path, model: str, tokens: int, *, profiled: bool, changes: dict[str, Callable[[], object]]
) -> tuple[dict[str, dict[str, float]], str]:
    """Seconds by stage of a sync after each of the changes, in order, and the profile of the last of them."""
    with opened(Settings(home=home)) as (chosen, database):
        tenant, sources = add_tenant(database, "stages", model, tokens, folder)
        stages = Stages(database, VectorStore(chosen.chroma_url or ""), chosen, tenant, sources)
        seconds, profiles = {}, []
        for name, change in changes.items():
            change()
            stages.profiles = {} if profiled else None
            seconds[name] = stages.sync()
            profiles.append(f"\n=== {name}{stages.hottest()}" if profiled else "")
    return seconds, "".join(profiles)
