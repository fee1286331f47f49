"""Stage `sources`: list what a tenant's sources hold now, and record what is new, changed, renamed or removed."""

from __future__ import annotations

import logging
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from minirag_pipelines.core.database import Row, Transaction, Writer, statements
from minirag_pipelines.core.errors import DocumentUnreadable, SourceUnreadable
from minirag_pipelines.core.records import Item, Problem, Source, content_hash, uri_key
from minirag_pipelines.ingest.connectors.kinds import Connector, connect
from minirag_pipelines.ingest.formats import kind_of
from minirag_pipelines.ingest.publishing import move_readers, remove_documents

SQL = statements("minirag_pipelines.ingest.sql", "listing.sql")
_log = logging.getLogger(__name__)
_STAGED_AT_ONCE = 10_000
_MEANT_EMPTY = "If it is meant to be empty, sync with --allow-empty."


@dataclass(slots=True)
class ListingTally:
    """What the sources' listings say, in documents.

    `problems` are sentences without addresses, as Dagster keeps them; `failed` names sources not listed.
    """

    new: int = 0
    changed: int = 0
    renamed: int = 0
    removed: int = 0
    chunks_removed: int = 0
    unchanged: int = 0
    sources: int = 0
    problems: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def failure(self) -> SourceUnreadable | None:
        """What there is to raise when there are sources and none could be listed."""
        if not self.sources or len(self.failed) < self.sources:
            return None
        return SourceUnreadable(*next(iter(self.failed.items())))


def list_sources(
    writer: Writer,
    sources: Sequence[Source],
    *,
    force: bool = False,
    allow_empty: bool = False,
    max_bytes: int,
) -> ListingTally:
    """Compare every source's listing with what is known, and record the difference in one transaction.

    Content is read only where it decides: for items that look changed, and for new ones that may be a vanished
    document under another name. A source that can't be listed as a whole, or suddenly lists nothing, loses nothing.
    """
    tally = ListingTally(sources=len(sources))
    connectors = {source.source_id: connect(source.kind, source.config) for source in sources}
    with writer.reading() as transaction:
        for statement in ("stage", "stage_differences", "index_differences", "stage_unlisted", "vanished"):
            transaction.run(SQL[statement])
        for statement in ("clear_stage", "clear_differences", "clear_unlisted"):
            transaction.run(SQL[statement])
    complete = [source.source_id for source in sources if _stage(writer, source, connectors, tally, allow_empty)]
    if tally.failure:
        return tally
    with writer.reading() as transaction:
        transaction.run(SQL["analyze_stage"])
        differs = transaction.run(SQL["differences"], force=force).rowcount
        transaction.run(SQL["analyze_differences"])
        transaction.run(SQL["find_unlisted"], complete=complete)
        vanished = transaction.run(SQL["vanished_sizes"]).fetchall()
        listed = transaction.one(SQL["staged_count"]).documents
    if differs:
        _read_hashes(writer, connectors, [row for row in vanished if row.hashed], max_bytes)
    if differs or vanished:
        with writer.writing() as transaction:
            _record(transaction, tally, force=force)
    tally.unchanged = listed - tally.new - tally.changed - tally.renamed
    return tally


def _stage(
    writer: Writer,
    source: Source,
    connectors: Mapping[uuid.UUID, Connector],
    tally: ListingTally,
    allow_empty: bool,
) -> bool:
    """Copy a source's listing into the stage; whether it is complete, so that what is missing from it is gone."""
    complete, count = True, 0
    unlisted: Counter[tuple[str, bool]] = Counter()
    try:
        batch: list[Item] = []
        for item in connectors[source.source_id].items():
            if isinstance(item, Problem):
                _log.debug("Source %s: %s: %s", source.name, item.uri, item.reason)
                unlisted[item.reason, item.incomplete] += 1
                complete = complete and not item.incomplete
                continue
            count += 1
            batch.append(item)
            if len(batch) == _STAGED_AT_ONCE:
                _copy(writer, source, batch)
                batch = []
        _copy(writer, source, batch)
    except SourceUnreadable as error:
        if error.absent and allow_empty:
            return True
        _log.warning("Source %s can't be listed: %s", source.name, error.reason)
        tally.failed[source.name] = error.reason
        hint = f" {_MEANT_EMPTY}" if error.absent else ""
        tally.problems.append(f"{source.name}: {error.reason} Nothing of it was removed.{hint}")
        return False
    for (reason, incomplete), times in unlisted.items():
        kept = " Nothing that may lie there was removed." if incomplete else ""
        tally.problems.append(f"{source.name}: {times:,} × {reason}{kept}")
    if count == 0 and complete and not allow_empty:
        with writer.reading() as transaction:
            known = transaction.one(SQL["listed_count"], source_id=source.source_id).listed
        if known:
            tally.problems.append(
                f"{source.name}: it lists nothing where there were {known:,} documents; nothing was removed. "
                f"{_MEANT_EMPTY}"
            )
            return False
    return complete


def _copy(writer: Writer, source: Source, items: Sequence[Item]) -> None:
    """COPY is refused into protected tables; the stage is the connection's own."""
    columns = b"COPY staged (source_id, uri, uri_key, kind, size_bytes, modified_at, etag) FROM STDIN"
    with writer.reading() as transaction, transaction.connection.cursor() as cursor, cursor.copy(columns) as copy:
        for item in items:
            key, kind = uri_key(item.uri), kind_of(item.uri)
            copy.write_row((source.source_id, item.uri, key, kind, item.size_bytes, item.modified_at, item.etag))


def _read_hashes(
    writer: Writer, connectors: Mapping[uuid.UUID, Connector], gone: Sequence[Row], max_bytes: int, batch: int = 200
) -> None:
    after_source, after_key = uuid.UUID(int=0), b""
    while True:
        with writer.reading() as transaction:
            rows = transaction.run(
                SQL["to_hash"],
                kinds=[row.kind for row in gone],
                sizes=[row.size_bytes for row in gone],
                after_source=after_source,
                after_key=after_key,
                most=batch,
            ).fetchall()
        if not rows:
            return
        after_source, after_key = rows[-1].source_id, rows[-1].uri_key
        hashes = [_hash(connectors[row.source_id], row.uri, max_bytes) for row in rows]
        with writer.reading() as transaction:
            transaction.run(
                SQL["set_hashes"],
                source_ids=[row.source_id for row in rows],
                uri_keys=[row.uri_key for row in rows],
                content_hashes=hashes,
            )


def _hash(connector: Connector, uri: str, max_bytes: int) -> bytes | None:
    """None when it can't be read now: then it counts as changed, and reading it says why."""
    try:
        return content_hash(connector.read(uri, max_bytes=max_bytes))
    except DocumentUnreadable:
        return None


def _record(transaction: Transaction, tally: ListingTally, *, force: bool) -> None:
    transaction.run(SQL["clear_vanished"])
    transaction.run(SQL["find_vanished"])
    tally.renamed = transaction.run(SQL["rename"]).rowcount
    returned = transaction.one(SQL["come_back"]).documents
    tally.new = returned + transaction.one(SQL["add_documents"]).documents
    tally.changed = transaction.one(SQL["change_documents"], force=force).documents
    transaction.run(SQL["note_forgotten"])
    if force:
        transaction.run(SQL["offer_refusals"])
    transaction.run(SQL["record_listed"])
    vanished = transaction.run(SQL["vanished_documents"]).fetchall()
    move_readers(transaction, [row.document_id for row in vanished if row.elsewhere])
    tally.removed, tally.chunks_removed = remove_documents(
        transaction, [row.document_id for row in vanished if not row.elsewhere]
    )
