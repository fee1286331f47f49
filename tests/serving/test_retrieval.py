"""A search is true at the moment of asking, whatever a sync does meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

import pytest

from minirag_pipelines.core.catalog import Catalog
from minirag_pipelines.core.errors import InvalidInput, VectorStoreUnavailable
from minirag_pipelines.core.providers.models import Vectors
from minirag_pipelines.core.records import ChunkerSettings, Generation
from minirag_pipelines.core.vector_store import Collection, Near, VectorStore
from minirag_serving import SearchResult
from minirag_serving.retrieval import search
from tests.workbench import Workbench

pytestmark = [pytest.mark.postgres, pytest.mark.chroma]

FERRY = "The night ferry to Norhaven leaves at 22:40 from pier four.\n"
LATER = "The night ferry to Norhaven leaves at 23:15 from pier nine.\n"
TICKETS = "A return ticket costs 31 crowns and is valid for ten days.\n"


class HeldCollection(Collection):
    """Chroma has answered, and SQL has not been asked yet: something happens."""

    def __init__(self, collection: Collection, meanwhile: Callable[[], None]) -> None:
        self._collection = collection
        self._meanwhile = meanwhile

    def nearest(self, vector: Vectors, limit: int) -> list[Near]:
        found = self._collection.nearest(vector, limit)
        self._meanwhile()
        return found


class HeldStore(VectorStore):
    def __init__(self, store: VectorStore, meanwhile: Callable[[], None]) -> None:
        self._store = store
        self._meanwhile = meanwhile

    def collection(self, generation: Generation) -> Collection:
        return HeldCollection(self._store.collection(generation), self._meanwhile)


def search_while(workbench: Workbench, question: str, meanwhile: Callable[[], None]) -> SearchResult:
    done = threading.Event()

    def once() -> None:
        if not done.is_set():
            done.set()
            # On connections of its own, as another process would.
            thread = threading.Thread(target=meanwhile)
            thread.start()
            thread.join()

    store = HeldStore(workbench.vectors, once)
    return search(workbench.database, store, workbench.embedder_of, "acme", question, top_k=3)


def names(result: SearchResult) -> list[str]:
    return [hit.uri.rsplit("/", 1)[1] for hit in result.hits]


def test_a_document_updated_during_a_search_is_seen_wholly_as_it_was(workbench: Workbench) -> None:
    workbench.write("ferry.txt", FERRY)
    workbench.sync()

    def update() -> None:
        workbench.write("ferry.txt", LATER)
        workbench.sync()

    during = search_while(workbench, "night ferry to Norhaven", update)
    assert [hit.text.strip() for hit in during.hits] == [FERRY.strip()]
    after = workbench.search("night ferry to Norhaven")
    assert [hit.text.strip() for hit in after.hits] == [LATER.strip()]


def test_a_document_removed_during_a_search_is_not_returned(workbench: Workbench) -> None:
    path = workbench.write("ferry.txt", FERRY)
    workbench.write("tickets.txt", TICKETS)
    workbench.sync()

    def remove() -> None:
        path.unlink()
        workbench.sync()

    assert names(search_while(workbench, "night ferry to Norhaven", remove)) == ["tickets.txt"]


def test_a_document_forgotten_during_a_search_is_not_returned(workbench: Workbench) -> None:
    workbench.write("ferry.txt", FERRY)
    workbench.write("tickets.txt", TICKETS)
    workbench.sync()

    def forget() -> None:
        with workbench.database.transaction("acme") as transaction:
            transaction.connection.execute("UPDATE document SET forgotten_at = now() WHERE uri LIKE '%ferry.txt'")

    assert names(search_while(workbench, "night ferry to Norhaven", forget)) == ["tickets.txt"]


def test_a_document_renamed_during_a_search_is_found_once(workbench: Workbench) -> None:
    path = workbench.write("ferry.txt", FERRY)
    workbench.sync()

    def rename() -> None:
        path.rename(workbench.folder / "boats.txt")
        workbench.sync()

    during = search_while(workbench, "night ferry to Norhaven", rename)
    assert len(during.hits) == 1
    assert names(workbench.search("night ferry to Norhaven")) == ["boats.txt"]


def test_texts_that_are_retired_during_a_search_leave_no_gap(workbench: Workbench) -> None:
    """What was live when the search began stays in Chroma; a sync that retires at once would break that."""
    workbench.write("ferry.txt", FERRY)
    workbench.sync()

    def replaced() -> None:
        workbench.write("ferry.txt", LATER)
        workbench.sync()
        workbench.retire_after_s = 0
        workbench.sync()

    assert len(search_while(workbench, "night ferry to Norhaven", replaced).hits) == 1


def test_a_generation_swapped_during_a_search_is_not_mixed(workbench: Workbench) -> None:
    workbench.write("ferry.txt", FERRY)
    workbench.sync()

    def swap() -> None:
        with workbench.database.transaction("acme") as transaction:
            Catalog(transaction).change_tenant(chunker=ChunkerSettings(64))
        workbench.sync()

    during = search_while(workbench, "night ferry to Norhaven", swap)
    assert (during.generation, len(during.hits)) == (1, 1)
    assert workbench.search("night ferry to Norhaven").generation == 2


def test_a_model_swapped_between_embedding_and_snapshot_embeds_the_question_anew(workbench: Workbench) -> None:
    workbench.write("ferry.txt", FERRY)
    workbench.sync()
    asked: list[str] = []

    def embedder_of(generation: Generation) -> object:
        asked.append(generation.embedding_model)
        embedder = workbench.embedder_of(generation)
        if len(asked) == 1:
            with workbench.database.transaction("acme") as transaction:
                Catalog(transaction).change_tenant(embedding_model="openai/text-embedding-3-large")
            workbench.sync()
        return embedder

    found = search(workbench.database, workbench.vectors, embedder_of, "acme", "night ferry", top_k=3)  # type: ignore[arg-type]
    assert asked == ["openai/text-embedding-3-small", "openai/text-embedding-3-large"]
    assert (found.generation, len(found.hits)) == (2, 1)


def test_a_text_of_several_documents_is_one_hit_of_the_oldest(workbench: Workbench) -> None:
    workbench.write("first.txt", FERRY)
    workbench.sync()
    for number in range(13):
        workbench.write(f"copy{number:02}.txt", FERRY)
    workbench.sync()
    found = workbench.search("night ferry to Norhaven")
    assert names(found) == ["first.txt"]
    assert len(found.hits[0].also_in) == 10
    assert found.hits[0].also_in_count == 13


def test_spans_are_offsets_into_the_documents_text(workbench: Workbench) -> None:
    text = f"{FERRY}\n{TICKETS}"
    workbench.write("all.txt", text)
    workbench.sync()
    for hit in workbench.search("ticket").hits:
        assert text[slice(*hit.span)] == hit.text


def test_other_tenants_documents_are_never_found(workbench: Workbench) -> None:
    workbench.write("ferry.txt", FERRY)
    workbench.sync()
    workbench.add_tenant("other")
    with workbench.database.transaction("other") as transaction:
        transaction.connection.execute("UPDATE source SET removed_at = now()")
    workbench.sync("other")
    assert workbench.search("night ferry to Norhaven", tenant_id="other").hits == ()


def test_before_the_first_sync_nothing_is_found(workbench: Workbench) -> None:
    found = workbench.search("night ferry")
    assert (found.generation, found.hits) == (None, ())


def test_more_is_asked_of_chroma_when_hits_are_no_longer_published(workbench: Workbench) -> None:
    for number in range(60):
        workbench.write(f"old{number:02}.txt", f"The night ferry number {number} is gone.\n")
    workbench.write("keep.txt", "A return ticket for the harbour museum.\n")
    workbench.sync()
    for number in range(60):
        (workbench.folder / f"old{number:02}.txt").unlink()
    workbench.sync()
    assert names(workbench.search("the night ferry number is gone", top_k=1)) == ["keep.txt"]


@pytest.mark.parametrize(("question", "top_k"), [("", 5), (" \n", 5), ("x" * 10_001, 5), ("ferry", 0), ("ferry", 101)])
def test_a_question_that_is_none_is_refused(workbench: Workbench, question: str, top_k: int) -> None:
    with pytest.raises(InvalidInput):
        workbench.search(question, top_k=top_k)


def test_an_unreachable_chroma_is_said(workbench: Workbench) -> None:
    workbench.write("ferry.txt", FERRY)
    workbench.sync()
    away = replace(workbench, vectors=VectorStore("http://127.0.0.1:1"))
    with pytest.raises(VectorStoreUnavailable, match=r"127\.0\.0\.1:1"):
        away.search("night ferry")
