"""A plan says what the next sync does, does nothing of it, and leaves no trace."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import Any

import psycopg
import pytest

from minirag_pipelines.cli import planning
from minirag_pipelines.cli.session import Session
from minirag_pipelines.core.catalog import Catalog
from minirag_pipelines.core.corpus import Corpus
from minirag_pipelines.core.errors import ProviderRefused, SourceUnreadable, SyncInProgress
from minirag_pipelines.core.providers.lite_embedder import LiteEmbedder
from minirag_pipelines.core.providers.models import Embedded
from minirag_pipelines.core.providers.tokenizers import LOCAL_EMBEDDING_MODEL, tokenizer_for
from minirag_pipelines.core.records import ChunkerSettings
from minirag_pipelines.core.settings import settings
from minirag_pipelines.ingest.embedding import EMBED_BATCH
from minirag_pipelines.ingest.parser_pool import ParserPool
from minirag_pipelines.ingest.planning import Plan, PlannedDocument, plan_sync
from tests.workbench import SyncTally, Workbench

pytestmark = [pytest.mark.postgres, pytest.mark.chroma]

FERRY = "# Ferries\n\nThe night ferry to Norhaven leaves at 22:40 from pier four.\n"
TICKETS = "# Tickets\n\nA return ticket costs 31 crowns and is valid for ten days.\n"


@pytest.fixture
def workbench(workbench: Workbench) -> Workbench:
    """With a provider that counts tokens as OpenAI does."""
    workbench.provider.count_tokens = tokenizer_for(workbench.model).count
    return workbench


# Other tests wait for locks on the same server.
SOMEBODY_WAITS = (
    "SELECT 1 FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE NOT granted AND datname = current_database()"
)


def plan(
    bench: Workbench,
    *,
    force: bool = False,
    allow_empty: bool = False,
    pool: Callable[[], AbstractContextManager[ParserPool]] | None = None,
    quiet: bool = True,
) -> Plan:
    """A plan, and proof that it did nothing: no row is another version, no model was asked. It has no way to Chroma.

    Not `quiet` says that others write meanwhile.
    """
    rows, calls = bench.row_versions(), bench.provider.stats()
    with bench.database.writer(bench.tenant_id, wait_s=bench.wait_s, for_rehearsal=True) as writer:
        with bench.database.transaction(bench.tenant_id) as transaction:
            catalog = Catalog(transaction)
            tenant, sources = catalog.tenant(), catalog.sources()
        planned = plan_sync(
            writer,
            tenant,
            sources,
            replace(bench.parsing, pool=pool or bench.parsing.pool),
            bench.embedder_of,
            force=force,
            allow_empty=allow_empty,
        )
        # Neither has the connection kept anything.
        assert writer.connection.execute("SELECT 1 FROM pg_class WHERE relpersistence = 't'").fetchall() == []
    assert not quiet or bench.row_versions() == rows
    assert bench.provider.stats() == calls
    return planned


def start_and_see_waiting(bench: Workbench, other: Thread) -> None:
    """Let another one begin that waits for the plan, for longer than the plan may go without looking."""
    other.start()
    with bench.database.connection() as watching:
        while not watching.execute(SOMEBODY_WAITS).fetchone():
            time.sleep(0.05)
    time.sleep(1)


def whys(planned: Plan) -> dict[str, str]:
    return {one.uri.rsplit("/", 1)[1]: one.why for one in planned.documents}


def document(planned: Plan, name: str) -> PlannedDocument:
    (found,) = [one for one in planned.documents if one.uri.endswith(f"/{name}")]
    return found


def check(planned: Plan, done: SyncTally) -> None:
    """The sync has done what was planned, to the token and the cent."""
    sources = ("new", "changed", "renamed", "removed", "unchanged", "problems")
    assert [getattr(planned.sources, one) for one in sources] == [getattr(done.sources, one) for one in sources]
    build = done.collection.build
    assert (planned.build is None) == (build is None)
    embedded, added = done.embeddings, done.chunks.added
    dropped = done.chunks.dropped + done.sources.chunks_removed
    if build is not None and planned.build is not None:
        assert build.swapped
        assert planned.build.documents == build.built
        assert planned.build.texts.embedded == build.embeddings.embedded
        assert planned.build.texts.reused == build.embeddings.reused
        assert planned.build.texts.usage.prompt_tokens == build.embeddings.usage.prompt_tokens
        embedded += build.embeddings
        added += build.chunks.tokens.total()
        dropped += build.dropped
    texts = planned.all_texts
    assert (texts.embedded, texts.reused) == (embedded.embedded, embedded.reused)
    assert texts.usage.prompt_tokens == embedded.usage.prompt_tokens
    assert texts.usage.cost_usd == pytest.approx(embedded.usage.cost_usd)
    assert planned.chunks.added == added
    assert planned.chunks.kept == done.chunks.kept
    assert planned.chunks.dropped == dropped
    assert planned.quarantined == done.documents.quarantined


def planned_and_done(bench: Workbench, **options: bool) -> Plan:
    planned = plan(bench, **options)
    check(planned, bench.sync(**options))
    return planned


def change_tenant(bench: Workbench, **changes: Any) -> None:
    with bench.database.transaction(bench.tenant_id) as transaction:
        Catalog(transaction).change_tenant(**changes)


def long_text(of: str, sections: int = 8) -> str:
    return "\n".join(
        f"# {of} {n}\n\n" + f"The {of} number {n} is painted red and rings. " * 20 for n in range(sections)
    )


def test_with_nothing_changed_there_is_nothing_to_do(workbench: Workbench) -> None:
    workbench.write("ferry.md", FERRY)
    workbench.sync()
    planned = planned_and_done(workbench)
    assert planned.documents == []
    assert not planned.reasons
    assert (planned.texts.embedded, planned.texts.reused, planned.build) == (0, 0, None)
    assert planned.texts.usage.cost_usd == 0


def test_a_tenant_that_was_never_synced_is_planned_without_asking_its_model(workbench: Workbench) -> None:
    workbench.write("ferry.md", FERRY)
    workbench.write("copy.md", FERRY)
    workbench.write("buoys.md", long_text("buoy"))
    planned = planned_and_done(workbench)
    assert planned.reasons == {"new": 3}
    assert planned.texts.embedded > 8
    assert planned.texts.usage.cost_usd
    assert sum(one.texts.embedded for one in planned.documents) == planned.texts.embedded
    assert sorted(document(planned, name).texts.embedded for name in ("ferry.md", "copy.md")) == [0, 1]


def test_two_plans_in_a_row_say_the_same(workbench: Workbench) -> None:
    workbench.write("ferry.md", FERRY)
    workbench.write("broken.docx", b"no archive")
    first, second = plan(workbench), plan(workbench)
    assert whys(first) == whys(second)
    assert (first.all_texts, first.quarantined) == (second.all_texts, second.quarantined)
    check(second, workbench.sync())


def test_what_has_changed_is_said_with_the_reason_and_then_done(workbench: Workbench) -> None:
    for name in ("kept", "edited", "old", "gone", "touched"):
        workbench.write(f"{name}.md", long_text(name))
    workbench.sync()
    workbench.write("edited.md", long_text("edited").replace("number 3 is painted", "number 3 was painted"))
    (workbench.folder / "old.md").rename(workbench.folder / "young.md")
    (workbench.folder / "gone.md").unlink()
    os.utime(workbench.folder / "touched.md", (1, 1))
    workbench.write("fresh.md", long_text("fresh"))
    workbench.write("copy.md", long_text("kept"))
    planned = planned_and_done(workbench)
    assert whys(planned) == {
        "edited.md": "changed", "young.md": "renamed", "gone.md": "removed", "fresh.md": "new", "copy.md": "new",
    }  # fmt: skip
    renamed = document(planned, "young.md")
    assert renamed.was is not None
    assert renamed.was.endswith("/old.md")
    assert [document(planned, f"{name}.md").texts.embedded for name in ("copy", "young", "gone")] == [0, 0, 0]
    assert 0 < document(planned, "edited.md").texts.embedded < document(planned, "fresh.md").texts.embedded


def test_what_returns_and_what_is_restored_and_what_is_forgotten(workbench: Workbench) -> None:
    for name in ("back", "restored", "forgotten"):
        workbench.write(f"{name}.md", long_text(name))
    workbench.sync()
    (workbench.folder / "back.md").unlink()
    workbench.sync()
    with workbench.database.transaction("acme") as transaction:
        for row in workbench.documents("live"):
            Corpus(transaction).forget(row.document_id)
    assert whys(plan(workbench)) == {"restored.md": "forgotten", "forgotten.md": "forgotten"}
    workbench.sync()
    assert whys(plan(workbench)) == {}
    workbench.write("back.md", long_text("back"))
    with workbench.database.transaction("acme") as transaction:
        (row,) = [one for one in workbench.documents("forgotten") if one.uri.endswith("restored.md")]
        Corpus(transaction).restore(row.document_id)
    planned = planned_and_done(workbench)
    assert whys(planned) == {"back.md": "new", "restored.md": "pending"}
    assert document(planned, "back.md").texts.embedded == 0
    assert document(planned, "restored.md").texts.embedded > 0


def test_broken_documents_are_foretold_and_a_plan_is_no_attempt(workbench: Workbench) -> None:
    workbench.write("broken.docx", b"no archive")
    (workbench.folder / "link.txt").symlink_to("/etc/hostname")
    planned = planned_and_done(workbench)
    assert planned.quarantined.total() == 2
    held_back = planned_and_done(workbench)
    assert held_back.documents == []
    assert held_back.quarantined.total() == 2
    with workbench.database.transaction("acme") as transaction:
        Corpus(transaction).retry()
    planned = plan(workbench)
    assert set(whys(planned).values()) == {"retry"}
    attempts = {row.uri: row.attempts for row in workbench.documents("quarantined")}
    check(planned, workbench.sync())
    again = {row.uri: row.attempts for row in workbench.documents("quarantined")}
    assert again == {uri: attempts[uri] + 1 for uri in attempts}


def test_a_new_parser_reads_what_the_old_one_could_not(workbench: Workbench) -> None:
    workbench.write("broken.docx", b"no archive")
    workbench.write("ferry.md", FERRY)
    workbench.sync()
    with workbench.database.transaction("acme") as transaction:
        transaction.run(b"UPDATE failure SET maker = 'of old' WHERE tenant_id = %(tenant_id)s")
    assert whys(planned_and_done(workbench)) == {"broken.docx": "parser"}


def test_a_forced_plan_reads_everything_again(workbench: Workbench) -> None:
    workbench.write("ferry.md", FERRY)
    workbench.write("broken.docx", b"no archive")
    workbench.sync()
    planned = planned_and_done(workbench, force=True)
    assert whys(planned) == {"ferry.md": "forced", "broken.docx": "retry"}
    assert planned.texts.embedded == 0


def test_another_chunker_is_planned_before_and_during_its_build(workbench: Workbench) -> None:
    for name in ("a", "b", "c"):
        workbench.write(f"{name}.md", long_text(name))
    workbench.write("copy.md", long_text("a"))
    workbench.sync()
    workbench.write("b.md", long_text("b", 9))
    change_tenant(workbench, chunker=ChunkerSettings(64))
    planned = plan(workbench)
    assert planned.build is not None
    assert (planned.build.reason, planned.build.documents) == ("chunker", 4)
    assert planned.reasons == {"chunker": 4, "changed": 1}
    assert planned.build.texts.embedded > planned.texts.embedded > 0
    # A slice that ends after its first batch: what is left is what is planned.
    workbench.build_slice_s = 0.0001
    first = workbench.sync()
    assert first.collection.build is not None
    assert not first.collection.build.swapped
    workbench.build_slice_s = 60
    left = planned_and_done(workbench)
    assert left.build is not None
    done = first.collection.build.embeddings.embedded + left.build.texts.embedded
    assert done == planned.build.texts.embedded


@pytest.mark.parametrize("model", ["openai/text-embedding-3-large", LOCAL_EMBEDDING_MODEL])
def test_another_model_is_planned_with_its_own_tokens_and_price(workbench: Workbench, model: str) -> None:
    workbench.write("a.md", long_text("a"))
    workbench.write("b.md", long_text("b"))
    workbench.sync()
    workbench.write("b.md", long_text("b", 9))
    change_tenant(workbench, embedding_model=model)
    planned = planned_and_done(workbench)
    assert planned.build is not None
    assert planned.build.reason == "model"
    assert (planned.build.texts.usage.cost_usd == 0) == (model == LOCAL_EMBEDDING_MODEL)
    assert planned.texts.embedded > 0


def test_a_model_that_was_used_before_has_its_vectors(workbench: Workbench) -> None:
    workbench.kept_generations, workbench.retire_after_s = 0, 0
    workbench.write("a.md", long_text("a"))
    workbench.sync()
    change_tenant(workbench, embedding_model=LOCAL_EMBEDDING_MODEL)
    planned_and_done(workbench)
    workbench.sync()
    assert len(workbench.generations()) == 1
    change_tenant(workbench, embedding_model=workbench.model)
    planned = planned_and_done(workbench)
    assert planned.build is not None
    assert (planned.build.texts.embedded, planned.build.texts.reused > 0) == (0, True)


def test_portable_asks_no_model(workbench: Workbench) -> None:
    workbench.write("a.md", long_text("a"))
    workbench.sync()
    change_tenant(workbench, portable=True)
    planned = planned_and_done(workbench)
    assert planned.build is not None
    assert (planned.build.reason, planned.build.texts.embedded) == ("portable", 0)


def test_texts_that_a_sync_has_paid_for_before_it_failed_are_not_planned_again(workbench: Workbench) -> None:
    count = EMBED_BATCH + 44
    for number in range(count):
        workbench.write(f"{number}.txt", f"Buoy number {number} is painted red.")
    planned = plan(workbench)
    assert planned.texts.embedded == count
    embed = LiteEmbedder.embed
    calls: list[int] = []

    def refused_later(self: LiteEmbedder, texts: Sequence[str], *purpose: Any) -> Embedded:
        calls.append(len(texts))
        if len(calls) == 2:
            workbench.provider.fail(status=401)
        return embed(self, texts, *purpose)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(LiteEmbedder, "embed", refused_later)
        with pytest.raises(ProviderRefused):
            workbench.sync()
    planned = planned_and_done(workbench)
    # What the first request was paid for is live.
    assert planned.reasons == {"pending": 44}
    assert (planned.texts.embedded, planned.texts.reused) == (44, 0)


def test_an_empty_listing_is_said_and_believed_when_it_should_be(workbench: Workbench) -> None:
    path = workbench.write("ferry.md", FERRY)
    workbench.sync()
    path.unlink()
    planned = planned_and_done(workbench)
    assert planned.documents == []
    assert "lists nothing" in planned.sources.problems[0]
    planned = planned_and_done(workbench, allow_empty=True)
    assert planned.reasons == {"removed": 1}
    assert planned.chunks.dropped == 1


def test_a_source_that_can_not_be_listed_is_said(workbench: Workbench) -> None:
    workbench.write("ferry.md", FERRY)
    workbench.sync()
    shutil.rmtree(workbench.folder)
    with pytest.raises(SourceUnreadable):
        plan(workbench)


def test_while_a_sync_runs_there_is_no_plan(
    workbench: Workbench, environment: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "_WAIT_S", 0)
    opened = Session(settings(), workbench.database)
    with workbench.writer(), pytest.raises(SyncInProgress):
        planning.planned(opened, "acme")
    assert planning.planned(opened, "acme").documents == []


def test_a_plan_gives_way_to_who_forgets_a_document(workbench: Workbench) -> None:
    """It holds documents that have changed until it ends, which may be minutes; forgetting must not wait for that."""
    workbench.write("ferry.md", FERRY)
    workbench.write("tickets.md", TICKETS)
    workbench.sync()
    (row,) = [one for one in workbench.documents() if one.uri.endswith("ferry.md")]
    workbench.write("ferry.md", long_text("ferry"))
    workbench.write("tickets.md", long_text("ticket"))
    attempts: list[Thread] = []

    def forget() -> None:
        with workbench.database.transaction("acme") as transaction:
            Corpus(transaction).forget(row.document_id)

    @contextmanager
    def pool() -> Iterator[ParserPool]:
        attempts.append(Thread(target=forget))
        if len(attempts) == 1:
            start_and_see_waiting(workbench, attempts[0])
        with workbench.parsing.pool() as workers:
            yield workers

    planned = plan(workbench, pool=pool, quiet=False)
    attempts[0].join()
    assert len(attempts) == 2
    assert whys(planned) == {"ferry.md": "forgotten", "tickets.md": "changed"}
    check(planned, workbench.sync())


def test_a_plan_gives_way_to_a_sync_that_begins_meanwhile(workbench: Workbench) -> None:
    workbench.write("ferry.md", FERRY)
    sync = Thread(target=workbench.sync)

    @contextmanager
    def pool() -> Iterator[ParserPool]:
        start_and_see_waiting(workbench, sync)
        with workbench.parsing.pool() as workers:
            yield workers

    with pytest.raises(SyncInProgress):
        plan(workbench, pool=pool, quiet=False)
    sync.join()
    assert [hit.uri.rsplit("/", 1)[1] for hit in workbench.search("night ferry").hits] == ["ferry.md"]
    assert whys(plan(workbench)) == {}


def test_a_plan_waits_for_another_one(workbench: Workbench) -> None:
    workbench.write("ferry.md", FERRY)
    found: list[Plan] = []
    other = Thread(target=lambda: found.append(plan(workbench)))

    @contextmanager
    def pool() -> Iterator[ParserPool]:
        other.start()
        time.sleep(1.5)
        with workbench.parsing.pool() as workers:
            yield workers

    assert whys(plan(workbench, pool=pool, quiet=False)) == {"ferry.md": "new"}
    other.join()
    assert whys(found[0]) == {"ferry.md": "new"}


def test_a_killed_plan_leaves_nothing_and_blocks_nobody(
    workbench: Workbench, database_url: str, chroma_url: str, tmp_path: Path
) -> None:
    workbench.write("ferry.md", FERRY)
    workbench.sync()
    workbench.write("ferry.md", TICKETS)
    for number in range(60):
        workbench.write(f"{number}.md", f"{long_text('buoy')}\n\nThis is number {number}.\n")
    rows = workbench.row_versions()
    process = subprocess.Popen(
        [sys.executable, "-m", "minirag_pipelines.cli.main", "plan", "acme", "--json"],
        env=os.environ
        | {
            "MINIRAG_HOME": str(tmp_path / "home"),
            "MINIRAG_DATABASE_URL": database_url,
            "MINIRAG_CHROMA_URL": chroma_url,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    writing = "SELECT 1 FROM pg_stat_activity WHERE backend_xid IS NOT NULL AND datname = current_database()"
    with psycopg.connect(database_url, autocommit=True) as watching:
        deadline = time.monotonic() + 60
        while watching.execute(writing).fetchone() is None and time.monotonic() < deadline:
            time.sleep(0.01)
    assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert workbench.row_versions() == rows
    check(plan(workbench), workbench.sync())
