"""Does a sync of one change grow with the tenant? Tenants of 1,000 to 100,000 documents, 10 chunks each.

Rows are generated straight into a PostgreSQL of its own; the source's listing is made up. Then the five stages run,
with nothing changed and with a document edited, removed, renamed, added: first on tables that were never analysed, then
on analysed ones. What the listing itself takes is shown apart. See docs/benchmarks.md.
    .venv/bin/python -m benchmarks.scale [1000 10000 100000] [--repeat 5] [--statements 3]
"""

from __future__ import annotations

import argparse
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import psycopg

from benchmarks import synthetic
from benchmarks.stack import clear_environment, machine, work_folder
from benchmarks.stages import Stages, opened, usual_pool
from minirag_pipelines.core import corpus, generations
from minirag_pipelines.core.catalog import SQL as CATALOG
from minirag_pipelines.core.catalog import Catalog
from minirag_pipelines.core.database import Database, Transaction, statements
from minirag_pipelines.core.generations import Generations
from minirag_pipelines.core.providers.minilm import MiniLM
from minirag_pipelines.core.providers.tokenizers import LOCAL_EMBEDDING_MODEL, tokenizer_for
from minirag_pipelines.core.records import ChunkerSettings, Generation
from minirag_pipelines.core.settings import Settings
from minirag_pipelines.core.vector_store import Collection, VectorStore
from minirag_pipelines.ingest import cutting, embedding, erasing, finishing, listing, publishing, reading, restoring
from minirag_pipelines.ingest.chunking import chunker_fingerprint
from minirag_pipelines.ingest.connectors import kinds
from minirag_pipelines.ingest.formats import parser_fingerprint

SQL = statements("benchmarks", "scale.sql")
MOST_MS = 50
# What takes in a listing and compares it with what is known: it can't but grow with the listing.
STAGING = frozenset({"stage", "clear_stage", "copy", "analyze_stage"})
COMPARING = frozenset({"differences", "find_unlisted", "find_vanished", "staged_count"})
LISTING = STAGING | COMPARING
_OTHER = "BEGIN, COMMIT, …"


class CountingCollection(Collection):
    """Holds no vectors, and says truthfully how many it would hold."""

    def __init__(self, texts: int) -> None:
        self._old, self._new, self._gone = texts, set[bytes](), set[bytes]()

    def upsert(self, vectors: Mapping[bytes, Any], passages: object = None, *, check: object = None) -> None:
        assert all(np.isfinite(vector).all() for vector in vectors.values())
        self._new |= vectors.keys()

    def delete(self, text_hashes: Sequence[bytes], *, check: object = None) -> None:
        self._gone |= set(text_hashes) - self._new
        self._new -= set(text_hashes)

    def count(self) -> int:
        return self._old + len(self._new) - len(self._gone)


class CountingVectors(VectorStore):
    """A Chroma that is never asked."""

    def __init__(self, texts: int) -> None:
        super().__init__("http://127.0.0.1:1")
        self._stand_in = CountingCollection(texts)

    def create(self, generation: Generation) -> Collection:
        return self._stand_in

    def collection(self, generation: Generation) -> Collection:
        return self._stand_in

    def count(self, generation: Generation) -> int:
        return self._stand_in.count()


@dataclass
class Clock:
    """Milliseconds that the client waited for PostgreSQL, milliseconds that it worked, and how often; by statement."""

    ms: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    cpu_ms: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    times: Counter[str] = field(default_factory=Counter)
    sessions: set[int] = field(default_factory=set)
    _names: list[str] = field(default_factory=lambda: [_OTHER])

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Counts for as long as the block lasts. All that psycopg sends goes through Connection.wait."""
        run, copy, wait = Transaction.run, listing._copy, psycopg.Connection.wait

        def timed_wait(connection: Any, *arguments: Any, **options: Any) -> Any:
            pid = connection.info.backend_pid
            self.sessions.add(pid)
            began, cpu = time.perf_counter(), _cpu_ms(pid)
            try:
                return wait(connection, *arguments, **options)
            finally:
                self.ms[self._names[-1]] += 1000 * (time.perf_counter() - began)
                self.cpu_ms[self._names[-1]] += _cpu_ms(pid) - cpu
                self.times[self._names[-1]] += self._names[-1] == _OTHER

        def named_run(transaction: Transaction, statement: bytes, **parameters: object) -> Any:
            with self._named(statement_names().get(statement, "writer_epoch")):
                return run(transaction, statement, **parameters)

        def named_copy(*arguments: Any) -> None:
            with self._named("copy"):
                copy(*arguments)

        Transaction.run, listing._copy, psycopg.Connection.wait = named_run, named_copy, timed_wait
        try:
            yield
        finally:
            Transaction.run, listing._copy, psycopg.Connection.wait = run, copy, wait

    @contextmanager
    def _named(self, name: str) -> Iterator[None]:
        self._names.append(name)
        self.times[name] += 1
        try:
            yield
        finally:
            self._names.pop()


def _cpu_ms(pid: int) -> float:
    """What a process on this machine has worked so far; Linux says it to the nanosecond, others don't."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e6
    except OSError:
        return float("nan")


def statement_names() -> dict[bytes, str]:
    """The name of each statement that a sync runs, by its text."""
    stages = (listing, reading, cutting, embedding, erasing, publishing, restoring, finishing)
    files = (*(stage.SQL for stage in stages), generations.SQL, corpus.SQL, CATALOG)
    return {body: name for sql in files for name, body in sql.items()}


@dataclass(frozen=True, slots=True)
class Sync:
    """What one sync took."""

    clock: Clock
    rows_written: int
    seconds: float

    def figures(self) -> dict[str, float]:
        listed = {name: ms for name, ms in self.clock.ms.items() if name in LISTING}
        return {
            "staging": sum(ms for name, ms in listed.items() if name in STAGING),
            "comparing": sum(ms for name, ms in listed.items() if name in COMPARING),
            "the rest": sum(self.clock.ms.values()) - sum(listed.values()),
            "its cpu": sum(ms for name, ms in self.clock.cpu_ms.items() if name not in listed),
            "statements": self.clock.times.total(),
            "rows": self.rows_written,
            "seconds": self.seconds,
        }


@dataclass
class Subject:
    """A tenant of so many documents, and what has happened to its source so far."""

    stages: Stages
    documents: int
    admin_url: str
    config: synthetic.Config
    taken: int = 0

    def sync(self, change: str) -> Sync:
        """One change, one sync, and a look at whether it did what it should."""
        self._change(change)
        source = replace(self.stages.sources[0], config=self.config.model_dump())
        self.stages.sources = [source]
        before, began, clock = self._rows_written(set()), time.perf_counter(), Clock()
        with clock.counting():
            self.stages.sync()
        seconds = time.perf_counter() - began
        listed = self.stages.tallies["list"]
        found = {name: getattr(listed, name) for name in ("new", "changed", "renamed", "removed")}
        wanted = {"one added": "new", "one edited": "changed", "one renamed": "renamed", "one removed": "removed"}
        assert found == {name: int(wanted.get(change) == name) for name in found}, (change, found)
        assert self.stages.tallies["finish"].published.published == int(change in ("one added", "one edited")), change
        assert self.stages.tallies["finish"].published.restored == 0
        return Sync(clock, self._rows_written(clock.sessions) - before, seconds)

    def _change(self, change: str) -> None:
        if change == "no change":
            return
        self.taken += 1
        # Another document each time, and none that is quarantined.
        number, given = 37 * self.taken % self.documents, self.config
        assert number % 100 != 50
        assert number not in given.edited | given.removed | given.renamed
        if change == "one edited":
            self.config = given.model_copy(update={"edited": given.edited | {number}})
        elif change == "one removed":
            self.config = given.model_copy(update={"removed": given.removed | {number}})
        elif change == "one renamed":
            self.config = given.model_copy(update={"renamed": given.renamed | {number}})
        elif change == "one added":
            self.config = given.model_copy(update={"added": given.added + 1})

    def _rows_written(self, sessions: set[int]) -> int:
        """So far, by all sessions; these have ended, and say what they wrote when they are gone."""
        with psycopg.connect(self.admin_url, autocommit=True) as connection:
            while connection.execute(SQL["sessions"], {"sessions": list(sessions)}).fetchone() != (0,):
                time.sleep(0.02)
            row = connection.execute(SQL["rows_written"]).fetchone()
        assert row is not None
        return int(row[0])


CHANGES = ("no change", "one edited", "one removed", "one renamed", "one added")


def add_subject(settings: Settings, database: Database, documents: int, pool: Any) -> Subject:
    """A tenant with so many published documents."""
    tenant_id, chunker_settings, model = f"tenant-{documents}", ChunkerSettings(254), MiniLM()
    chunker = chunker_fingerprint(chunker_settings, tokenizer_for(LOCAL_EMBEDDING_MODEL).name)
    config = synthetic.Config(documents=documents)
    with database.transaction(tenant_id) as transaction:
        catalog = Catalog(transaction)
        tenant = catalog.add_tenant(name=None, embedding_model=LOCAL_EMBEDDING_MODEL, chunker=chunker_settings)
        source = catalog.add_source("docs", "synthetic", config.model_dump(mode="json"))
        generation = Generations(transaction).add(
            tenant, state="live", chunker=chunker, model=model.fingerprint, dimension=model.dimension
        )
    parameters = {
        "tenant_id": tenant_id,
        "source_id": source.source_id,
        "chunker": chunker,
        "model": model.fingerprint,
        "parser": parser_fingerprint("md", settings.languages.split(",")),
        "generation": generation.number,
        "documents": documents,
        "modified_at": synthetic.MODIFIED_AT,
    }
    assert settings.admin_database_url is not None
    admin_url = settings.admin_database_url.get_secret_value()
    texts = 0
    with psycopg.connect(admin_url) as connection:
        connection.execute("SET session_replication_role = replica")
        for name in list(SQL)[: list(SQL).index("counters") + 1]:
            ended = connection.execute(SQL[name], parameters)
            if name == "counters":
                texts = (ended.fetchone() or (0,))[0]
    stages = Stages(database, CountingVectors(texts), settings, tenant, [source], pool=lambda: nullcontext(pool))
    return Subject(stages, documents, admin_url, config)


def show(subjects: Mapping[int, Subject], repeat: int, most_statements: int) -> None:
    """A table of the least that each figure was, as others disturb it; and of the largest tenant to the smallest."""
    least: dict[int, dict[str, float]] = {}
    for change in CHANGES:
        for documents, subject in subjects.items():
            syncs = [subject.sync(change) for _ in range(repeat)]
            figures = [sync.figures() for sync in syncs]
            least[documents] = {name: min(one[name] for one in figures) for name in figures[0]}
            if documents == min(subjects):
                print(f"{change:12}{'documents':>11}" + "".join(f"{name:>12}" for name in least[documents]))
            over = "" if least[documents]["the rest"] <= MOST_MS else f"  over {MOST_MS} ms"
            cells = "".join(f"{figure:>12,.{_DIGITS.get(name, 0)}f}" for name, figure in least[documents].items())
            print(f"{'':12}{documents:>11,}{cells}{over}", flush=True)
            for name, ms, cpu_ms in slowest(syncs, most_statements):
                print(f"{'':36}{ms:>9.1f} ms  {cpu_ms:>9.1f} ms cpu  {name}", flush=True)
        small, large = least[min(least)], least[max(least)]
        ratios = "".join(f"{large[name] / small[name] if small[name] else 1:>12.2f}" for name in large)
        print(f"{'':12}{'ratio':>11}{ratios}", flush=True)


_DIGITS = {"staging": 1, "comparing": 1, "the rest": 1, "its cpu": 1, "seconds": 2}


def slowest(syncs: Sequence[Sync], most: int) -> list[tuple[str, float, float]]:
    """Statements by the least milliseconds that they took in a sync, and worked."""
    names = {name for sync in syncs for name in sync.clock.ms}
    found = [
        (name, min(sync.clock.ms[name] for sync in syncs), min(sync.clock.cpu_ms[name] for sync in syncs))
        for name in names
    ]
    return sorted(found, key=lambda one: -one[1])[:most]


def measure(folder: Path, sizes: Sequence[int], repeat: int, most_statements: int) -> None:
    kinds.KINDS = {**kinds.KINDS, "synthetic": "benchmarks.synthetic"}
    with opened(Settings(home=folder / "home")) as (settings, database), usual_pool(settings) as pool:
        assert settings.admin_database_url is not None
        with psycopg.connect(settings.admin_database_url.get_secret_value(), autocommit=True) as admin:
            admin.execute("ALTER SYSTEM SET autovacuum = off")
            admin.execute("SELECT pg_reload_conf()")
            subjects = {}
            for documents in sizes:
                began = time.perf_counter()
                subjects[documents] = add_subject(settings, database, documents, pool)
                print(f"{documents:>9,} documents written in {time.perf_counter() - began:.0f} s", flush=True)
            # What is loaded and compiled for the first time is none of the sync's.
            for change in ("no change", "one edited"):
                for subject in subjects.values():
                    subject.sync(change)
            for title, preparation in (("never analysed", b"CHECKPOINT"), ("analysed", b"VACUUM ANALYZE")):
                admin.execute(preparation)
                print(f"\n{title}: milliseconds of SQL")
                show(subjects, repeat, most_statements)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("documents", type=int, nargs="*", default=[1_000, 10_000, 100_000])
    arguments.add_argument("--repeat", type=int, default=5, help="syncs of each kind; the table shows the least")
    arguments.add_argument("--statements", type=int, default=0, help="show so many of the slowest statements")
    given = arguments.parse_args()
    print(machine(), flush=True)
    clear_environment()
    with work_folder() as folder:
        measure(folder, given.documents, given.repeat, given.statements)
    print(f"At the end: {machine()}")


if __name__ == "__main__":
    main()
