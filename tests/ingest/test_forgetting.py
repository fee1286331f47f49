"""Forgotten documents: gone from answers at once, and for as long as nobody takes that back."""

from __future__ import annotations

import pytest

from minirag_pipelines.core.database import Row
from minirag_pipelines.ingest.erasing import erase_forgotten
from tests.ingest.test_crashes import check_invariants
from tests.workbench import Workbench

pytestmark = [pytest.mark.postgres, pytest.mark.chroma]

FERRY = "The night ferry to Norhaven leaves at 22:40 from pier four."
TICKETS = "A return ticket costs 31 crowns and is valid for ten days."


def uris(workbench: Workbench) -> list[str]:
    return sorted(hit.uri.rsplit("/", 1)[1] for hit in workbench.search("night ferry return ticket").hits)


def state(workbench: Workbench, name: str) -> str:
    return next(row.state for row in workbench.documents() if row.uri.endswith(name))


def rows(workbench: Workbench, table: str) -> list[Row]:
    with workbench.database.transaction("acme") as transaction:
        return transaction.connection.execute(f"SELECT * FROM {table}".encode()).fetchall()


@pytest.fixture
def two(workbench: Workbench) -> Workbench:
    workbench.retire_after_s = 0
    workbench.write("ferry.txt", FERRY)
    workbench.write("tickets.txt", TICKETS)
    workbench.sync()
    return workbench


def test_a_forgotten_document_is_gone_at_once_and_its_content_with_the_next_sync(two: Workbench) -> None:
    two.forget("ferry.txt")
    assert uris(two) == ["tickets.txt"]
    assert state(two, "ferry.txt") == "forgotten"
    done = two.sync().collection
    assert (done.erased, done.retired) == (1, 1)
    assert [row.text for row in rows(two, "version")] == [TICKETS]
    assert [row.text for row in rows(two, "chunk")] == [TICKETS]
    assert len(rows(two, "embedding")) == 1
    assert two.vectors.count(two.live()) == 1
    check_invariants(two)


def test_it_stays_forgotten_when_it_is_edited_moved_touched_removed_and_put_back(two: Workbench) -> None:
    two.forget("ferry.txt")
    two.sync()
    (two.folder / "ferry.txt").rename(two.folder / "boats.txt")
    assert two.sync().sources.renamed == 1
    assert uris(two) == ["tickets.txt"]
    two.write("boats.txt", FERRY + " It is late.")
    assert two.sync().sources.changed == 0
    assert uris(two) == ["tickets.txt"]
    # Known by what it held when it was last listed.
    (two.folder / "boats.txt").rename(two.folder / "ships.txt")
    assert two.sync().sources.renamed == 1
    assert uris(two) == ["tickets.txt"]
    (two.folder / "ships.txt").rename(two.folder / "boats.txt")
    two.sync()
    (two.folder / "boats.txt").unlink()
    two.sync()
    two.write("boats.txt", FERRY)
    two.sync(force=True)
    two.sync()
    assert uris(two) == ["tickets.txt"]
    assert state(two, "boats.txt") == "forgotten"
    two.restore("boats.txt")
    two.sync()
    assert uris(two) == ["boats.txt", "tickets.txt"]
    check_invariants(two)


def test_a_document_with_the_same_content_is_another_document(two: Workbench) -> None:
    two.write("copy.txt", FERRY)
    two.sync()
    two.forget("ferry.txt")
    assert uris(two) == ["copy.txt", "tickets.txt"]
    calls = two.provider.stats()["texts_embedded"]
    two.sync()
    assert uris(two) == ["copy.txt", "tickets.txt"]
    two.restore("ferry.txt")
    two.sync()
    hit = next(hit for hit in two.search("night ferry").hits if "ferry" in hit.text)
    assert hit.also_in_count == 1
    assert two.provider.stats()["texts_embedded"] - calls == 2  # the questions
    check_invariants(two)


def test_forgetting_waits_for_no_sync_and_holds_against_one_that_runs(two: Workbench) -> None:
    two.write("ferry.txt", FERRY + " It is late.")
    with two.writer() as writer:
        two.list(writer)
        two.read(writer)
        two.cut(writer)
        two.embed(writer)
        two.forget("ferry.txt")
        assert uris(two) == ["tickets.txt"]
        assert two.finish(writer).published.published == 0
    assert uris(two) == ["tickets.txt"]
    two.sync()
    assert [row.text for row in rows(two, "version")] == [TICKETS]
    check_invariants(two)


def test_restored_before_the_erasure_it_answers_without_the_model(two: Workbench) -> None:
    two.forget("ferry.txt")
    two.restore("ferry.txt")
    done = two.sync()
    assert (done.documents.parsed, done.embeddings.embedded) == (0, 0)
    assert uris(two) == ["ferry.txt", "tickets.txt"]
    check_invariants(two)


def test_forgetting_needs_no_chroma_and_reaches_every_generation(two: Workbench) -> None:
    two.change_tenant(chunk_tokens=64)
    two.sync()
    two.forget("ferry.txt")
    with two.writer() as writer:
        assert erase_forgotten(writer) == 1
    assert {row.document_id for row in rows(two, "published")} == {row.document_id for row in two.documents("live")}
    assert [one.documents for one in two.generations()] == [1, 1]
    two.sync()
    assert [two.vectors.count(one) for one in two.generations()] == [1, 1]
    check_invariants(two)
