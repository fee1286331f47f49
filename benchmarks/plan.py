"""Does a sync do what a plan has said? Real history, replayed: a plan and a sync after each step, in this process.

On the way the tenant gets another chunker, then another model of its provider, then the local one. See
docs/benchmarks.md.
    .venv/bin/python -m benchmarks.plan [24] [--folder en] [--chunker-at 8] [--model-at 15] [--local-at 22]
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.material import HISTORY
from benchmarks.stack import clear_environment, credentials, machine, work_folder
from minirag_pipelines.core.catalog import Catalog
from minirag_pipelines.core.database import Database, Writer
from minirag_pipelines.core.providers.registry import embedder_of
from minirag_pipelines.core.providers.tokenizers import LOCAL_EMBEDDING_MODEL, tokenizer_for
from minirag_pipelines.core.records import ChunkerSettings, Source, Tenant
from minirag_pipelines.core.schema import migrate
from minirag_pipelines.core.settings import Settings
from minirag_pipelines.core.vector_store import VectorStore
from minirag_pipelines.ingest.connectors.kinds import checked_config
from minirag_pipelines.ingest.cutting import cut_pending
from minirag_pipelines.ingest.embedding import EmbeddingTally, embed_pending
from minirag_pipelines.ingest.finishing import finish
from minirag_pipelines.ingest.generating import live_generation
from minirag_pipelines.ingest.listing import list_sources
from minirag_pipelines.ingest.parser_pool import Parsing
from minirag_pipelines.ingest.planning import Plan, plan_sync
from minirag_pipelines.ingest.reading import read_pending
from minirag_pipelines.stack.embedded import available
from tests.fakes import OpenAIServer

_SMALL, _LARGE = "openai/text-embedding-3-small", "openai/text-embedding-3-large"
_TENANT = "history"
_COLUMNS = (
    "step", "files", "asked for", "texts planned", "embedded", "ratio", "tokens planned", "tokens", "ratio",
    "$ planned", "$", "s plan", "s sync",
)  # fmt: skip


@dataclass(frozen=True)
class Counts:
    """What a plan foretells and a sync reports; `others` is all that has to be equal besides."""

    texts: int
    tokens: int
    cost_usd: float
    others: tuple[Any, ...]


@dataclass(frozen=True)
class Bench:
    database: Database
    vectors: VectorStore
    settings: Settings
    parsing: Parsing

    def catalogued(self, writer: Writer) -> tuple[Tenant, list[Source]]:
        with writer.reading() as transaction:
            catalog = Catalog(transaction)
            return catalog.tenant(), catalog.sources()

    def plan(self) -> Counts:
        with self.database.writer(_TENANT) as writer:
            tenant, sources = self.catalogued(writer)
            found = plan_sync(
                writer,
                tenant,
                sources,
                self.parsing,
                embedder_of,
            )
        texts = found.all_texts
        return Counts(texts.embedded, texts.usage.prompt_tokens, texts.usage.cost_usd or 0, _foretold(found))

    def sync(self) -> Counts:
        with self.database.writer(_TENANT) as writer:
            tenant, sources = self.catalogued(writer)
            listed = list_sources(writer, sources, max_bytes=self.parsing.max_bytes)
            read = read_pending(writer, sources, self.parsing)
            live = live_generation(writer, tenant, self.vectors, embedder_of)
            cut = cut_pending(writer, live, tokenizer_for(live.embedding_model))
            embedded = EmbeddingTally()
            embed_pending(writer, live, self.vectors, embedder_of, embedded)
            added, dropped, built = cut.added, cut.dropped + listed.chunks_removed, 0
            while True:
                done = finish(writer, tenant, self.vectors, embedder_of, self.settings)
                if done.failure is not None:
                    raise done.failure
                if done.build is not None:
                    embedded += done.build.embeddings
                    added += done.build.chunks.tokens.total()
                    dropped += done.build.dropped
                    built += done.build.built
                if done.build is None or not done.build.left:
                    break
        usage = embedded.usage
        sources_said = (listed.new, listed.changed, listed.renamed, listed.removed, listed.unchanged)
        chunks = (added, cut.kept, dropped)
        others = (*sources_said, *chunks, embedded.reused, built, read.quarantined)
        return Counts(embedded.embedded, usage.prompt_tokens, usage.cost_usd or 0, others)


def _foretold(found: Plan) -> tuple[Any, ...]:
    sources, chunks = found.sources, found.chunks
    return (
        *(sources.new, sources.changed, sources.renamed, sources.removed, sources.unchanged),
        *(chunks.added, chunks.kept, chunks.dropped),
        found.all_texts.reused,
        found.build.documents if found.build else 0,
        found.quarantined,
    )


def replayed(folder: Path, steps: int) -> Iterator[Path]:
    """The documentation as it was at the first commit and then `steps` times later, evenly spread over its history."""
    git = shutil.which("git")
    if git is None or not HISTORY.is_file():
        raise SystemExit(f"This needs git, and {HISTORY}.")
    here = [git, "-C", str(folder)]
    subprocess.run([git, "clone", "--quiet", str(HISTORY), str(folder)], check=True)
    found = subprocess.run(
        [*here, "rev-list", "--first-parent", "--reverse", "HEAD"], check=True, capture_output=True, text=True
    )
    commits = found.stdout.split()
    for step in range(steps + 1):
        commit = commits[step * (len(commits) - 1) // steps]
        subprocess.run([*here, "checkout", "--quiet", "--force", commit], check=True)
        yield folder


def _ratio(said: int, was: int) -> str:
    if not was:
        return "1.0000" if not said else "∞"
    return f"{said / was:.4f}"


def compare(bench: Bench, provider: OpenAIServer, label: list[str]) -> tuple[Counts, Counts]:
    """A plan and the sync after it, and a line about both."""
    began, asked = time.monotonic(), provider.stats()["requests"]
    said = bench.plan()
    planned_at = time.monotonic()
    if provider.stats()["requests"] != asked:
        raise SystemExit("The plan has asked the provider.")
    was = bench.sync()
    cells = [
        *label,
        f"{said.texts:,}",
        f"{was.texts:,}",
        _ratio(said.texts, was.texts),
        f"{said.tokens:,}",
        f"{was.tokens:,}",
        _ratio(said.tokens, was.tokens),
        f"{said.cost_usd:.5f}",
        f"{was.cost_usd:.5f}",
        f"{planned_at - began:.1f}",
        f"{time.monotonic() - planned_at:.1f}",
    ]
    if said.others != was.others:
        cells.append(f"differs: planned {said.others}, done {was.others}")
    print("\t".join(cells), flush=True)
    return said, was


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("steps", type=int, nargs="?", default=24)
    arguments.add_argument("--folder", default="en", help="the language whose documentation is synced")
    arguments.add_argument("--chunker-at", type=int, default=8, help="the step with another chunker")
    arguments.add_argument("--model-at", type=int, default=15, help="the step with another remote model")
    arguments.add_argument("--local-at", type=int, default=22, help="the step with the local model")
    given = arguments.parse_args()
    settings: dict[int, tuple[str, dict[str, Any]]] = {
        given.chunker_at: ("chunker", {"chunker": ChunkerSettings(200)}),
        given.model_at: ("model", {"embedding_model": _LARGE}),
        given.local_at: ("local model", {"embedding_model": LOCAL_EMBEDDING_MODEL}),
    }
    clear_environment()
    print(f"{given.steps} steps of docs/{given.folder}; {machine()}", flush=True)
    counts: list[tuple[Counts, Counts]] = []
    with (
        work_folder() as folder,
        OpenAIServer(384, keep_texts=False) as provider,
        available(Settings(home=folder / "home")) as chosen,
        Parsing.of(chosen).pool() as pool,
    ):
        # As OpenAI counts.
        provider.count_tokens = tokenizer_for(_SMALL).count
        os.environ.update(credentials(provider.url))
        assert chosen.admin_database_url is not None
        assert chosen.database_url is not None
        migrate(chosen.admin_database_url.get_secret_value())
        with Database(chosen.database_url.get_secret_value()) as database:
            parsing = replace(Parsing.of(chosen), pool=lambda: nullcontext(pool))
            bench = Bench(database, VectorStore(chosen.chroma_url or ""), chosen, parsing)
            print("\t".join(_COLUMNS), flush=True)
            for step, repository in enumerate(replayed(folder / "history", given.steps)):
                source = repository / "docs" / given.folder
                what, change = settings.get(step, ("", {}))
                with database.transaction(_TENANT) as transaction:
                    catalog = Catalog(transaction)
                    if step == 0:
                        catalog.add_tenant(name=None, embedding_model=_SMALL, chunker=ChunkerSettings(254))
                        catalog.add_source("docs", "files", checked_config("files", {"path": str(source)}))
                    elif change:
                        catalog.change_tenant(**change)
                files = sum(1 for path in source.rglob("*") if path.is_file())
                counts.append(compare(bench, provider, [str(step), f"{files:,}", what]))
    texts = [sum(pair[which].texts for pair in counts) for which in (0, 1)]
    tokens = [sum(pair[which].tokens for pair in counts) for which in (0, 1)]
    differing = sum(said.others != was.others for said, was in counts)
    print(f"all: texts {_ratio(*texts)} of {texts[1]:,}, tokens {_ratio(*tokens)} of {tokens[1]:,}")
    print(f"syncs that did something else with documents, chunks or failures: {differing} of {len(counts)}")
    print(f"At the end: {machine()}")


if __name__ == "__main__":
    main()
