"""`minirag explain`: where a chunk or a document comes from, down to its source, and whether it still comes out so."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from minirag_pipelines.cli.output import AsJson, out, print_json, progress, say, shown
from minirag_pipelines.cli.session import session
from minirag_pipelines.cli.tenants import TenantId
from minirag_pipelines.core.records import heading_path

if TYPE_CHECKING:
    from minirag_pipelines.ingest.explaining import ChunkLine, Lineage
    from minirag_pipelines.ingest.verifying import Verification

# How many chunks of a document are shown to people, and how much of each.
_SHOWN_CHUNKS, _SHOWN_CHARACTERS = 10, 100


def explain(
    tenant: TenantId,
    subject: Annotated[
        str,
        typer.Argument(
            metavar="CHUNK_OR_DOCUMENT", help="A chunk's id as a search prints it; a document's id, URI or path."
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """Where a chunk or a document comes from; read, parsed and cut again to see whether it still comes out so."""
    from minirag_pipelines.ingest.explaining import explain as explained
    from minirag_pipelines.ingest.parser_pool import Parsing
    from minirag_pipelines.ingest.verifying import verify

    with session() as opened:
        opened.tenant(tenant)
        lineage = explained(opened.database, tenant, subject)
        with progress("Reading and parsing the document again"):
            verified = verify(opened.database, lineage, Parsing.of(opened.settings, workers=1))
    if as_json:
        print_json(lineage.to_json() | {"verified": asdict(verified)})
    else:
        for name, words in _lines(lineage, verified):
            out.print(Text(f"{name:<11} {words}"))
    if not verified.identical:
        say(f"It does not verify. {verified.reason or ''}".rstrip())
        raise typer.Exit(1)


def _lines(lineage: Lineage, verified: Verification) -> Iterator[tuple[str, str]]:
    yield "tenant", lineage.tenant_id
    source, document, version, chunker = lineage.source, lineage.document, lineage.version, lineage.chunker
    if source is not None:
        yield "source", f"{source.name} ({source.kind})"
    if document is not None:
        yield "document", f"{document.document_id}"
        yield "", document.uri
        known = f"content {document.content_hash or 'not read yet'}, {shown(document.size_bytes)} bytes"
        yield "", f"{document.state}, first seen {shown(document.first_seen_at)}, {known}"
        if document.reason:
            yield "", document.reason
    if version is not None:
        pages = f", {version.pages:,} pages" if version.pages else ""
        yield "version", f"{version.version_id}: {version.title or 'no title'}{pages}"
        yield "", f"content {version.content_hash}"
        yield "", f"parsed {shown(version.parsed_at)} by {version.parser}, run {version.run_id}"
    if chunker is not None:
        settings = (
            "" if chunker.max_tokens is None else f" ({chunker.max_tokens} tokens, {chunker.overlap_tokens} over)"
        )
        yield "chunks", f"{chunker.chunks:,}, cut {shown(chunker.cut_at)} by {chunker.fingerprint}{settings}"
        yield "", f"run {chunker.run_id}"
    for chunk in lineage.chunks[:_SHOWN_CHUNKS]:
        yield from _chunk_lines(chunk, whole=lineage.whole)
    if len(lineage.chunks) > _SHOWN_CHUNKS:
        yield "", f"… and {len(lineage.chunks) - _SHOWN_CHUNKS:,} more: --json lists all"
    for one in lineage.generations:
        other = "" if version and one.version_id == version.version_id else f", there with version {one.version_id}"
        yield "generation", f"{one.number} ({one.state}), published {shown(one.published_at)}, run {one.run_id}{other}"
    if lineage.also_in_count:
        yield "also in", f"{lineage.also_in_count:,} other documents"
        for uri in lineage.also_in:
            yield "", uri
    words = f"content {verified.content}, parse {verified.parse}, chunks {verified.chunks}"
    yield "verified", f"{words}. {verified.reason or ''}".rstrip()


def _chunk_lines(chunk: ChunkLine, *, whole: bool) -> Iterator[tuple[str, str]]:
    start, end = chunk.span
    page = f", page {chunk.page}" if chunk.page else ""
    words = f"characters {start:,} to {end:,}{page}, {chunk.tokens:,} tokens"
    yield "", f"[{chunk.ordinal}] {words}, text {chunk.text_hash}"
    if chunk.headings:
        yield "", "    " + heading_path(chunk.headings)
    if chunk.text is not None:
        text = chunk.text.strip()
        if whole:
            text = " ".join(text[:_SHOWN_CHARACTERS].split()) + ("…" if len(text) > _SHOWN_CHARACTERS else "")
        for line in text.splitlines():
            yield "", "    " + line
    for one in chunk.embeddings:
        made = f"embedded {shown(one.embedded_at)}, run {shown(one.run_id)}" if one.embedded_at else "not embedded"
        if one.refused:
            made = f"refused: {one.refused}"
        where = f"{one.state or 'not'} in the collection of generation {one.generation}"
        yield "", f"    {one.model} ({one.dimension}, {one.model_fingerprint}): {made}; {where}"
