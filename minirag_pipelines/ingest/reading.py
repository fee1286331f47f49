"""Stage `documents`: read what is pending, parse what no parser has seen, point documents at their versions."""

from __future__ import annotations

import json
import logging
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from psycopg.types.json import Jsonb

from minirag_pipelines.core.database import Row, Transaction, Writer, statements
from minirag_pipelines.core.errors import DocumentUnreadable
from minirag_pipelines.core.generations import Generations
from minirag_pipelines.core.records import Element, ParsedDocument, Source, content_hash, version_id
from minirag_pipelines.ingest.connectors.kinds import Connector, connect
from minirag_pipelines.ingest.formats import parser_fingerprint
from minirag_pipelines.ingest.parser_pool import ParseJob, Parsing
from minirag_pipelines.ingest.progress import Progress
from minirag_pipelines.ingest.publishing import displace

SQL = statements("minirag_pipelines.ingest.sql", "reading.sql")
_log = logging.getLogger(__name__)
_BATCH = 32


@dataclass(slots=True)
class ReadingTally:
    """`parsed` counts parser runs, `reused` documents whose version was known; `quarantined` is by reason, in all."""

    parsed: int = 0
    reused: int = 0
    pages: int = 0
    size_bytes: int = 0
    quarantined: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class _Read:
    """A document whose content is known: which version it is, and how long it was."""

    row: Row
    content_hash: bytes
    parser: str
    size_bytes: int

    @property
    def version_id(self) -> uuid.UUID:
        return version_id(self.content_hash, self.row.kind, self.parser)

    @property
    def failure_key(self) -> str:
        return f"{self.content_hash.hex()}:{self.row.kind}"


def read_pending(writer: Writer, sources: Sequence[Source], parsing: Parsing) -> ReadingTally:
    """Read and parse every document of these sources whose content is pending and that no failure holds back.

    One bad document costs itself: its reason is recorded and the rest goes on. Results are committed in batches.
    What was too large for other limits than these is tried again.
    """
    reading = _Reading(writer, sources, parsing)
    with writer.reading() as transaction:
        pending = transaction.run(SQL["kinds_to_read"]).fetchall()
    if pending:
        reading.parsers = {row.kind: parser_fingerprint(row.kind, parsing.languages) for row in pending}
        progress = Progress("Parsing documents", sum(row.documents for row in pending))
        with parsing.pool() as workers:
            for job, result in workers.parse_all(reading.jobs()):
                reading.take(job, result)
                progress.add()
        reading.commit()
    with writer.reading() as transaction:
        reading.tally.quarantined = Counter({row.code: row.documents for row in transaction.run(SQL["quarantined"])})
    return reading.tally


def refusing_limits(parsing: Parsing) -> tuple[str, str]:
    """What made a refusal for size, in reading and in parsing: other limits may let the document through."""
    return f"limits={parsing.max_bytes}", f"/{parsing.limits}"


class _Reading:
    """One pass over the pending documents: jobs go out to the parsers, results are committed in batches."""

    def __init__(self, writer: Writer, sources: Sequence[Source], parsing: Parsing) -> None:
        self.tally = ReadingTally()
        self.parsers: Mapping[str, str] = {}
        self._writer = writer
        self._connectors: dict[uuid.UUID, Connector] = {
            source.source_id: connect(source.kind, source.config) for source in sources
        }
        self._max_bytes = parsing.max_bytes
        self._read_limits, self._parse_limits = refusing_limits(parsing)
        # Documents with equal content wait for one parse; results wait for a batch to be full.
        self._waiting: dict[uuid.UUID, list[_Read]] = {}
        self._parsed: list[tuple[uuid.UUID, ParsedDocument | DocumentUnreadable]] = []

    def jobs(self) -> Iterator[ParseJob]:
        """What has to be parsed; what needs no parsing is settled on the way."""
        parsers = json.dumps(dict(self.parsers))
        pages = self._writer.pages(
            SQL["to_read"],
            "document_id",
            source_ids=list(self._connectors),
            parsers=parsers,
            read_limits=self._read_limits,
            parse_limits=self._parse_limits,
            most=_BATCH,
        )
        for rows in pages:
            known = self._known(rows)
            reused: list[_Read] = []
            for row in rows:
                read = self._as_listed(row)
                if read is not None and read.version_id in known:
                    reused.append(read)
                    continue
                job = self._job(row, reused)
                if job is not None:
                    yield job
            self._point(reused)

    def take(self, job: ParseJob, result: ParsedDocument | DocumentUnreadable) -> None:
        """Keep a result until its batch is full."""
        key = job.key
        if not isinstance(key, uuid.UUID):
            raise TypeError(key)
        self._parsed.append((key, result))
        if len(self._parsed) >= _BATCH:
            self.commit()

    def commit(self) -> None:
        """Record the results so far: versions, and where their documents point; failures, and why."""
        parsed = [(self._waiting.pop(key), result) for key, result in self._parsed]
        self._parsed = []
        if not parsed:
            return
        with self._writer.writing() as transaction:
            for reads, result in parsed:
                if isinstance(result, ParsedDocument):
                    self._add_version(transaction, reads[0], result)
                else:
                    self._add_parse_failure(transaction, reads, result)
            self._point_in(
                transaction, [read for reads, result in parsed if isinstance(result, ParsedDocument) for read in reads]
            )

    def _as_listed(self, row: Row) -> _Read | None:
        """What the listing has read already, to tell a change from a touch."""
        if row.content_hash is None:
            return None
        return _Read(row, row.content_hash, self.parsers[row.kind], row.size_bytes or 0)

    def _known(self, rows: Iterable[Row]) -> set[uuid.UUID]:
        """The versions that exist, of those that the listing has read already."""
        listed = [read.version_id for row in rows if (read := self._as_listed(row)) is not None]
        if not listed:
            return set()
        with self._writer.reading() as transaction:
            return {row.version_id for row in transaction.run(SQL["known_versions"], version_ids=listed)}

    def _job(self, row: Row, reused: list[_Read]) -> ParseJob | None:
        try:
            content = self._connectors[row.source_id].read(row.uri, max_bytes=self._max_bytes)
        except DocumentUnreadable as error:
            self._add_read_failure(row, error)
            return None
        read = _Read(row, content_hash(content), self.parsers[row.kind], len(content))
        if read.version_id in self._waiting:
            self._waiting[read.version_id].append(read)
            return None
        with self._writer.reading() as transaction:
            standing = transaction.one(
                SQL["standing"],
                version_id=read.version_id,
                key=read.failure_key,
                parser=read.parser,
                parse_limits=self._parse_limits,
            )
        if standing.parsed:
            reused.append(read)
            return None
        if standing.refused:
            with self._writer.writing() as transaction:
                self._note(transaction, read)
            return None
        self._waiting[read.version_id] = [read]
        return ParseJob(read.version_id, row.uri, row.kind, content)

    def _point(self, reads: Sequence[_Read]) -> None:
        if reads:
            with self._writer.writing() as transaction:
                self._point_in(transaction, reads)
            self.tally.reused += len(reads)

    def _point_in(self, transaction: Transaction, reads: Sequence[_Read]) -> None:
        if not reads:
            return
        moved = transaction.run(
            SQL["point"],
            document_ids=[read.row.document_id for read in reads],
            version_ids=[read.version_id for read in reads],
            content_hashes=[read.content_hash for read in reads],
            sizes=[read.size_bytes for read in reads],
        ).fetchall()
        transaction.run(SQL["clear_failures"], stage="read", keys=[str(read.row.document_id) for read in reads])
        transaction.run(SQL["clear_failures"], stage="parse", keys=[read.failure_key for read in reads])
        transaction.run(SQL["clear_failures"], stage="publish", keys=[str(read.version_id) for read in reads])
        # A version that never came to be published may have texts in Chroma, or on their way there.
        displaced = sorted({row.displaced for row in moved if row.displaced not in (None, row.version_id)})
        if displaced:
            for generation in Generations(transaction).all():
                if generation.state != "retired":
                    displace(transaction, generation, displaced)

    def _add_version(self, transaction: Transaction, read: _Read, parsed: ParsedDocument) -> None:
        transaction.run(
            SQL["add_version"],
            version_id=read.version_id,
            content_hash=read.content_hash,
            kind=read.row.kind,
            parser=read.parser,
            title=parsed.title,
            text=parsed.text,
            elements=Jsonb([element_row(element) for element in parsed.elements]),
            pages=parsed.pages,
            warnings=list(parsed.warnings),
            size_bytes=read.size_bytes,
            run_id=self._writer.run_id,
        )
        self.tally.parsed += 1
        self.tally.pages += parsed.pages or 0
        self.tally.size_bytes += read.size_bytes

    def _add_parse_failure(self, transaction: Transaction, reads: Sequence[_Read], error: DocumentUnreadable) -> None:
        for read in reads:
            self._note(transaction, read)
        maker = reads[0].parser + (self._parse_limits if error.code == "too_large" else "")
        _add_failure(transaction, "parse", reads[0].failure_key, maker, error)

    def _note(self, transaction: Transaction, read: _Read) -> None:
        transaction.run(
            SQL["note_content"],
            document_id=read.row.document_id,
            content_hash=read.content_hash,
            size_bytes=read.size_bytes,
        )
        transaction.run(SQL["clear_failures"], stage="read", keys=[str(read.row.document_id)])

    def _add_read_failure(self, row: Row, error: DocumentUnreadable) -> None:
        maker = self._read_limits if error.code == "too_large" else ""
        with self._writer.writing() as transaction:
            _add_failure(transaction, "read", str(row.document_id), maker, error)


def retry_failures(writer: Writer) -> None:
    """Let every document that could not be read or parsed be tried again now."""
    with writer.writing() as transaction:
        transaction.run(SQL["retry_failures"])


def _add_failure(transaction: Transaction, stage: str, key: str, maker: str, error: DocumentUnreadable) -> None:
    transaction.run(
        SQL["add_failure"],
        stage=stage,
        key=key,
        maker=maker,
        code=error.code,
        reason=error.reason,
        permanent=error.permanent,
    )


def element_row(element: Element) -> list[object]:
    """An element as it is stored; `element_of` reads it back."""
    return [element.kind, element.start, element.end, element.level, element.page, element.header_end]


def element_of(row: Sequence[object]) -> Element:
    """The element that `element_row` was given."""
    return Element(*row)  # type: ignore[arg-type]  # JSON keeps the order and the types that element_row wrote
