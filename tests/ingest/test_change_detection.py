"""What a listing decides: new, changed, renamed, removed or unchanged, by content and never by time alone."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from minirag_pipelines.core.errors import SourceUnreadable, TooManyFailures
from minirag_pipelines.core.records import Item, Problem
from minirag_pipelines.ingest.connectors.files import LocalFiles
from minirag_pipelines.ingest.publishing import remove_source
from tests.ingest.test_crashes import check_invariants
from tests.workbench import SyncTally, Workbench

pytestmark = [pytest.mark.postgres, pytest.mark.chroma]


def text(number: int) -> str:
    return f"# Buoy {number}\n\nBuoy number {number} is painted red and lies before pier {number}.\n"


def listed(done: SyncTally) -> dict[str, int]:
    """What is not 0."""
    counts = {name: getattr(done.sources, name) for name in ("new", "changed", "renamed", "removed", "unchanged")}
    return {name: count for name, count in counts.items() if count}


def documents(workbench: Workbench, state: str = "live") -> dict[str, object]:
    return {row.uri.rsplit("/", 1)[1]: row.document_id for row in workbench.documents(state)}


def embedded(workbench: Workbench) -> int:
    return workbench.provider.stats()["texts_embedded"]


@pytest.fixture
def three(workbench: Workbench) -> Workbench:
    for number in range(3):
        workbench.write(f"{number}.md", text(number))
    workbench.sync()
    return workbench


def test_touching_every_file_changes_nothing_and_the_next_sync_reads_nothing(three: Workbench) -> None:
    for path in three.folder.iterdir():
        os.utime(path, (1, 1))
    assert listed(three.sync()) == {"unchanged": 3}
    three.sync()  # what had just been touched when it was listed is looked at once more
    rows = three.row_versions()
    assert listed(three.sync()) == {"unchanged": 3}
    assert three.row_versions() == rows


def test_an_edit_that_keeps_size_and_time_is_seen(three: Workbench) -> None:
    path = three.folder / "1.md"
    before = path.stat()
    path.write_text(text(1).replace("red", "RED"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert listed(three.sync()) == {"changed": 1, "unchanged": 2}


def test_six_hundred_files_moved_at_once_are_renames_that_cost_nothing(workbench: Workbench) -> None:
    for number in range(600):
        workbench.write(f"old/{number}.md", f"Buoy {number}.")
    workbench.sync()
    known, calls, live = documents(workbench), workbench.provider.stats(), workbench.live()
    (workbench.folder / "old").rename(workbench.folder / "new")
    done = workbench.sync()
    assert listed(done) == {"renamed": 600}
    assert (done.documents.parsed, done.documents.reused) == (0, 0)
    assert documents(workbench) == known
    assert all("/new/" in row.uri for row in workbench.documents("live"))
    assert workbench.provider.stats() == calls
    assert workbench.live() == live


def test_a_move_from_one_source_to_another_is_a_rename(three: Workbench, tmp_path: Path) -> None:
    other = tmp_path / "archive"
    other.mkdir()
    (other / "x.md").write_text(text(99))
    three.add_source("archive", other)
    three.sync()
    known, calls = documents(three), three.provider.stats()
    (three.folder / "1.md").rename(other / "kept.md")
    assert listed(three.sync()) == {"renamed": 1, "unchanged": 3}
    assert documents(three)["kept.md"] == known["1.md"]
    assert "1.md" not in documents(three)
    assert three.provider.stats() == calls
    hit = three.search("pier 1").hits[0]
    assert (hit.uri.rsplit("/", 1)[1], hit.source) == ("kept.md", "archive")


def test_a_rename_is_also_one_when_another_file_takes_the_old_name(three: Workbench) -> None:
    calls = embedded(three)
    (three.folder / "1.md").rename(three.folder / "one.md")
    three.write("1.md", text(7))
    done = three.sync()
    # The old name is still listed, so it keeps its document: one changed, one new.
    assert listed(done) == {"new": 1, "changed": 1, "unchanged": 2}
    assert embedded(three) - calls == done.embeddings.embedded == 1


def test_a_takes_new_content_and_b_its_old(three: Workbench) -> None:
    calls = embedded(three)
    three.write("new.md", text(1))
    three.write("1.md", text(8))
    assert listed(three.sync()) == {"new": 1, "changed": 1, "unchanged": 2}
    assert embedded(three) - calls == 1


def test_two_documents_with_the_same_bytes_are_two_and_one_outlives_the_other(three: Workbench) -> None:
    three.write("copy.md", text(1))
    three.sync()
    hit = three.search("pier 1").hits[0]
    assert {hit.uri.rsplit("/", 1)[1], *(uri.rsplit("/", 1)[1] for uri in hit.also_in)} == {"1.md", "copy.md"}
    (three.folder / "1.md").unlink()
    assert listed(three.sync()) == {"removed": 1, "unchanged": 3}
    hit = three.search("pier 1").hits[0]
    assert (hit.uri.rsplit("/", 1)[1], hit.also_in) == ("copy.md", ())
    check_invariants_later(three)


def test_a_document_that_two_sources_list_stays_while_one_of_them_does(three: Workbench) -> None:
    three.add_source("again", three.folder)
    assert listed(three.sync()) == {"unchanged": 3}
    with three.writer() as writer, writer.writing() as transaction:
        assert remove_source(transaction, "docs") == 0
    assert listed(three.sync()) == {"unchanged": 3}
    assert three.search("pier 1").hits[0].source == "again"


def test_a_file_that_was_deleted_and_put_back_is_found_again(three: Workbench) -> None:
    known, calls = documents(three), embedded(three)
    (three.folder / "1.md").unlink()
    three.sync()
    assert "1.md" not in documents(three)
    three.write("1.md", text(1))
    done = three.sync()
    assert (done.documents.parsed, done.embeddings.embedded) == (0, 0)
    assert documents(three) == known
    assert embedded(three) == calls
    assert three.search("pier 1").hits[0].uri.endswith("1.md")


def test_another_heading_changes_the_texts_under_it_and_no_others(workbench: Workbench) -> None:
    long = "".join(f"Paragraph {number} of this section speaks of ropes. " for number in range(60))
    workbench.write("a.md", f"# Ropes\n\n{long}\n\n# Knots\n\nA bowline holds.\n")
    workbench.sync()
    before = {row.text_hash for row in texts(workbench)}
    workbench.write("a.md", f"# Lines\n\n{long}\n\n# Knots\n\nA bowline holds.\n")
    done = workbench.sync()
    after = {row.text_hash for row in texts(workbench)}
    assert done.embeddings.embedded == len(after - before) > 1
    assert before & after


def texts(workbench: Workbench) -> list[object]:
    with workbench.database.transaction("acme") as transaction:
        return transaction.connection.execute(
            "SELECT DISTINCT c.text_hash FROM chunk c JOIN published USING (tenant_id, version_id)"
        ).fetchall()


def test_a_source_that_is_gone_loses_nothing_and_heals_by_itself(three: Workbench) -> None:
    away = three.folder.with_name("away")
    three.folder.rename(away)
    with pytest.raises(SourceUnreadable, match="No such file"):
        three.sync()
    assert len(documents(three)) == 3
    assert three.search("pier 1").hits[0].uri.endswith("1.md")
    away.rename(three.folder)
    (three.folder / "2.md").unlink()
    assert listed(three.sync()) == {"removed": 1, "unchanged": 2}
    three.folder.rename(away)
    assert listed(three.sync(allow_empty=True)) == {"removed": 2}
    away.rename(three.folder)


def test_a_document_is_read_through_a_source_that_lists_it_while_its_own_is_away(
    three: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    three.write("below/4.md", text(4))
    three.sync()
    three.add_source("below", three.folder / "below")
    three.sync()
    items = LocalFiles.items

    def listed_in_part(self: LocalFiles) -> Iterator[Item | Problem]:
        if self._root == str(three.folder):
            raise SourceUnreadable(self._root, "Permission denied.")
        yield from items(self)

    monkeypatch.setattr(LocalFiles, "items", listed_in_part)
    three.write("below/4.md", "# Later\n\nPier 4 is closed.\n")
    done = three.sync()
    assert (done.sources.failed, done.documents.parsed) == ({"docs": "Permission denied."}, 1)
    assert "closed" in three.search("Pier 4 is closed").hits[0].text


def test_a_folder_that_can_not_be_entered_loses_nothing(three: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    three.write("below/4.md", text(4))
    three.sync()
    scandir = os.scandir

    def refused(path: str) -> Any:
        if path.endswith("below"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refused)  # root may enter every folder
    done = three.sync()
    assert listed(done) == {"unchanged": 3}
    assert "can't be listed: Permission denied" in done.sources.problems[0]
    assert "4.md" in documents(three)
    monkeypatch.undo()
    assert listed(three.sync()) == {"unchanged": 4}


def test_a_run_is_red_when_most_documents_failed_and_serves_the_others(three: Workbench) -> None:
    for number in range(25):
        three.write(f"broken{number}.docx", f"this is no archive {number}".encode())
    with pytest.raises(TooManyFailures, match=r"25 of 28 documents failed \(25 corrupt\)"):
        three.sync()
    three.write("new.md", text(4))
    with pytest.raises(TooManyFailures):
        three.sync()
    assert "new.md" in documents(three)
    for number in range(12):
        (three.folder / f"broken{number}.docx").unlink()
    assert three.sync().documents.quarantined.total() == 13


def test_a_search_during_syncs_sees_each_document_wholly_old_or_wholly_new(workbench: Workbench) -> None:
    workbench.retire_after_s = 1.0

    def edition(number: int) -> str:
        return "\n\n".join(
            f"# Part {part}\n\n" + f"Edition {number} of part {part} speaks of harbours. " * 12 for part in range(6)
        )

    workbench.write("book.md", edition(0))
    workbench.sync()
    mixed: list[object] = []
    seen: set[str] = set()
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            hits = workbench.search("Edition of part speaks of harbours", top_k=20).hits
            editions = {hit.text.partition("Edition ")[2].split()[0] for hit in hits}
            seen.update(editions)
            if len(editions) != 1 or len(hits) != 6:
                mixed.append(hits)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        for number in range(1, 6):
            workbench.write("book.md", edition(number))
            workbench.sync()
    finally:
        over.set()
        asking.join()
    assert mixed == []
    assert len(seen) > 1


def check_invariants_later(workbench: Workbench) -> None:
    """When what is to leave has left."""
    workbench.retire_after_s = 0
    workbench.sync()
    check_invariants(workbench)
