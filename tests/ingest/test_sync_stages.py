"""The five stages together, on real servers: what a sync does, and what it leaves alone."""

from __future__ import annotations

import os
from collections.abc import Sequence

import pytest

from minirag_pipelines.core.corpus import Corpus
from minirag_pipelines.core.providers.models import Vectors
from minirag_pipelines.core.vector_store import Collection, Near
from tests.workbench import Workbench

pytestmark = [pytest.mark.postgres, pytest.mark.chroma]

FERRY = "# Ferries\n\nThe night ferry to Norhaven leaves at 22:40 from pier four.\n"
TICKETS = "# Tickets\n\nA return ticket costs 31 crowns and is valid for ten days.\n"


def uris(workbench: Workbench, question: str) -> list[str]:
    return [hit.uri.rsplit("/", 1)[1] for hit in workbench.search(question).hits]


def test_documents_become_hits_with_their_place(workbench: Workbench) -> None:
    workbench.parser_processes = True
    workbench.write("ferry.md", FERRY)
    workbench.write("tickets.md", TICKETS)
    done = workbench.sync()
    assert (done.sources.new, done.documents.parsed, done.collection.live.documents) == (2, 2, 2)
    found = workbench.search("When does the night ferry leave from pier four?")
    assert found.generation == 1
    assert found.hits[0].uri.endswith("ferry.md")
    assert "22:40" in found.hits[0].text
    assert found.hits[0].rank == 1


def test_a_second_sync_does_nothing_at_all(workbench: Workbench) -> None:
    workbench.write("ferry.md", FERRY)
    workbench.write("tickets.md", TICKETS)
    workbench.sync()
    workbench.sync()
    rows, calls = workbench.row_versions(), workbench.provider.stats()
    done = workbench.sync()
    assert done.sources.unchanged == 2
    assert workbench.row_versions() == rows
    assert workbench.provider.stats() == calls


def test_touching_a_file_counts_as_unchanged(workbench: Workbench) -> None:
    path = workbench.write("ferry.md", FERRY)
    workbench.sync()
    os.utime(path, (1, 1))
    done = workbench.sync()
    assert (done.sources.changed, done.sources.unchanged, done.documents.parsed) == (0, 1, 0)


def test_an_edit_embeds_only_the_new_text(workbench: Workbench) -> None:
    sections = [f"# Section {number}\n\nParagraph {number} speaks of thing {number}.\n" for number in range(6)]
    workbench.write("long.md", "\n".join(sections))
    workbench.sync()
    before = workbench.provider.stats()["texts_embedded"]
    sections[3] = "# Section 3\n\nThis one is about lighthouses now.\n"
    workbench.write("long.md", "\n".join(sections))
    done = workbench.sync()
    assert done.sources.changed == 1
    assert workbench.provider.stats()["texts_embedded"] - before == done.embeddings.embedded == 1
    assert (done.chunks.added, done.chunks.dropped) == (1, 1)
    assert "lighthouses" in workbench.search("lighthouses").hits[0].text


def test_a_rename_costs_nothing_and_keeps_the_document(workbench: Workbench) -> None:
    path = workbench.write("ferry.md", FERRY)
    workbench.sync()
    before, calls = workbench.documents()[0], workbench.provider.stats()
    vectors = workbench.live()
    path.rename(workbench.folder / "boats.md")
    done = workbench.sync()
    after = workbench.documents()[0]
    assert (done.sources.renamed, done.sources.new, done.sources.removed, done.documents.parsed) == (1, 0, 0, 0)
    assert after.document_id == before.document_id
    assert after.uri.endswith("boats.md")
    assert workbench.provider.stats() == calls
    assert workbench.live() == vectors
    assert uris(workbench, "night ferry pier four") == ["boats.md"]


def test_a_copy_parses_and_embeds_nothing(workbench: Workbench) -> None:
    workbench.write("ferry.md", FERRY)
    workbench.sync()
    calls = workbench.provider.stats()["requests"]
    workbench.write("copy.md", FERRY)
    done = workbench.sync()
    assert (done.sources.new, done.documents.parsed, done.documents.reused) == (1, 0, 1)
    assert workbench.provider.stats()["requests"] == calls
    hit = workbench.search("night ferry pier four").hits[0]
    assert hit.uri.endswith("ferry.md")
    assert [uri.rsplit("/", 1)[1] for uri in hit.also_in] == ["copy.md"]


def test_swapped_contents_are_two_changes_and_no_work(workbench: Workbench) -> None:
    workbench.write("a.md", FERRY)
    workbench.write("b.md", TICKETS)
    workbench.sync()
    calls = workbench.provider.stats()["requests"]
    workbench.write("a.md", TICKETS)
    workbench.write("b.md", FERRY)
    done = workbench.sync()
    assert (done.sources.changed, done.documents.parsed) == (2, 0)
    assert workbench.provider.stats()["requests"] == calls
    assert uris(workbench, "night ferry pier four")[0] == "b.md"


def test_a_removed_document_is_gone_from_answers_and_then_from_chroma(workbench: Workbench) -> None:
    workbench.write("ferry.md", FERRY)
    path = workbench.write("tickets.md", TICKETS)
    workbench.sync()
    path.unlink()
    done = workbench.sync()
    assert (done.sources.removed, done.sources.chunks_removed) == (1, 1)
    assert uris(workbench, "return ticket crowns") == ["ferry.md"]
    collection = workbench.vectors.collection(workbench.live())
    assert collection.count() == 2
    workbench.retire_after_s = 0
    assert workbench.sync().collection.retired == 1
    assert collection.count() == 1


def test_a_removed_document_that_comes_back_is_the_same_one_and_costs_nothing(workbench: Workbench) -> None:
    workbench.write("ferry.md", FERRY)
    path = workbench.write("tickets.md", TICKETS)
    workbench.sync()
    known = {row.uri: row.document_id for row in workbench.documents()}
    calls = workbench.provider.stats()["requests"]
    path.unlink()
    workbench.sync()
    workbench.write("tickets.md", TICKETS)
    done = workbench.sync()
    assert (done.sources.new, done.documents.parsed) == (1, 0)
    assert {row.uri: row.document_id for row in workbench.documents("live")} == known
    assert workbench.provider.stats()["requests"] == calls
    assert "tickets.md" in uris(workbench, "return ticket crowns")


def test_a_folder_that_lists_nothing_loses_nothing_unless_allowed(workbench: Workbench) -> None:
    path = workbench.write("ferry.md", FERRY)
    workbench.sync()
    path.unlink()
    done = workbench.sync()
    assert done.sources.removed == 0
    assert "nothing was removed" in done.sources.problems[0]
    assert uris(workbench, "night ferry") == ["ferry.md"]
    assert workbench.sync(allow_empty=True).sources.removed == 1
    assert uris(workbench, "night ferry") == []


def test_one_bad_document_costs_only_itself(workbench: Workbench) -> None:
    workbench.write("ferry.md", FERRY)
    workbench.write("broken.docx", b"this is no archive")
    workbench.write("empty.txt", b"")
    workbench.write("blank.txt", b" \n\t \n")
    done = workbench.sync()
    assert sum(done.documents.quarantined.values()) == 1
    quarantined = workbench.documents("quarantined")
    assert [row.uri.rsplit("/", 1)[1] for row in quarantined] == ["broken.docx"]
    assert quarantined[0].reason
    states = {row.uri.rsplit("/", 1)[1]: (row.state, row.chunks) for row in workbench.documents("live")}
    assert states == {"ferry.md": ("live", 1), "empty.txt": ("live", 0), "blank.txt": ("live", 0)}


def test_a_permanent_failure_is_not_tried_again_until_the_content_changes(workbench: Workbench) -> None:
    workbench.write("broken.docx", b"this is no archive")
    workbench.sync()
    attempts = workbench.documents("quarantined")[0].attempts
    assert workbench.sync().documents.quarantined.total() == 1
    assert workbench.documents("quarantined")[0].attempts == attempts == 1
    workbench.write("broken.docx", b"this is no archive either")
    workbench.sync()
    assert workbench.documents("quarantined")[0].attempts == 1


def test_a_failed_update_leaves_the_old_version_answering(workbench: Workbench) -> None:
    workbench.write("notes.html", "<html><body><p>The night ferry leaves at 22:40.</p></body></html>")
    workbench.sync()
    workbench.write("notes.html", b"%PDF-1.4 no pdf and no html \x00\x01\x02")
    (workbench.folder / "notes.html").chmod(0o644)
    workbench.sync()
    if workbench.documents()[0].state == "quarantined":
        assert "22:40" in workbench.search("night ferry").hits[0].text


def test_another_chunker_is_built_beside_and_swapped_in_without_a_gap(workbench: Workbench) -> None:
    from minirag_pipelines.core.catalog import Catalog
    from minirag_pipelines.core.records import ChunkerSettings

    workbench.write("ferry.md", FERRY)
    workbench.write("tickets.md", TICKETS)
    workbench.sync()
    with workbench.database.transaction("acme") as transaction:
        Catalog(transaction).change_tenant(chunker=ChunkerSettings(64))
    done = workbench.sync()
    assert done.collection.build.swapped
    assert [generation.state for generation in workbench.generations()] == ["kept", "live"]
    # The texts are the same, so the model is not asked again.
    assert done.embeddings.embedded == 0
    assert workbench.search("night ferry").generation == 2
    assert uris(workbench, "night ferry pier four")[0] == "ferry.md"


def test_a_collection_that_chroma_has_lost_is_filled_again_without_the_model(workbench: Workbench) -> None:
    workbench.write("ferry.md", FERRY)
    workbench.write("tickets.md", TICKETS)
    workbench.sync()
    calls = workbench.provider.stats()
    workbench.vectors.drop(workbench.live())
    assert workbench.sync().collection.published.restored == 2
    assert uris(workbench, "night ferry pier four")[0] == "ferry.md"
    assert workbench.provider.stats()["texts_embedded"] == calls["texts_embedded"] + 1  # the question


def test_vectors_that_chroma_has_lost_are_written_again(workbench: Workbench) -> None:
    for number in range(5):
        workbench.write(f"{number}.txt", f"Buoy number {number} is painted red.")
    workbench.sync()
    collection = workbench.vectors.collection(workbench.live())
    collection.delete([near.text_hash for near in collection.nearest(workbench.provider.embed("buoy"), 2)])
    workbench.sync()
    assert collection.count() == 5


def test_a_sync_killed_while_it_retires_texts_is_gone_on_with(workbench: Workbench) -> None:
    """Chroma has deleted them, and PostgreSQL was not told."""
    path = workbench.write("ferry.md", FERRY)
    workbench.write("tickets.md", TICKETS)
    workbench.sync()
    path.unlink()
    workbench.sync()
    with workbench.database.transaction("acme") as transaction:
        leaving = transaction.connection.execute("SELECT text_hash FROM indexed WHERE state = 'leaving'").fetchall()
    workbench.vectors.collection(workbench.live()).delete([row.text_hash for row in leaving])
    workbench.retire_after_s = 0
    done = workbench.sync()
    assert (done.collection.retired, done.collection.published.restored) == (1, 0)
    assert workbench.live().texts == 1


def test_a_text_that_is_wanted_again_while_it_leaves_is_sent_again(workbench: Workbench) -> None:
    path = workbench.write("ferry.md", FERRY)
    workbench.write("tickets.md", TICKETS)
    workbench.sync()
    path.unlink()
    workbench.sync()
    workbench.write("boats.md", FERRY)
    workbench.sync()
    workbench.retire_after_s = 0
    workbench.sync()
    assert uris(workbench, "night ferry pier four")[0] == "boats.md"
    assert workbench.live().texts == workbench.vectors.count(workbench.live()) == 2


def test_a_text_the_model_refuses_does_not_hold_up_its_document(workbench: Workbench) -> None:
    workbench.provider.refused_word = "unspeakable"
    sections = [
        f"# Section {number}\n\n" + f"Paragraph {number} speaks of thing {number}. " * 12 for number in range(4)
    ]
    workbench.write("long.md", "\n\n".join([*sections, "# Last\n\nThis is unspeakable.\n"]))
    done = workbench.sync()
    assert done.embeddings.refused >= 1
    assert done.collection.live.documents == 1
    assert workbench.search("thing 2").hits
    assert workbench.sync().embeddings.embedded == 0


def test_a_document_that_the_model_refuses_for_the_most_part_stays_as_it_was(workbench: Workbench) -> None:
    workbench.retire_after_s = 0
    workbench.write("ferry.md", FERRY)
    workbench.write("tickets.md", TICKETS)
    workbench.sync()
    workbench.provider.refused_word = "unspeakable"
    workbench.write("ferry.md", FERRY + "\nIt is unspeakable.\n")
    workbench.write("new.md", "This is unspeakable.\n")
    done = workbench.sync()
    assert done.embeddings.refused == 2
    assert done.collection.quarantined == {"refused": 2}
    reasons = {row.uri.rsplit("/", 1)[1]: row.reason for row in workbench.documents("quarantined")}
    assert reasons == dict.fromkeys(["ferry.md", "new.md"], "The embedding model refuses 1 of its 1 passages.")
    assert "unspeakable" not in workbench.search("night ferry pier four").hits[0].text
    workbench.sync()
    rows, calls = workbench.row_versions(), workbench.provider.stats()
    again = workbench.sync()
    assert (again.chunks.added, again.collection.quarantined) == (0, {"refused": 2})
    assert workbench.row_versions() == rows
    assert workbench.provider.stats() == calls
    workbench.provider.refused_word = None
    with workbench.database.transaction("acme") as transaction:
        assert Corpus(transaction).retry() == 2
    workbench.sync()
    assert workbench.documents("quarantined") == []
    assert "unspeakable" in workbench.search("night ferry pier four").hits[0].text


def test_what_may_pass_is_tried_again_later_and_at_once_when_asked(workbench: Workbench) -> None:
    path = workbench.write("ferry.md", FERRY)
    link = workbench.folder / "link.md"
    link.symlink_to(path)
    workbench.sync()
    path.rename(workbench.folder.parent / "away.md")
    workbench.sync()
    [first] = workbench.documents("quarantined")
    assert (first.permanent, first.attempts) == (False, 1)
    assert 48 <= (first.next_attempt_at - first.last_failed_at).total_seconds() <= 72
    workbench.sync()
    assert workbench.documents("quarantined")[0].attempts == 1
    with workbench.database.transaction("acme") as transaction:
        assert Corpus(transaction).retry(first.document_id) == 1
    workbench.sync()
    [second] = workbench.documents("quarantined")
    assert (second.attempts, second.first_failed_at) == (2, first.first_failed_at)
    assert 96 <= (second.next_attempt_at - second.last_failed_at).total_seconds() <= 144
    (workbench.folder.parent / "away.md").rename(path)
    with workbench.database.transaction("acme") as transaction:
        Corpus(transaction).retry()
    workbench.sync()
    assert workbench.documents("quarantined") == []


def test_a_vector_that_no_search_finds_is_written_again(workbench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    searches: list[int] = []
    asked = Collection.nearest_of_each

    def missing_once(self: Collection, vectors: Sequence[Vectors], limit: int = 1) -> list[list[Near]]:
        searches.append(len(vectors))
        found = asked(self, vectors, limit)
        return [[], *found[1:]] if len(searches) == 1 else found

    monkeypatch.setattr(Collection, "nearest_of_each", missing_once)
    written: list[int] = []
    write = Collection._write
    monkeypatch.setattr(
        Collection, "_write", lambda self, *given: (written.append(len(given[2])), write(self, *given))[1]
    )
    for number in range(3):
        workbench.write(f"{number}.txt", f"Buoy number {number} is painted red.")
    workbench.sync()
    assert (searches, written) == ([3, 3], [3, 1])
    assert workbench.vectors.collection(workbench.live()).count() == 3
