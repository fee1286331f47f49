"""A change of chunker or model: the next generation is built beside the live one, verified, swapped in, rolled back."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from minirag_pipelines.core.catalog import Catalog
from minirag_pipelines.core.corpus import Corpus
from minirag_pipelines.core.errors import GenerationUnsound, NotFound, ProviderRefused
from minirag_pipelines.core.records import text_hash
from minirag_pipelines.core.vector_store import Collection
from minirag_pipelines.ingest.generating import Rollback, roll_back
from minirag_pipelines.ingest.reconciling import reconcile
from tests.fakes import WordVectors
from tests.ingest.test_crashes import check_invariants
from tests.workbench import MODEL, Workbench

pytestmark = [pytest.mark.postgres, pytest.mark.chroma]

OTHER = "openai/text-embedding-3-large"


def write_buoys(workbench: Workbench, count: int) -> None:
    for number in range(count):
        workbench.write(f"{number:03}.txt", f"Buoy number {number} is painted red.")


def write_varied(workbench: Workbench, count: int) -> None:
    """Texts unlike each other: among many that are much alike, Chroma's search may miss one that is not."""
    for number in range(count):
        workbench.write(f"{number:03}.txt", " ".join(f"word{number}{letter}" for letter in "abcdef"))


def states(workbench: Workbench) -> list[tuple[int, str]]:
    return [(one.number, one.state) for one in workbench.generations()]


def back(workbench: Workbench, number: int | None = None) -> Rollback:
    with workbench.writer() as writer:
        return roll_back(writer, workbench.vectors, workbench.embedder_of, number)


def uris(workbench: Workbench, question: str) -> list[str]:
    return [hit.uri.rsplit("/", 1)[1] for hit in workbench.search(question).hits]


def another_model_and_then_a_document(workbench: Workbench) -> None:
    """A kept generation, and a document that came when it was live no longer."""
    write_buoys(workbench, 2)
    workbench.sync()
    workbench.change_tenant(model=OTHER)
    workbench.sync()
    workbench.write("new.txt", "A harbour was built.")
    workbench.sync()


def test_a_build_goes_in_slices_while_the_live_generation_answers_and_follows(workbench: Workbench) -> None:
    workbench.retire_after_s = 0
    write_varied(workbench, 230)
    workbench.sync()
    workbench.change_tenant(model=OTHER)
    workbench.build_slice_s = 1e-9
    first = workbench.sync().collection
    assert first.build is not None
    assert (first.live.number, first.build.number, first.build.swapped) == (1, 2, False)
    assert 0 < first.build.built < 230
    assert first.build.built + first.build.left == 230
    workbench.write("000.txt", "A lighthouse stands where the buoy was.")
    (workbench.folder / "001.txt").unlink()
    workbench.write("new.txt", "A harbour was built.")
    meanwhile = workbench.sync().collection
    assert meanwhile.live.number == 1
    assert uris(workbench, "lighthouse")[0] == "000.txt"
    assert uris(workbench, "harbour")[0] == "new.txt"
    slices, swapped = 2, False
    while not swapped:
        build = workbench.sync().collection.build
        assert build is not None
        slices, swapped = slices + 1, build.swapped
    assert slices >= 3
    assert states(workbench) == [(1, "kept"), (2, "live")]
    assert uris(workbench, "lighthouse")[0] == "000.txt"
    assert "001.txt" not in uris(workbench, "word1a word1b")
    workbench.sync()
    check_invariants(workbench)


def test_a_build_reads_and_parses_nothing_and_embeds_each_text_once(workbench: Workbench) -> None:
    write_buoys(workbench, 5)
    workbench.sync()
    embedded = workbench.provider.stats()["texts_embedded"]
    workbench.change_tenant(model=OTHER)
    done = workbench.sync()
    assert (done.documents.parsed, done.documents.reused, done.embeddings.embedded) == (0, 0, 0)
    assert done.collection.build is not None
    assert done.collection.build.embeddings.embedded == 5
    # One more, to learn the new model's dimension.
    assert workbench.provider.stats()["texts_embedded"] == embedded + 6
    rows = workbench.row_versions()
    assert workbench.sync().collection.build is None
    assert workbench.row_versions() == rows
    # Known by now, and so are the texts.
    workbench.change_tenant(chunk_tokens=64)
    assert workbench.sync().collection.live.number == 3
    assert workbench.provider.stats()["texts_embedded"] == embedded + 6


def test_a_model_that_went_away_does_not_keep_the_tenant_from_leaving_it(workbench: Workbench) -> None:
    write_buoys(workbench, 3)
    workbench.sync()
    workbench.provider.refused_models = {MODEL.partition("/")[2]}
    workbench.write("new.txt", "A harbour was built.")
    with pytest.raises(ProviderRefused):
        workbench.sync()
    workbench.change_tenant(model=OTHER)
    with workbench.writer() as writer:
        workbench.list(writer)
        workbench.read(writer)
        workbench.cut(writer)
        done = workbench.finish(writer)
    assert done.build is not None
    assert done.build.swapped
    assert uris(workbench, "harbour")[0] == "new.txt"
    check_invariants(workbench)


def test_a_next_model_that_can_not_be_asked_leaves_the_live_one_answering_and_following(workbench: Workbench) -> None:
    write_buoys(workbench, 3)
    workbench.sync()
    workbench.change_tenant(model=OTHER)
    workbench.provider.refused_models = {OTHER.partition("/")[2]}
    workbench.write("new.txt", "A harbour was built.")
    with pytest.raises(ProviderRefused):
        workbench.sync()
    assert uris(workbench, "harbour")[0] == "new.txt"
    assert states(workbench) == [(1, "live")]
    workbench.provider.refused_models = set()
    assert workbench.sync().collection.live.number == 2
    assert uris(workbench, "harbour")[0] == "new.txt"


def test_a_target_that_changes_during_a_build_replaces_it_and_changed_back_drops_it(workbench: Workbench) -> None:
    workbench.retire_after_s = 0
    workbench.build_slice_s = 1e-9
    write_buoys(workbench, 120)
    workbench.sync()
    workbench.change_tenant(model=OTHER)
    workbench.sync()
    dropped = workbench.generations()[1]
    workbench.change_tenant(chunk_tokens=64)
    workbench.sync()
    assert states(workbench) == [(1, "live"), (3, "building")]
    assert dropped.collection not in {one.collection for one in workbench.generations()}
    workbench.change_tenant(model=MODEL, chunk_tokens=128)
    assert workbench.sync().collection.build is None
    assert states(workbench) == [(1, "live")]


def half_built(workbench: Workbench) -> tuple[Collection, list[bytes]]:
    """The collection of a generation that the next sync will finish, and the texts that are in it."""
    workbench.build_slice_s = 1e-9
    write_buoys(workbench, 120)
    workbench.sync()
    workbench.change_tenant(model=OTHER)
    workbench.sync()
    workbench.build_slice_s = 60
    building = workbench.generations()[1]
    with workbench.database.transaction("acme") as transaction:
        found = transaction.connection.execute("SELECT text_hash FROM indexed WHERE generation = %s", [building.number])
        return workbench.vectors.collection(building), [row.text_hash for row in found]


def test_what_does_not_hold_is_not_swapped_in(workbench: Workbench) -> None:
    collection, written = half_built(workbench)
    # As many as there must be, but others.
    collection.upsert({text_hash(f"foreign {number}"): np.ones(64, np.float32) for number in range(len(written))})
    collection.delete(written)
    with pytest.raises(GenerationUnsound, match="Generation 2 was not made live"):
        workbench.sync()
    assert states(workbench) == [(1, "live"), (2, "building")]
    assert uris(workbench, "Buoy number 7")[0] == "007.txt"


def test_wrong_vectors_are_not_swapped_in(workbench: Workbench) -> None:
    collection, written = half_built(workbench)
    collection.upsert({one: np.ones(64, np.float32) for one in written})
    with pytest.raises(GenerationUnsound, match="not the one that was made"):
        workbench.sync()


def test_a_text_that_the_next_model_refuses_does_not_stop_the_swap(workbench: Workbench) -> None:
    write_buoys(workbench, 3)
    workbench.write("long.md", "# First\n\n" + "The ferry leaves. " * 60 + "\n\n# Last\n\nThis is unspeakable.\n")
    workbench.sync()
    workbench.change_tenant(model=OTHER)
    workbench.provider.refused_word = "unspeakable"
    done = workbench.sync().collection
    assert done.build is not None
    assert (done.build.swapped, done.build.embeddings.refused) == (True, 1)
    assert uris(workbench, "When does the ferry leave?")[0] == "long.md"


def test_a_question_is_answered_at_every_instant_of_a_build_from_one_generation(workbench: Workbench) -> None:
    workbench.retire_after_s = 0
    write_buoys(workbench, 60)
    workbench.sync()
    seen: set[int | None] = set()
    wrong: list[object] = []
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            found = workbench.search("Buoy number 33", top_k=3)
            seen.add(found.generation)
            if not found.hits or not found.hits[0].uri.endswith("033.txt"):
                wrong.append(found)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        for model, tokens in ((OTHER, 64), (MODEL, 128), (OTHER, 32)):
            workbench.change_tenant(model=model, chunk_tokens=tokens)
            workbench.sync()
    finally:
        over.set()
        asking.join()
    assert wrong == []
    assert seen == {1, 2, 3, 4} or len(seen) > 1


def test_a_rollback_is_one_swap_that_the_next_sync_does_not_take_back(workbench: Workbench) -> None:
    workbench.retire_after_s = 0
    write_buoys(workbench, 4)
    workbench.sync()
    workbench.change_tenant(model=OTHER, chunk_tokens=64)
    workbench.sync()
    workbench.write("000.txt", "A lighthouse stands where the buoy was.")
    workbench.write("new.txt", "A harbour was built.")
    (workbench.folder / "001.txt").unlink()
    workbench.sync()
    done = back(workbench)
    assert (done.live.number, done.displaced.number, done.changed, done.added) == (1, 2, 1, 1)
    assert states(workbench) == [(1, "live"), (2, "kept")]
    tenant = workbench.tenant("acme")
    assert (tenant.embedding_model, tenant.chunker.max_tokens) == (MODEL, 128)
    # What changed answers as it last was there; what was removed is gone from it too.
    assert "painted red" in workbench.search("Buoy number 0").hits[0].text
    assert "001.txt" not in uris(workbench, "Buoy number 1")
    # What came since is there at once.
    assert uris(workbench, "harbour")[0] == "new.txt"
    assert {row.uri.rsplit("/", 1)[1] for row in workbench.documents("pending")} == {"000.txt"}
    after = workbench.sync().collection
    assert (after.live.number, after.build) == (1, None)
    assert uris(workbench, "lighthouse")[0] == "000.txt"
    assert uris(workbench, "harbour")[0] == "new.txt"
    check_invariants(workbench)
    assert back(workbench).live.number == 2


def test_a_rollback_brings_in_what_can_not_be_read_now(workbench: Workbench) -> None:
    """It came since, is live, and its content of today is broken: what it last was answers."""
    write_buoys(workbench, 2)
    workbench.write("edited.html", "<p>The pier is closed on Mondays.</p>")
    workbench.sync()
    workbench.change_tenant(chunk_tokens=64)
    workbench.sync()
    workbench.write("edited.html", "<p>The pier is closed on Tuesdays.</p>")
    workbench.write("new.html", "<p>A harbour was built.</p>")
    workbench.sync()
    for name in ("edited.html", "new.html"):
        path = workbench.folder / name
        path.unlink()
        path.symlink_to("/etc/hostname")  # it leaves the folder: it is listed, and never read
    workbench.sync()
    assert {row.uri.rsplit("/", 1)[1] for row in workbench.documents("quarantined")} == {"edited.html", "new.html"}
    done = back(workbench)
    assert (done.live.number, done.changed, done.added) == (1, 0, 2)
    assert "Tuesdays" in workbench.search("pier closed").hits[0].text
    assert uris(workbench, "harbour")[0] == "new.html"


def test_what_a_rollback_left_half_done_leaves_no_trace(workbench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    workbench.retire_after_s = 0
    another_model_and_then_a_document(workbench)
    with monkeypatch.context() as patched:
        patched.setattr("minirag_pipelines.ingest.building.publish_batch", None)
        with pytest.raises(TypeError):
            back(workbench)
    workbench.write("new.txt", "A lighthouse was built.")
    workbench.sync()
    assert back(workbench).added == 1
    assert uris(workbench, "lighthouse")[0] == "new.txt"
    workbench.sync()
    check_invariants(workbench)


def test_texts_of_a_version_that_was_held_back_leave_a_kept_generation_too(workbench: Workbench) -> None:
    workbench.retire_after_s = 0
    write_buoys(workbench, 2)
    workbench.sync()
    workbench.provider.refused_word = "lighthouse"
    parts = [f"# Part {part}\n\n{word} " * 20 for part, word in enumerate(["Ferry", "lighthouse", "lighthouse"])]
    workbench.write("held.md", "\n\n".join(parts))
    workbench.sync()
    workbench.change_tenant(model=OTHER, chunk_tokens=64)
    workbench.sync()
    workbench.write("held.md", "A harbour was built.")
    workbench.sync()
    back(workbench)
    workbench.sync()
    check_invariants(workbench)


@pytest.mark.parametrize("how", ["force", "retry"])
def test_a_text_that_is_offered_again_comes_into_the_kept_generation_too(workbench: Workbench, how: str) -> None:
    workbench.retire_after_s = 0
    workbench.provider.refused_word = "lighthouse"
    # A text of the one chunker, a text of the other, and one that both cut.
    workbench.write("long.md", f"# Ferry\n\n{'The ferry leaves. ' * 80}\n\n# End\n\n{'This is a lighthouse. ' * 40}")
    workbench.write("short.md", f"# Ferry\n\n{'The pier is closed. ' * 80}\n\n# End\n\nA lighthouse.")
    workbench.sync()
    workbench.change_tenant(chunk_tokens=120)
    workbench.sync()
    workbench.provider.refused_word = None
    if how == "retry":
        with workbench.database.transaction("acme") as transaction:
            Corpus(transaction).retry()
    workbench.sync(force=how == "force")
    for generation in (1, 2):
        found = reconcile(workbench.database, workbench.vectors, "acme").found
        assert [sentence for one in found for sentence in one.sentences()] == []
        if generation == 1:
            back(workbench)
            workbench.sync()


def test_what_was_held_back_is_offered_again_when_it_is_cut_otherwise(workbench: Workbench) -> None:
    workbench.provider.refused_word = "lighthouse"
    lines = [f"The buoy number {number} is painted in a very bright red." for number in range(6)]
    workbench.write("held.md", "\n\n".join([*lines, "A lighthouse."]))
    workbench.sync()
    assert [row.state for row in workbench.documents()] == ["quarantined"]
    workbench.change_tenant(chunk_tokens=16)
    workbench.sync()
    assert [row.state for row in workbench.documents()] == ["live"]


def test_a_model_whose_dimension_changed_is_asked_for_it_when_the_tenant_comes_back(workbench: Workbench) -> None:
    write_buoys(workbench, 2)
    workbench.sync()
    workbench.change_tenant(model=OTHER)
    workbench.sync()
    workbench.provider._words = WordVectors(32)
    workbench.change_tenant(model=MODEL)
    workbench.sync()
    assert (workbench.live().embedding_model, workbench.live().dimension) == (MODEL, 32)


def test_a_rollback_whose_model_is_away_changes_nothing(workbench: Workbench) -> None:
    another_model_and_then_a_document(workbench)
    workbench.provider.refused_models = {MODEL.split("/")[1]}
    with pytest.raises(ProviderRefused):
        back(workbench)
    assert states(workbench) == [(1, "kept"), (2, "live")]
    assert uris(workbench, "harbour")[0] == "new.txt"
    workbench.provider.refused_models = set()
    assert back(workbench).added == 1


def test_a_build_does_not_take_a_document_that_its_model_refuses_for_the_most_part(workbench: Workbench) -> None:
    write_buoys(workbench, 2)
    workbench.sync()
    workbench.provider.refused_word = "lighthouse"
    workbench.write("000.txt", "A lighthouse stands where the buoy was.")
    workbench.write("new.txt", "Another lighthouse.")
    workbench.sync()
    workbench.change_tenant(model=OTHER)
    done = workbench.sync().collection
    assert done.build is not None
    assert (done.build.swapped, done.live.number, done.live.documents) == (True, 2, 2)
    assert "painted red" in workbench.search("Buoy number 0").hits[0].text
    assert {row.uri.rsplit("/", 1)[1] for row in workbench.documents("quarantined")} == {"000.txt", "new.txt"}


def test_texts_of_a_removed_document_leave_a_build_that_has_them_already(
    workbench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("minirag_pipelines.ingest.embedding.EMBED_BATCH", 4)
    workbench.retire_after_s = 0
    workbench.write("long.md", "\n\n".join(f"# Part {part}\n\nPart {part} lies in the bay." for part in range(600)))
    write_buoys(workbench, 2)
    workbench.sync()
    workbench.change_tenant(model=OTHER)
    workbench.build_slice_s = 1e-9
    workbench.sync()
    building = workbench.generations()[-1]
    assert (building.state, building.texts > 2) == ("building", True)
    # Edited, so that what was sent there is not what the document holds when it goes.
    workbench.write("long.md", "It is short now.")
    with workbench.writer() as writer:
        workbench.list(writer)
        workbench.read(writer)
    (workbench.folder / "long.md").unlink()
    workbench.build_slice_s = 60
    assert workbench.sync().collection.live.texts == 2
    check_invariants(workbench)


def test_a_rollback_gives_up_a_build_and_needs_a_kept_generation(workbench: Workbench) -> None:
    write_buoys(workbench, 120)
    workbench.sync()
    with pytest.raises(NotFound, match="no kept generation"):
        back(workbench)
    workbench.change_tenant(chunk_tokens=64)
    workbench.sync()
    workbench.change_tenant(model=OTHER)
    workbench.build_slice_s = 1e-9
    workbench.sync()
    assert states(workbench) == [(1, "kept"), (2, "live"), (3, "building")]
    with pytest.raises(NotFound, match="'3'"):
        back(workbench, 3)
    assert back(workbench, 1).live.number == 1
    assert states(workbench) == [(1, "live"), (2, "kept"), (3, "retired")]


def test_a_rollback_fills_a_collection_again_that_chroma_has_lost(workbench: Workbench) -> None:
    write_buoys(workbench, 4)
    workbench.sync()
    kept = workbench.live()
    workbench.change_tenant(chunk_tokens=64)
    workbench.sync()
    workbench.vectors.drop(kept)
    back(workbench)
    assert uris(workbench, "Buoy number 2")[0] == "002.txt"


@pytest.mark.parametrize(("keep", "left"), [(0, [4]), (1, [3, 4]), (2, [2, 3, 4])])
def test_so_many_generations_are_kept_as_the_settings_say(workbench: Workbench, keep: int, left: list[int]) -> None:
    workbench.retire_after_s = 0
    workbench.kept_generations = keep
    write_buoys(workbench, 2)
    workbench.sync()
    collections = [workbench.live()]
    for tokens in (64, 32, 16):
        workbench.change_tenant(chunk_tokens=tokens)
        workbench.sync()
        collections.append(workbench.live())
    workbench.sync()
    assert [number for number, _ in states(workbench)] == left
    with workbench.database.transaction("acme") as transaction:
        assert Catalog(transaction).overview().generation == 4
    for generation in collections:
        workbench.vectors.forget_opened(generation)
        if generation.number in left:
            assert workbench.vectors.count(generation) == 2
        else:
            with pytest.raises(Exception, match="is not in Chroma"):
                workbench.vectors.count(generation)
