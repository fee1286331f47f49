"""The chain from a chunk down to its source, and whether it still comes out so."""

from __future__ import annotations

import uuid

import pytest

from minirag_pipelines.core.errors import InvalidInput, NotFound
from minirag_pipelines.ingest.explaining import Lineage, explain
from minirag_pipelines.ingest.verifying import Verification, verify
from tests.workbench import Workbench

pytestmark = [pytest.mark.postgres, pytest.mark.chroma]

FERRY = "# Ferries\n\nThe night ferry to Norhaven leaves at 22:40 from pier four.\n"
TICKETS = "# Tickets\n\nA return ticket costs 31 crowns and is valid for ten days.\n"


def explained(workbench: Workbench, subject: object) -> Lineage:
    return explain(workbench.database, workbench.tenant_id, str(subject))


def verified(workbench: Workbench, subject: object) -> Verification:
    return verify(workbench.database, explained(workbench, subject), workbench.parsing)


def sections(count: int) -> str:
    """Each long enough to be a chunk of its own."""
    words = "It is one of many, and says at some length what it has to say. " * 6
    return "\n".join(f"# Section {number}\n\nParagraph speaks of thing {number}. {words}\n" for number in range(count))


def change(workbench: Workbench, statement: str) -> None:
    with workbench.database.transaction(workbench.tenant_id) as transaction:
        transaction.run(statement.encode())


def test_a_hit_is_explained_down_to_its_source(workbench: Workbench) -> None:
    path = workbench.write("ferry.md", FERRY)
    with workbench.writer() as writer:
        workbench.list(writer)
        workbench.read(writer)
        workbench.cut(writer)
        workbench.embed(writer)
        workbench.finish(writer)
    hit = workbench.search("When does the night ferry leave?").hits[0]
    lineage = explained(workbench, hit.chunk_id)
    assert lineage.source
    assert (lineage.source.name, lineage.source.kind) == ("docs", "files")
    assert lineage.document
    assert (lineage.document.document_id, lineage.document.uri) == (hit.document_id, hit.uri)
    assert (lineage.document.state, lineage.document.size_bytes) == ("live", path.stat().st_size)
    assert lineage.version
    assert lineage.version.version_id == hit.version_id
    assert lineage.version.content_hash == lineage.document.content_hash
    assert lineage.version.run_id == writer.run_id
    (chunk,) = lineage.chunks
    assert (chunk.chunk_id, chunk.text, chunk.span, chunk.text_hash) == (
        hit.chunk_id,
        hit.text,
        hit.span,
        hit.text_hash,
    )
    assert lineage.chunker
    assert (lineage.chunker.max_tokens, lineage.chunker.run_id) == (128, writer.run_id)
    live = workbench.live()
    (embedding,) = chunk.embeddings
    assert (embedding.model_fingerprint, embedding.dimension) == (live.model_fingerprint, live.dimension)
    assert (embedding.run_id, embedding.state) == (writer.run_id, "there")
    (generation,) = lineage.generations
    assert (generation.number, generation.state, generation.run_id) == (1, "live", writer.run_id)
    assert verified(workbench, hit.chunk_id) == Verification("identical", "identical", "identical", None)


def test_a_document_is_known_by_id_uri_and_path_and_has_all_its_chunks(workbench: Workbench) -> None:
    path = workbench.write("all sections.md", sections(6))
    workbench.sync()
    row = workbench.documents()[0]
    by_id = explained(workbench, row.document_id)
    assert [chunk.ordinal for chunk in by_id.chunks] == list(range(row.chunks))
    for other in (row.uri, path, f"file://{path}"):
        assert explained(workbench, other) == by_id
    assert verified(workbench, row.uri).identical


def test_nothing_is_written(workbench: Workbench) -> None:
    workbench.write("ferry.md", FERRY)
    workbench.sync()
    rows, calls = workbench.row_versions(), workbench.provider.stats()
    assert verified(workbench, workbench.documents()[0].document_id).identical
    assert workbench.row_versions() == rows
    assert workbench.provider.stats() == calls


def test_changed_content_is_said_and_so_is_where_the_text_stands_now(workbench: Workbench) -> None:
    path = workbench.write("long.md", sections(6))
    workbench.sync()
    chunks = explained(workbench, path).chunks
    first = next(chunk for chunk in chunks if "thing 0" in (chunk.text or ""))
    last = next(chunk for chunk in chunks if "thing 5" in (chunk.text or ""))
    path.write_text(sections(6).replace("thing 5", "a lighthouse"))
    found = verified(workbench, path)
    assert (found.content, found.parse, found.chunks) == ("changed", "different", "different")
    assert "another hash" in (found.reason or "")
    assert (verified(workbench, first.chunk_id).content, verified(workbench, first.chunk_id).chunks) == (
        "changed",
        "identical",
    )
    gone = verified(workbench, last.chunk_id)
    assert gone.chunks == "different"
    assert "does not come out any more" in (gone.reason or "")
    path.write_text("# New\n\nA paragraph of another kind stands above all.\n\n" + sections(6))
    moved = verified(workbench, last.chunk_id)
    assert moved.chunks == "moved"
    assert "at another place" in (moved.reason or "")


def test_what_was_stored_otherwise_than_it_comes_out_is_found(workbench: Workbench) -> None:
    path = workbench.write("ferry.md", FERRY)
    workbench.sync()
    chunk_id = explained(workbench, path).chunks[0].chunk_id
    change(workbench, "UPDATE version SET parser = 'md-0', title = 'Other' WHERE tenant_id = %(tenant_id)s")
    found = verified(workbench, path)
    assert (found.content, found.parse, found.chunks) == ("identical", "different", "identical")
    assert "The parser of today is md-1" in (found.reason or "")
    change(workbench, "UPDATE chunk SET start_char = 3 WHERE tenant_id = %(tenant_id)s")
    assert verified(workbench, chunk_id).chunks == "moved"
    assert verified(workbench, path).chunks == "moved"


def test_another_parser_that_makes_the_same_verifies_and_is_said(workbench: Workbench) -> None:
    path = workbench.write("ferry.md", FERRY)
    workbench.sync()
    change(workbench, "UPDATE version SET parser = 'md-0' WHERE tenant_id = %(tenant_id)s")
    found = verified(workbench, path)
    assert found.identical
    assert "made by md-0" in (found.reason or "")


def test_a_text_of_several_documents_names_them_all_within_bounds(workbench: Workbench) -> None:
    for number in range(13):
        workbench.write(f"copy-{number:02}.md", FERRY)
    workbench.sync()
    hit = workbench.search("night ferry").hits[0]
    lineage = explained(workbench, hit.chunk_id)
    assert lineage.document
    assert lineage.document.uri == hit.uri
    assert (len(lineage.also_in), lineage.also_in_count) == (10, 12)
    assert hit.uri not in lineage.also_in


def test_what_has_gone_says_why(workbench: Workbench) -> None:
    workbench.write("ferry.md", FERRY)
    path = workbench.write("tickets.md", TICKETS)
    workbench.sync()
    chunk_id = explained(workbench, path).chunks[0].chunk_id
    path.unlink()
    found = verified(workbench, path)
    assert (found.content, found.chunks) == ("unreadable", "not checked")
    workbench.sync()
    for subject in (path, chunk_id):
        lineage = explained(workbench, subject)
        assert lineage.document
        assert (lineage.document.state, lineage.generations) == ("removed", ())
        assert verified(workbench, subject).content == "unreadable"
        assert "no source lists it" in (verified(workbench, subject).reason or "")


def test_a_forgotten_document_shows_no_text(workbench: Workbench) -> None:
    path = workbench.write("ferry.md", FERRY)
    workbench.sync()
    chunk_id = explained(workbench, path).chunks[0].chunk_id
    change(workbench, "UPDATE document SET forgotten_at = now() WHERE tenant_id = %(tenant_id)s")
    for subject in (path, chunk_id):
        lineage = explained(workbench, subject)
        assert lineage.document
        assert lineage.document.state == "forgotten"
        assert [(chunk.text, chunk.headings) for chunk in lineage.chunks] == [(None, ())]
        assert lineage.version
        assert lineage.version.title is None
        assert verified(workbench, subject).content == "unreadable"


def test_a_quarantined_document_says_its_reason(workbench: Workbench) -> None:
    path = workbench.write("broken.docx", b"no archive")
    workbench.sync()
    lineage = explained(workbench, path)
    assert lineage.document
    assert (lineage.document.state, lineage.version, lineage.chunks) == ("quarantined", None, ())
    assert lineage.document.reason
    found = verified(workbench, path)
    assert (found.content, found.parse) == ("identical", "not checked")
    assert lineage.document.reason in (found.reason or "")


def test_an_old_version_that_nothing_holds_is_still_explained(workbench: Workbench) -> None:
    path = workbench.write("ferry.md", FERRY)
    workbench.sync()
    chunk_id = explained(workbench, path).chunks[0].chunk_id
    path.write_text(TICKETS)
    workbench.sync()
    lineage = explained(workbench, chunk_id)
    assert (lineage.document, lineage.generations) == (None, ())
    assert "22:40" in (lineage.chunks[0].text or "")
    assert "No document has this version" in (verified(workbench, chunk_id).reason or "")


def test_another_tenants_ids_are_not_found_and_neither_is_nonsense(workbench: Workbench) -> None:
    path = workbench.write("ferry.md", FERRY)
    workbench.sync()
    lineage = explained(workbench, path)
    assert lineage.document
    chunk_id = lineage.chunks[0].chunk_id
    workbench.add_tenant("other")
    for subject in (chunk_id, lineage.document.document_id, lineage.document.uri, path):
        with pytest.raises(NotFound):
            explain(workbench.database, "other", str(subject))
    version, chunker, _ = chunk_id.split(":")
    for subject in (
        uuid.uuid4(), f"{version}:{chunker}:7", f"{version}:{'0' * 16}:0", f"{version}:{chunker}:99999999999",
        f"{version}:{chunker}:-1", "-" * 36, f"{'-' * 36}:{chunker}:0", "no/such.md", "caf\udce9.md", "::", "x" * 5000,
    ):  # fmt: skip
        with pytest.raises(NotFound):
            explained(workbench, subject)
    with pytest.raises(InvalidInput):
        explained(workbench, " ")
