"""Whether a chunk or a document still comes out of its source so: read, parsed and cut again, nothing recorded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from minirag_pipelines.core.database import Database
from minirag_pipelines.core.errors import DocumentUnreadable, InvalidInput, SourceUnreadable
from minirag_pipelines.core.providers.tokenizers import tokenizer_for
from minirag_pipelines.core.records import (
    ChunkDraft,
    ChunkerSettings,
    ParsedDocument,
    content_hash,
    embedded_text,
    text_hash,
)
from minirag_pipelines.ingest.chunking import chunk, chunker_fingerprint
from minirag_pipelines.ingest.connectors.kinds import connect
from minirag_pipelines.ingest.cutting import parsed_version
from minirag_pipelines.ingest.explaining import ChunkLine, DocumentLine, Lineage, SourceLine
from minirag_pipelines.ingest.formats import parser_fingerprint
from minirag_pipelines.ingest.parser_pool import ParseJob, Parsing

IDENTICAL, CHANGED, UNREADABLE = "identical", "changed", "unreadable"
DIFFERENT, MOVED, NOT_CHECKED = "different", "moved", "not checked"


@dataclass(frozen=True, slots=True)
class Verification:
    """What reading, parsing and cutting again gave. `reason` says what differs, or why something was not checked."""

    content: str
    parse: str
    chunks: str
    reason: str | None

    @property
    def identical(self) -> bool:
        return self.content == self.parse == self.chunks == IDENTICAL


def verify(database: Database, lineage: Lineage, parsing: Parsing) -> Verification:
    """Read the source again, parse it with today's parser and cut it with the chain's chunker, and compare."""
    document, source, version = lineage.document, lineage.source, lineage.version
    reason = _unreadable(document, source)
    if document is None or source is None or reason is not None:
        return Verification(UNREADABLE, NOT_CHECKED, NOT_CHECKED, reason)
    try:
        content = connect(source.kind, source.config).read(document.uri, max_bytes=parsing.max_bytes)
    except (DocumentUnreadable, SourceUnreadable, InvalidInput) as error:
        return Verification(UNREADABLE, NOT_CHECKED, NOT_CHECKED, f"The source gives no content: {error.reason}")
    known = version.content_hash if version else document.content_hash
    if known is None:
        return Verification(NOT_CHECKED, NOT_CHECKED, NOT_CHECKED, "Nothing is known of its content yet: sync first.")
    compared = IDENTICAL if content_hash(content).hex() == known else CHANGED
    reasons = [] if compared == IDENTICAL else ["The source's content has changed since: it has another hash."]
    kind = version.kind if version else document.kind
    with parsing.pool() as workers:
        ((_, parsed),) = workers.parse_all([ParseJob(document.document_id, document.uri, kind, content)])
    if version is None:
        words = f"it can't be parsed: {parsed.reason}" if isinstance(parsed, DocumentUnreadable) else "sync first."
        return Verification(compared, NOT_CHECKED, NOT_CHECKED, " ".join([*reasons, f"There is no version: {words}"]))
    if isinstance(parsed, DocumentUnreadable):
        reasons.append(f"Today's parser can't read it: {parsed.reason}")
        return Verification(compared, DIFFERENT, NOT_CHECKED, " ".join(reasons))
    outcome = NOT_CHECKED
    with database.transaction(lineage.tenant_id) as transaction, suppress(LookupError):  # deleted meanwhile
        outcome = _compare_parse(parsed_version(transaction, version.version_id), parsed)
    today = parser_fingerprint(kind, parsing.languages)
    if today != version.parser:
        reasons.append(f"The parser of today is {today}, the version was made by {version.parser}.")
    if outcome == DIFFERENT and compared == IDENTICAL:
        reasons.append("Parsed again, it comes out differently.")
    cut, why = _compare_chunks(lineage, parsed)
    return Verification(compared, outcome, cut, " ".join([*reasons, *why]) or None)


def _unreadable(document: DocumentLine | None, source: SourceLine | None) -> str | None:
    """Why a document is not read again, None when it is."""
    if document is None or source is None:
        return "No document has this version any more, so there is nothing to read again."
    if document.forgotten_at is not None or document.removed_at is not None:
        return document.reason
    if source.removed_at is not None:
        return f"The source {source.name} was removed."
    return None


def _compare_parse(stored: ParsedDocument, parsed: ParsedDocument) -> str:
    # Warnings are no part of what is cut and shown.
    return IDENTICAL if replace(parsed, warnings=()) == stored else DIFFERENT


Cut = tuple[int, tuple[int, int], tuple[str, ...], int | None, str]


def _compare_chunks(lineage: Lineage, parsed: ParsedDocument) -> tuple[str, list[str]]:
    """How the chain's chunks compare with those that come out of the document now, and sentences on what differs."""
    chunker = lineage.chunker
    if chunker is None:
        return NOT_CHECKED, ["It has not been cut into chunks yet."]
    if chunker.max_tokens is None or chunker.overlap_tokens is None or chunker.embedding_model is None:
        return NOT_CHECKED, ["No generation has the chunker any more, so its settings are not known."]
    settings, tokenizer = (
        ChunkerSettings(chunker.max_tokens, chunker.overlap_tokens),
        tokenizer_for(chunker.embedding_model),
    )
    why = []
    if chunker_fingerprint(settings, tokenizer.name) != chunker.fingerprint:
        why.append("The chunker of today is another one.")
    drafts = chunk(parsed, settings, tokenizer)
    if lineage.whole:
        return _compare_all(lineage.chunks, drafts, why)
    return _compare_one(lineage.chunks[0], drafts, why)


def _compare_one(known: ChunkLine, drafts: Sequence[ChunkDraft], why: list[str]) -> tuple[str, list[str]]:
    same = [draft for draft in drafts if _hash(draft) == known.text_hash]
    if any(_cut(draft) == _known_cut(known) for draft in same):
        return IDENTICAL, why
    if not same:
        return DIFFERENT, [*why, "The chunk's text does not come out any more."]
    found = min(same, key=lambda draft: abs(draft.start - known.span[0]))
    return MOVED, [
        *why,
        f"The chunk's text comes out at another place: as chunk {found.ordinal}, characters {found.start:,} to "
        f"{found.end:,}, instead of chunk {known.ordinal}, characters {known.span[0]:,} to {known.span[1]:,}.",
    ]


def _compare_all(known: Sequence[ChunkLine], drafts: Sequence[ChunkDraft], why: list[str]) -> tuple[str, list[str]]:
    if [_known_cut(one) for one in known] == [_cut(draft) for draft in drafts]:
        return IDENTICAL, why
    before, now = Counter(one.text_hash for one in known), Counter(_hash(draft) for draft in drafts)
    lost, new = (before - now).total(), (now - before).total()
    if not lost and not new:
        return MOVED, [*why, "The same chunks come out, at other places."]
    return DIFFERENT, [*why, f"Of {len(known):,} chunks {lost:,} do not come out any more, and {new:,} others do."]


def _cut(draft: ChunkDraft) -> Cut:
    return draft.ordinal, (draft.start, draft.end), draft.headings, draft.page, _hash(draft)


def _known_cut(known: ChunkLine) -> Cut:
    return known.ordinal, known.span, known.headings, known.page, known.text_hash


def _hash(draft: ChunkDraft) -> str:
    return text_hash(embedded_text(draft.headings, draft.text)).hex()
