"""Each kind of drift between PostgreSQL and Chroma is made, found and mended, and no model is asked for it."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minirag_pipelines.core.catalog import Catalog
from minirag_pipelines.core.errors import CollectionMismatch, SyncInProgress
from minirag_pipelines.core.records import ChunkerSettings, Generation
from minirag_pipelines.core.vector_store import Collection, VectorStore
from minirag_pipelines.ingest.comparing import unfindable
from minirag_pipelines.ingest.reconciling import Reconciliation, reconcile
from minirag_pipelines.stack.chroma import ChromaServer
from tests.servers import start_test_chroma
from tests.workbench import Workbench

pytestmark = [pytest.mark.postgres, pytest.mark.chroma]

FERRY = "# Ferries\n\nThe night ferry to Norhaven leaves at 22:40 from pier four.\n"


@pytest.fixture
def synced(workbench: Workbench) -> Workbench:
    """A tenant with a dozen texts."""
    workbench.write("ferry.md", FERRY)
    for number in range(11):
        workbench.write(f"thing-{number}.md", f"# Thing {number}\n\nParagraph {number} speaks of thing {number}.\n")
    workbench.sync()
    assert not look(workbench).drifted
    return workbench


def look(workbench: Workbench, **options: Any) -> Reconciliation:
    return reconcile(workbench.database, workbench.vectors, workbench.tenant_id, wait_s=0, **options)


def repair(workbench: Workbench) -> Reconciliation:
    calls = workbench.provider.stats()
    done = look(workbench, repair=True)
    assert not done.drifted, [drift.sentences() for drift in done.left]
    assert workbench.provider.stats() == calls
    again = look(workbench, repair=True)
    assert [drift.sentences() for drift in again.found] == [[]] * len(again.found)
    return done


def raw(workbench: Workbench, generation: Generation | None = None) -> Any:
    return workbench.vectors.collection(generation or workbench.live())._raw


def change(workbench: Workbench, statement: str, **parameters: object) -> int:
    with workbench.database.transaction(workbench.tenant_id) as transaction:
        return transaction.run(statement.encode(), **parameters).rowcount


def ferry(workbench: Workbench) -> bytes:
    hit = workbench.search("When does the night ferry leave?").hits[0]
    assert "22:40" in hit.text
    return bytes.fromhex(hit.text_hash)


def test_without_drift_nothing_is_written_even_by_a_repair(synced: Workbench) -> None:
    rows = synced.row_versions()
    done = look(synced, repair=True)
    assert (done.drifted, done.found[0].texts, done.found[0].compared) == (False, 12, 12)
    assert synced.row_versions() == rows


def test_missing_vectors_are_found_and_written_again(synced: Workbench) -> None:
    ids = raw(synced).get(include=[])["ids"]
    raw(synced).delete(ids=ids[:5])
    rows = synced.row_versions()
    found = look(synced)
    assert (found.drifted, found.found[0].missing, found.found[0].compared) == (True, 5, 7)
    assert "5 vectors are missing from Chroma" in found.found[0].sentences()[0]
    assert synced.row_versions() == rows
    assert raw(synced).count() == 7
    done = repair(synced)
    assert done.mended
    assert done.mended.written == 5
    assert raw(synced).count() == 12


def test_foreign_ids_are_found_and_deleted(synced: Workbench) -> None:
    vector = np.ones((1, synced.live().dimension), dtype=np.float32)
    for text_id in ("no hash at all", "ab" * 32):
        raw(synced).upsert(ids=[text_id], embeddings=vector)
    assert look(synced).found[0].foreign == 2
    done = repair(synced)
    assert done.mended
    assert (done.mended.deleted, done.mended.written) == (2, 0)
    assert raw(synced).count() == 12


def test_foreign_ids_are_found_wherever_they_lie_among_many_pages(
    synced: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("minirag_pipelines.ingest.restoring._ID_PAGE", 5)
    monkeypatch.setattr("minirag_pipelines.ingest.comparing.PAGE", 5)
    known = raw(synced).get(include=["embeddings"])
    raw(synced).delete(ids=known["ids"])
    foreign = [f"{number:064x}" for number in range(9)]
    order = [*foreign[:3], *known["ids"][:4], *foreign[3:5], *known["ids"][4:], *foreign[5:]]
    vectors = dict(zip(known["ids"], known["embeddings"], strict=True))
    for one in order:
        raw(synced).upsert(ids=[one], embeddings=[vectors.get(one, known["embeddings"][0])])
    assert (look(synced).found[0].foreign, look(synced).found[0].missing) == (9, 0)
    done = repair(synced)
    assert done.mended
    assert done.mended.deleted == 9
    assert sorted(raw(synced).get(include=[])["ids"]) == sorted(known["ids"])


def test_a_wrong_vector_is_found_and_replaced(synced: Workbench) -> None:
    text_hash = ferry(synced)
    wrong = np.zeros((1, synced.live().dimension), dtype=np.float32)
    wrong[0, 0] = 1
    raw(synced).upsert(ids=[text_hash.hex()], embeddings=wrong)
    assert look(synced).found[0].wrong == 1
    assert look(synced, sample=0).found[0].wrong == 0
    done = repair(synced)
    assert done.mended
    assert done.mended.written == 1
    assert "22:40" in synced.search("When does the night ferry leave?").hits[0].text


def test_a_lost_collection_is_made_again_while_questions_are_asked(synced: Workbench) -> None:
    synced.vectors.drop(synced.live())
    found = look(synced).found[0]
    assert (found.lost, found.missing) == (True, 12)
    with pytest.raises(CollectionMismatch, match="minirag reconcile"):
        synced.search("When does the night ferry leave?")
    done = repair(synced)
    assert done.mended
    assert done.mended.written == 12
    assert "22:40" in synced.search("When does the night ferry leave?").hits[0].text


def test_a_collection_of_another_model_is_made_again(synced: Workbench) -> None:
    live = synced.live()
    synced.vectors.drop(live)
    synced.vectors._client.create_collection(live.collection, metadata={"model": "other"}, embedding_function=None)
    assert look(synced).found[0].lost
    repair(synced)
    assert raw(synced).count() == 12


def test_wrong_counters_are_found_and_set(synced: Workbench) -> None:
    before = synced.live()
    change(synced, "UPDATE generation SET documents = 3, chunks = 4, texts = 5 WHERE tenant_id = %(tenant_id)s")
    found = look(synced).found[0]
    assert found.counters == {"documents": (3, 12), "chunks": (4, 12), "texts": (5, 12)}
    assert "counter of documents says 3 where there are 12" in found.sentences()[0]
    repair(synced)
    after = synced.live()
    assert (after.documents, after.chunks, after.texts) == (before.documents, before.chunks, before.texts)


def test_a_text_without_a_stored_vector_is_left_to_the_next_sync(synced: Workbench) -> None:
    text_hash = ferry(synced)
    raw(synced).delete(ids=[text_hash.hex()])
    change(synced, "DELETE FROM embedding WHERE tenant_id = %(tenant_id)s AND text_hash = %(hash)s", hash=text_hash)
    found = look(synced).found[0]
    assert (found.missing, found.unembedded) == (1, 1)
    calls = synced.provider.stats()
    done = look(synced, repair=True)
    assert done.mended
    assert (done.drifted, done.mended.marked, done.left[0].waiting) == (False, 1, 1)
    assert "wait for the next sync" in done.left[0].sentences()[0]
    assert [row.uri.rsplit("/", 1)[1] for row in synced.documents("pending")] == ["ferry.md"]
    # Another repair leaves it at that, and the sync embeds this one text.
    again = look(synced, repair=True)
    assert again.mended
    assert (again.drifted, again.mended.marked) == (False, 0)
    assert synced.provider.stats() == calls
    assert synced.sync().embeddings.embedded == 1
    assert look(synced).found[0].sentences() == []
    assert synced.live().texts == 12
    assert synced.documents("pending") == []
    assert ferry(synced) == text_hash


def test_a_stored_vector_that_is_gone_is_missed_although_chroma_has_it(synced: Workbench) -> None:
    text_hash = ferry(synced)
    change(synced, "DELETE FROM embedding WHERE tenant_id = %(tenant_id)s AND text_hash = %(hash)s", hash=text_hash)
    assert look(synced).found[0].unembedded == 1
    assert look(synced, repair=True).left[0].waiting == 1
    # It keeps answering meanwhile.
    assert ferry(synced) == text_hash
    assert synced.sync().embeddings.embedded == 1
    assert look(synced).found[0].sentences() == []


def test_a_published_text_that_is_not_recorded_is_settled_again(synced: Workbench) -> None:
    text_hash = ferry(synced)
    change(synced, "DELETE FROM indexed WHERE tenant_id = %(tenant_id)s AND text_hash = %(hash)s", hash=text_hash)
    found = look(synced).found[0]
    assert (found.unsettled, found.foreign, found.counters) == (1, 1, {"texts": (12, 11)})
    done = repair(synced)
    assert done.mended
    assert (done.mended.written, done.mended.deleted) == (1, 0)
    assert synced.live().texts == 12


def test_a_text_that_the_model_refuses_is_no_drift(workbench: Workbench) -> None:
    workbench.write("ferry.md", FERRY)
    workbench.write("odd.md", "# Odd\n\nThis text is refused.\n")
    workbench.provider.refused_word = "refused"
    assert workbench.sync().embeddings.refused == 1
    assert look(workbench).found[0].sentences() == []


def test_what_a_portable_generation_writes_is_compared_too(workbench: Workbench) -> None:
    with workbench.database.transaction("acme") as transaction:
        Catalog(transaction).change_tenant(portable=True)
    workbench.write("ferry.md", FERRY)
    workbench.write("other.md", "# Other\n\n" + "\n\n".join(f"Paragraph {n} is of other things." for n in range(60)))
    workbench.sync()
    assert look(workbench).found[0].sentences() == []
    ids = raw(workbench).get(include=[])["ids"]
    vectors = raw(workbench).get(ids=ids[:2], include=["embeddings"])["embeddings"]
    raw(workbench).update(ids=ids[:1], embeddings=vectors[:1], documents=["something else"])
    raw(workbench).update(ids=ids[1:2], embeddings=vectors[1:], metadatas=[{"headings": "Elsewhere"}])
    assert look(workbench).found[0].wrong_passages == 2
    done = repair(workbench)
    assert done.mended
    assert done.mended.written == 2


def test_the_kept_generation_is_reconciled_too(synced: Workbench) -> None:
    with synced.database.transaction("acme") as transaction:
        Catalog(transaction).change_tenant(chunker=ChunkerSettings(64))
    synced.sync()
    kept, live = synced.generations()
    assert (kept.state, live.state) == ("kept", "live")
    ids = raw(synced, kept).get(include=[])["ids"]
    raw(synced, kept).delete(ids=ids[:2])
    # Vectors of the same texts are stored once for both: without them the kept one takes its own back from Chroma.
    change(
        synced,
        "DELETE FROM embedding WHERE tenant_id = %(tenant_id)s AND encode(text_hash, 'hex') = %(hash)s",
        hash=ids[5],
    )
    found = {drift.state: drift for drift in look(synced).found}
    assert (found["kept"].missing, found["kept"].unembedded, found["live"].missing) == (2, 1, 0)
    done = repair(synced)
    assert done.mended
    assert (done.mended.written, done.mended.recovered) == (2, 1)


def test_a_generation_that_is_being_built_is_mended_so_that_the_build_ends(synced: Workbench) -> None:
    for number in range(108):
        synced.write(f"more/{number}.txt", f"Lighthouse number {number} is painted white.")
    synced.sync()
    synced.change_tenant(model="openai/text-embedding-3-large")
    synced.build_slice_s = 1e-9
    synced.sync()
    _, building = synced.generations()
    assert (building.state, building.documents) == ("building", 100)
    assert look(synced).found[1].sentences() == []
    raw(synced, building).delete(ids=raw(synced, building).get(include=[])["ids"])
    change(synced, "DELETE FROM embedding WHERE tenant_id = %(tenant_id)s")
    assert [(drift.missing, drift.unembedded) for drift in look(synced).found] == [(0, 120), (100, 100)]
    done = look(synced, repair=True)
    assert not done.drifted
    assert synced.generations()[1].documents == 0
    synced.build_slice_s = 60
    after = synced.sync()
    assert after.collection.build is not None
    assert (after.embeddings.embedded, after.collection.build.embeddings.embedded) == (120, 120)
    assert synced.live().number == building.number
    assert [drift.sentences() for drift in look(synced).found if drift.state == "live"] == [[]]


def test_a_running_sync_holds_up_a_repair_and_not_a_look(synced: Workbench) -> None:
    raw(synced).delete(ids=raw(synced).get(include=[])["ids"][:1])
    with synced.writer():
        assert look(synced).found[0].missing == 1
        with pytest.raises(SyncInProgress):
            look(synced, repair=True)
    with synced.writer() as writer:
        threading.Timer(1.0, writer.close).start()
        done = reconcile(synced.database, synced.vectors, "acme", repair=True, wait_s=30)
    assert not done.drifted


def test_a_look_during_syncs_finds_nothing_where_nothing_is(workbench: Workbench) -> None:
    workbench.retire_after_s = 0
    workbench.write("ferry.md", FERRY)
    workbench.sync()
    over = threading.Event()
    seen: list[list[str]] = []

    def keep_looking() -> None:
        while not over.is_set():
            seen.extend(drift.sentences() for drift in look(workbench).found)

    looking = threading.Thread(target=keep_looking)
    looking.start()
    try:
        for number in range(4):
            for name in range(6):
                workbench.write(f"{name}.md", f"# Thing {name}\n\nIn round {number} it speaks of {number * name}.\n")
            workbench.sync()
    finally:
        over.set()
        looking.join()
    assert seen
    assert [sentences for sentences in seen if sentences] == []


def test_a_text_that_leaves_between_the_stores_is_not_missed(
    synced: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    text_hash, asked = ferry(synced), Collection.present

    def present(collection: Collection, text_hashes: Sequence[bytes]) -> set[bytes]:
        change(
            synced,
            "UPDATE indexed SET state = 'leaving', changed_at = now() WHERE tenant_id = %(tenant_id)s"
            " AND text_hash = %(hash)s AND state = 'there'",
            hash=text_hash,
        )
        collection.delete([text_hash])
        return asked(collection, text_hashes)

    monkeypatch.setattr(Collection, "present", present)
    assert look(synced).found[0].sentences() == []


def test_a_vector_is_looked_for_among_its_neighbours(synced: Workbench) -> None:
    collection = synced.vectors.collection(synced.live())
    known = collection.vectors([bytes.fromhex(one) for one in raw(synced).get(include=[])["ids"]])
    absent = -sum(known.values())
    assert unfindable(collection, {**known, b"absent": absent}) == [b"absent"]
    # An equal vector is as good.
    assert unfindable(collection, {b"absent": next(iter(known.values()))}) == []


def test_a_tenant_without_a_generation_has_nothing_to_compare(workbench: Workbench) -> None:
    assert look(workbench, repair=True).found == ()


@pytest.fixture
def own_chroma(workbench: Workbench, tmp_path: Path) -> Iterator[ChromaServer]:
    """A Chroma server of the test's own, whose directory it may spoil; the tenant has more texts than it buffers."""
    server, shared = start_test_chroma(tmp_path / "chroma-home"), workbench.vectors
    workbench.vectors = VectorStore(server.url)
    for number in range(12):
        paragraphs = "\n\n".join(f"# Part {part}\n\n{f'Part {part} of {number}. ' * 20}" for part in range(10))
        workbench.write(f"long-{number}.md", paragraphs)
    workbench.sync()
    yield server
    server.stop()
    workbench.vectors = shared


def test_a_wiped_chroma_directory_is_filled_again(workbench: Workbench, own_chroma: ChromaServer) -> None:
    texts = workbench.live().texts
    assert texts >= 120
    own_chroma.stop()
    shutil.rmtree(own_chroma.folder)
    own_chroma.start()
    workbench.vectors = VectorStore(own_chroma.url)
    found = look(workbench).found[0]
    assert (found.lost, found.missing) == (True, texts)
    repair(workbench)
    assert raw(workbench).count() == texts
    assert workbench.search("Part 3 of 7.").hits


def test_vectors_that_no_search_finds_are_written_again(workbench: Workbench, own_chroma: ChromaServer) -> None:
    own_chroma.stop()
    for folder in own_chroma.folder.iterdir():
        if folder.is_dir():
            shutil.rmtree(folder)
    own_chroma.start()
    workbench.vectors = VectorStore(own_chroma.url)
    found = look(workbench).found[0]
    assert (found.lost, found.missing) == (False, 0)
    assert found.unfindable >= 50
    repair(workbench)
    assert workbench.search("Part 3 of 7.").hits
