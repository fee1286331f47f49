"""What does a search cost besides the embedding call and Chroma? Authentication, PostgreSQL, and what is made of it.

Rows are generated straight into a PostgreSQL of its own: a tenant of 50,000 chunks and one of 1,000,000. Chroma is
stood in for by texts drawn at random, the embedding model by one vector; and once more with the local model, whose own
time is left out too but which may disturb what comes after it. Prints milliseconds. See docs/benchmarks.md.
    .venv/bin/python -m benchmarks.query [50000 1000000] [--questions 500] [--top-k 5] [--explain]
Some three minutes and 2 GB under the temporary folder.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import quantiles

import numpy as np
import psycopg
from pydantic import SecretStr

from benchmarks.stack import machine, work_folder
from minirag_pipelines.core import corpus
from minirag_pipelines.core.catalog import Catalog
from minirag_pipelines.core.corpus import ALSO_IN
from minirag_pipelines.core.database import Database, Transaction, statements
from minirag_pipelines.core.generations import Generations
from minirag_pipelines.core.providers.minilm import MiniLM
from minirag_pipelines.core.providers.models import Embedded, Embedder, Purpose, Usage, Vectors
from minirag_pipelines.core.providers.tokenizers import LOCAL_EMBEDDING_MODEL, tokenizer_for
from minirag_pipelines.core.records import ChunkerSettings, Generation
from minirag_pipelines.core.schema import migrate
from minirag_pipelines.core.settings import Settings
from minirag_pipelines.core.vector_store import Collection, Near, VectorStore
from minirag_pipelines.ingest.chunking import chunker_fingerprint
from minirag_pipelines.stack import databases
from minirag_pipelines.stack.postgres import Postgres
from minirag_serving import MiniRAG

SQL = statements("benchmarks", "query.sql")
WARM_UP = 50
_IN_A_DOCUMENT = 20
_DRAWN = 20_000


class StandInCollection(Collection):
    """Any of the texts is near any question."""

    def __init__(self, text_hashes: Sequence[bytes]) -> None:
        self._text_hashes = text_hashes
        self._draw = random.Random(1)  # noqa: S311 - a sample, not a secret

    def nearest(self, vector: Vectors, limit: int) -> list[Near]:
        near = self._draw.sample(self._text_hashes, limit)
        return [Near(text_hash, 1 - rank / limit) for rank, text_hash in enumerate(near)]


class StandInVectors(VectorStore):
    """A Chroma that is never asked."""

    def __init__(self, collections: dict[str, StandInCollection]) -> None:
        super().__init__("http://127.0.0.1:1")
        self._stand_ins = collections

    def collection(self, generation: Generation) -> Collection:
        return self._stand_ins[generation.collection]


class StandInEmbedder(MiniLM):
    """Every text has the same vector."""

    def embed(self, texts: Sequence[str], purpose: Purpose = "document") -> Embedded:
        return Embedded(np.eye(len(texts), self.dimension, dtype=np.float32), Usage())


class Asker(MiniRAG):
    """Serving with stand-ins for what is not measured."""

    def __init__(self, database_url: str, vectors: StandInVectors, embedder_: Embedder) -> None:
        super().__init__(Settings(database_url=SecretStr(database_url), chroma_url="http://127.0.0.1:1"))
        self.vectors = vectors
        self._embedders[embedder_.fingerprint] = embedder_


def add_tenant(admin_url: str, database: Database, tenant_id: str, chunks: int) -> tuple[str, str, StandInCollection]:
    """A tenant with so many published chunks: a token of it, its collection's name, and what stands in for that."""
    settings = ChunkerSettings(254)
    chunker = chunker_fingerprint(settings, tokenizer_for(LOCAL_EMBEDDING_MODEL).name)
    with database.transaction(tenant_id) as transaction:
        catalog = Catalog(transaction)
        tenant = catalog.add_tenant(name=None, embedding_model=LOCAL_EMBEDDING_MODEL, chunker=settings)
        source = catalog.add_source("docs", "files", {})
        token, _ = catalog.issue_token("benchmark")
        model = MiniLM()
        generation = Generations(transaction).add(
            tenant, state="live", chunker=chunker, model=model.fingerprint, dimension=model.dimension
        )
    parameters = {
        "tenant_id": tenant_id,
        "source_id": source.source_id,
        "chunker": chunker,
        "generation": generation.number,
        "documents": chunks // _IN_A_DOCUMENT,
    }
    with psycopg.connect(admin_url) as connection:
        connection.execute("SET session_replication_role = replica")
        for name in ("documents", "versions", "chunkings", "chunks", "indexed", "published"):
            connection.execute(SQL[name], parameters)
        rows = connection.execute(SQL["hashes"], {"tenant_id": tenant_id, "most": _DRAWN}).fetchall()
    return token, generation.collection, StandInCollection(sorted({row[0] for row in rows}))


def asked(minirag: MiniRAG, token: str, questions: int, top_k: int) -> dict[str, list[float]]:
    """Milliseconds of each search, by part; `all` is everything but the embedding and Chroma."""
    laps: dict[str, list[float]] = {"authenticate": [], "PostgreSQL": [], "the rest": [], "all": []}
    for number in range(WARM_UP + questions):
        began = time.perf_counter()
        who = minirag.authenticate(token)
        authenticated = time.perf_counter()
        result = minirag.search(who, f"What is said of number {number}?", top_k=top_k)
        total_ms = 1000 * (time.perf_counter() - began)
        assert len(result.hits) == top_k
        if number >= WARM_UP:
            of_others = result.latency_ms["embedding_ms"] + result.latency_ms["chroma_ms"]
            parts = {
                "authenticate": 1000 * (authenticated - began),
                "PostgreSQL": result.latency_ms["database_ms"],
                "all": total_ms - of_others,
            }
            parts["the rest"] = parts["all"] - parts["authenticate"] - parts["PostgreSQL"]
            for name, lap in parts.items():
                laps[name].append(lap)
    return laps


def show(chunks: int, after: str, laps: dict[str, list[float]]) -> None:
    for name, values in laps.items():
        cuts = quantiles(values, n=20, method="inclusive")
        print(f"{chunks:>9,} chunks  {after:<10}{name:<13} p50 {cuts[9]:6.2f} ms  p95 {cuts[18]:6.2f} ms", flush=True)


def explain(database: Database, tenant_id: str, stand_in: StandInCollection, top_k: int) -> None:
    """What PostgreSQL does for the statement that looks the hits up."""
    near = stand_in.nearest(StandInEmbedder().embed(["?"]).vectors[0], 2 * top_k + ALSO_IN)
    with database.transaction(tenant_id) as transaction:
        live = Generations(transaction).find_live()
        assert live is not None
        for line in _plan(transaction, live, [one.text_hash for one in near]):
            print(line)


def _plan(transaction: Transaction, live: Generation, text_hashes: list[bytes]) -> list[str]:
    rows = transaction.run(
        b"EXPLAIN (ANALYZE, BUFFERS) " + corpus.SQL["passages"],
        text_hashes=text_hashes,
        generation=live.number,
        chunker=live.chunker_fingerprint,
        most=ALSO_IN + 1,
    )
    return [row[0] for row in rows]


def measure(folder: Path, sizes: Sequence[int], questions: int, top_k: int, *, explained: bool) -> None:
    postgres = Postgres(folder / "home")
    postgres.start()
    try:
        urls = databases.prepare(postgres)
        migrate(urls["admin_database_url"])
        with Database(urls["database_url"]) as database:
            tenants = {}
            for size in sizes:
                began = time.perf_counter()
                tenants[size] = add_tenant(urls["admin_database_url"], database, f"tenant-{size}", size)
                print(f"{size:>9,} chunks written in {time.perf_counter() - began:.0f} s", flush=True)
            with psycopg.connect(urls["admin_database_url"], autocommit=True) as connection:
                connection.execute("VACUUM ANALYZE")
            vectors = StandInVectors({collection: stand_in for _, collection, stand_in in tenants.values()})
            for after, model in (("stand-in", StandInEmbedder()), ("local", MiniLM())):
                with Asker(urls["database_url"], vectors, model) as minirag:
                    for size, (token, _, _) in tenants.items():
                        show(size, after, asked(minirag, token, questions, top_k))
            for size, (_, _, stand_in) in tenants.items() if explained else ():
                print(f"\n{size:,} chunks")
                explain(database, f"tenant-{size}", stand_in, top_k)
    finally:
        postgres.stop()


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("chunks", type=int, nargs="*", default=[50_000, 1_000_000])
    arguments.add_argument("--questions", type=int, default=500)
    arguments.add_argument("--top-k", type=int, default=5)
    arguments.add_argument("--explain", action="store_true", help="show PostgreSQL's plan for looking hits up")
    given = arguments.parse_args()
    print(machine(), flush=True)
    with work_folder() as folder:
        measure(folder, given.chunks, given.questions, given.top_k, explained=given.explain)
    print(f"At the end: {machine()}")


if __name__ == "__main__":
    main()
