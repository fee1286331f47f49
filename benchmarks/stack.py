"""The embedded stack in a home of its own, a provider beside it, and syncs by the command, measured."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from benchmarks.processes import Ended, Watch, run
from minirag_pipelines.core.database import Database
from minirag_pipelines.core.providers.tokenizers import LOCAL_EMBEDDING_MODEL
from minirag_pipelines.stack.records import StackRecord

MODELS = {"fake": "openai/text-embedding-3-small", "local": LOCAL_EMBEDDING_MODEL}
# What is set here must not reach a measurement, and least of all the address and the key of a real provider.
_OURS = ("MINIRAG_", "DAGSTER_", "OPENAI_")
_PROJECT = Path(__file__).parents[1]
_STAGES = ("sources", "documents", "chunks", "embeddings", "collection")
# From the command's start to its end, without a gap.
PARTS = ("command", "queue", "process", *_STAGES, "end")
_RUN = """query ($run: ID!) { runOrError(runId: $run) {
  __typename ... on PythonError { message }
  ... on Run {
    creationTime endTime stepStats { stepKey startTime }
    eventConnection { events { ... on MessageEvent { timestamp eventType } } } } } }"""


@dataclass(frozen=True, slots=True)
class Counters:
    """Of the whole stack so far, and which rows the tenant has: by table, each row's physical version."""

    requests: int
    texts: int
    chroma_writes: int
    rows: dict[str, set[str]]

    def rows_since(self, before: Counters) -> int:
        """Rows written since: new ones and new versions of old ones."""
        return sum(len(rows - before.rows.get(table, set())) for table, rows in self.rows.items())


@dataclass(frozen=True, slots=True)
class Sync:
    """One `minirag sync`: `parts` are seconds by name of PARTS, memory is in MiB."""

    report: dict[str, Any]
    seconds: float
    parts: dict[str, float]
    cpu_s: dict[str, float]
    run_mib: float
    workers_mib: float
    provider_calls: int
    texts: int
    chroma_writes: int
    rows_written: int


@dataclass(frozen=True, slots=True)
class Stack:
    """A stack that is up. `environment` is what commands see of it."""

    home: Path
    environment: dict[str, str]
    provider_url: str | None
    database_url: str
    chroma_url: str
    ui_url: str

    def minirag(self, *arguments: str) -> Ended:
        """Run a command, as a person would; stops the benchmark when it fails."""
        return run([str(Path(sys.executable).with_name("minirag")), *arguments], self.environment)

    def add_tenant(self, tenant: str, folder: Path, model: str) -> None:
        self.minirag("tenant", "add", tenant, "--embedding-model", model)
        self.minirag("source", "add", tenant, "files", "--name", "docs", "--path", str(folder))

    def sync(self, tenant: str) -> Sync:
        """`minirag sync`, and all that it took."""
        before = self.counters(tenant)
        location = StackRecord.read(self.home).services["code-location"].pid
        with Watch(location) as watch:
            ended = self.minirag("sync", tenant, "--json")
        report = json.loads(ended.output)
        after = self.counters(tenant)
        return Sync(
            report=report,
            seconds=ended.seconds,
            parts=_parts(ended, self._run_record(report["run_id"])),
            cpu_s={"command": ended.cpu_s, "run": watch.runs_cpu_s, "workers": watch.workers_cpu_s},
            run_mib=watch.run_mib,
            workers_mib=watch.workers_mib,
            provider_calls=after.requests - before.requests,
            texts=after.texts - before.texts,
            chroma_writes=after.chroma_writes - before.chroma_writes,
            rows_written=after.rows_since(before),
        )

    def counters(self, tenant: str) -> Counters:
        stats = httpx.get(self.provider_url.removesuffix("/v1") + "/_stats").json() if self.provider_url else {}
        return Counters(
            stats.get("requests", 0), stats.get("texts_embedded", 0), self._chroma_writes(), self._rows(tenant)
        )

    def _chroma_writes(self) -> int:
        """Vectors written or deleted so far: the number of the last entry of Chroma's log."""
        log = self.home / "chroma" / "chroma.sqlite3"
        with closing(sqlite3.connect(f"file:{log}?mode=ro", uri=True)) as connection:
            return int(connection.execute("SELECT coalesce(max(seq_id), 0) FROM embeddings_queue").fetchone()[0])

    def _rows(self, tenant: str) -> dict[str, set[str]]:
        with Database(self.database_url) as database, database.transaction(tenant) as transaction:
            tables = transaction.connection.execute(
                b"SELECT tablename FROM pg_tables WHERE schemaname = 'minirag' AND tablename <> 'alembic_version'"
            ).fetchall()
            return {
                table.tablename: {
                    row.at
                    for row in transaction.connection.execute(
                        f"SELECT ctid || ' ' || xmin AS at FROM {table.tablename}".encode()
                    )
                }
                for table in tables
            }

    def _run_record(self, run_id: str) -> dict[str, Any]:
        answer = httpx.post(f"{self.ui_url}/graphql", json={"query": _RUN, "variables": {"run": run_id}}, timeout=30)
        found: dict[str, Any] = answer.json()["data"]["runOrError"]
        if found["__typename"] != "Run":
            raise SystemExit(f"The webserver does not know run {run_id}: {found}")
        return found


def _parts(ended: Ended, run_record: dict[str, Any]) -> dict[str, float]:
    """Where the command's seconds went: each part lasts until the next one begins."""
    starts = {"command": ended.began_at, "queue": run_record["creationTime"], "end": run_record["endTime"]}
    starts |= {step["stepKey"]: step["startTime"] for step in run_record["stepStats"]}
    for event in run_record["eventConnection"]["events"]:
        if event.get("eventType") == "RUN_STARTING":
            starts["process"] = float(event["timestamp"]) / 1000
    ends = [*(starts[part] for part in PARTS[1:]), ended.ended_at]
    return {part: end - starts[part] for part, end in zip(PARTS, ends, strict=True)}


@contextmanager
def running_stack(embedder: str, folder: Path) -> Iterator[Stack]:
    """The stack with its home under `folder`, up until the context is left; `embedder` is one of MODELS."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
    # A command is what a person starts, with compiled bytecode.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    environment["MINIRAG_HOME"] = str(folder / "home")
    command = str(Path(sys.executable).with_name("minirag"))
    with provider(embedder) as provider_url:
        environment |= credentials(provider_url)
        run([command, "up", "--detach"], environment)
        try:
            addresses = json.loads((folder / "home" / "addresses.json").read_text())
            yield Stack(
                folder / "home",
                environment,
                provider_url,
                addresses["database_url"],
                addresses["chroma_url"],
                addresses["ui_url"],
            )
        finally:
            run([command, "down"], environment)


@contextmanager
def provider(embedder: str, dimension: int = 384) -> Iterator[str | None]:
    """The URL of a provider that speaks OpenAI's protocol, in a process of its own; None for the local model."""
    if embedder != "fake":
        yield None
        return
    program = [sys.executable, str(_PROJECT / "tests" / "fakes.py"), "--dimension", str(dimension)]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def credentials(provider_url: str | None) -> dict[str, str]:
    """The environment in which LiteLLM asks that provider and no other."""
    return {"OPENAI_API_BASE": provider_url, "OPENAI_API_KEY": "sk-benchmark"} if provider_url else {}


def clear_environment() -> None:
    """The same for what is measured in this process."""
    for name in [name for name in os.environ if name.startswith(_OURS)]:
        del os.environ[name]


@contextmanager
def work_folder() -> Iterator[Path]:
    """An empty folder that is gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="minirag-benchmark-"))
    # PostgreSQL may run under another account than ours.
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def machine() -> str:
    """How busy the machine is: what is measured on a busy one says little, side by side or not."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    return f"{time.strftime('%Y-%m-%d %H:%M')}, {os.cpu_count()} cores, load {load:.1f}"
