"""A sync that dies between Chroma and PostgreSQL: the next one ends where a faultless one would have ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from minirag_pipelines.core.catalog import Catalog
from minirag_pipelines.core.records import ChunkerSettings, Generation
from minirag_pipelines.core.vector_store import Collection, VectorStore
from tests.workbench import Workbench

pytestmark = [pytest.mark.postgres, pytest.mark.chroma]


class Died(BaseException):
    """Nothing catches it, as nothing catches a kill."""


class DyingCollection(Collection):
    def __init__(self, collection: Collection, moment: str) -> None:
        self._collection = collection
        self._moment = moment

    def upsert(self, vectors: Mapping[bytes, Any], *args: Any, **options: Any) -> None:
        if self._moment == "before upsert":
            raise Died
        self._collection.upsert(vectors, *args, **options)
        if self._moment == "after upsert":
            raise Died

    def delete(self, text_hashes: Sequence[bytes], **options: Any) -> None:
        if self._moment == "before delete":
            raise Died
        self._collection.delete(text_hashes, **options)
        if self._moment == "after delete":
            raise Died


class DyingStore(VectorStore):
    def __init__(self, store: VectorStore, moment: str) -> None:
        self._store = store
        self._moment = moment

    def create(self, generation: Generation) -> Collection:
        return DyingCollection(self._store.create(generation), self._moment)

    def collection(self, generation: Generation) -> Collection:
        return DyingCollection(self._store.collection(generation), self._moment)

    def count(self, generation: Generation) -> int:
        return self._store.count(generation)

    def drop(self, generation: Generation) -> None:
        self._store.drop(generation)


def check_invariants(workbench: Workbench) -> None:
    """What must hold after any whole sync that has retired all it could."""
    live = workbench.live()
    with workbench.database.transaction("acme") as transaction:
        run = transaction.connection.execute
        states = {
            row.state: row.texts
            for row in run(
                "SELECT indexed.state, count(*) AS texts FROM indexed JOIN generation g ON g.number = generation"
                " WHERE g.state = 'live' GROUP BY indexed.state"
            )
        }
        wanted = run(
            "SELECT count(DISTINCT c.text_hash) AS texts, count(*) AS chunks FROM published p"
            " JOIN chunk c USING (tenant_id, version_id) JOIN generation g ON g.number = p.generation"
            " WHERE c.chunker = g.chunker AND g.state = 'live'"
        ).fetchone()
        published = run(
            "SELECT count(*) AS documents FROM published JOIN generation g ON g.number = generation WHERE state = 'live'"
        ).fetchone()
        pending = run("SELECT count(*) AS documents FROM document WHERE pending IS NOT NULL").fetchone()
    assert wanted is not None
    assert published is not None
    assert pending is not None
    assert states == {"there": wanted.texts}
    assert live.texts == wanted.texts == workbench.vectors.count(live)
    assert (live.documents, live.chunks) == (published.documents, wanted.chunks)
    assert pending.documents == 0


@pytest.mark.parametrize("moment", ["before upsert", "after upsert", "before delete", "after delete"])
def test_a_sync_that_died_beside_chroma_is_made_good(workbench: Workbench, moment: str) -> None:
    workbench.retire_after_s = 0
    for number in range(4):
        workbench.write(f"{number}.txt", f"Buoy number {number} is painted red.")
    workbench.sync()
    alive = workbench.vectors
    workbench.vectors = DyingStore(alive, moment)
    workbench.write("0.txt", "Buoy number 0 is painted green.")
    (workbench.folder / "1.txt").unlink()
    with pytest.raises(Died):
        workbench.sync()
    workbench.vectors = alive
    # The world goes on before the next sync: what was under way is no longer wanted.
    workbench.write("0.txt", "Buoy number 0 is gone, and a light stands there.")
    (workbench.folder / "2.txt").unlink()
    workbench.sync()
    workbench.sync()
    check_invariants(workbench)
    assert "light stands" in workbench.search("light stands").hits[0].text


def test_a_first_sync_that_died_is_gone_on_with_and_pays_nothing_twice(workbench: Workbench) -> None:
    workbench.retire_after_s = 0
    for number in range(4):
        workbench.write(f"{number}.txt", f"Buoy number {number} is painted red.")
    alive = workbench.vectors
    workbench.vectors = DyingStore(alive, "before upsert")
    with pytest.raises(Died):
        workbench.sync()
    workbench.vectors = alive
    embedded = workbench.provider.stats()["texts_embedded"]
    done = workbench.sync()
    assert (done.embeddings.embedded, done.embeddings.reused) == (0, 4)
    assert workbench.provider.stats()["texts_embedded"] == embedded
    check_invariants(workbench)


def test_an_edit_and_a_new_chunker_in_one_sync_leave_nothing_behind(workbench: Workbench) -> None:
    workbench.retire_after_s = 0
    for number in range(3):
        workbench.write(f"{number}.txt", f"Buoy number {number} is painted red.")
    workbench.sync()
    workbench.write("0.txt", "Buoy number 0 is painted green.")
    with workbench.database.transaction("acme") as transaction:
        Catalog(transaction).change_tenant(chunker=ChunkerSettings(64))
    assert workbench.sync().collection.build.swapped
    with workbench.database.transaction("acme") as transaction:
        row = transaction.connection.execute(
            "SELECT count(*) AS texts FROM indexed JOIN generation ON number = generation WHERE generation.state = 'live'"
        ).fetchone()
    assert row is not None
    assert row.texts == workbench.vectors.count(workbench.live()) == 3


def test_a_text_that_was_refused_is_tried_again_when_forced(workbench: Workbench) -> None:
    workbench.provider.refused_word = "unspeakable"
    workbench.write("long.md", "# First\n\n" + "The ferry leaves. " * 60 + "\n\n# Last\n\nThis is unspeakable.\n")
    assert workbench.sync().embeddings.refused == 1
    assert workbench.sync().embeddings.refused == 1
    workbench.provider.refused_word = None
    with workbench.writer() as writer:
        from minirag_pipelines.ingest.reading import retry_failures

        retry_failures(writer)
    done = workbench.sync(force=True)
    assert (done.embeddings.embedded, done.embeddings.refused) == (1, 0)
    check_invariants(workbench)


def test_a_document_refused_removed_and_put_back_is_read_anew(workbench: Workbench) -> None:
    workbench.write("other.txt", "The ferry leaves at noon.")
    link = workbench.folder / "link.txt"
    link.symlink_to("/etc/hostname")
    workbench.sync()
    assert len(workbench.documents("quarantined")) == 1
    link.unlink()
    workbench.sync()
    workbench.write("link.txt", "Words of its own.")
    workbench.sync()
    assert workbench.documents("quarantined") == []
