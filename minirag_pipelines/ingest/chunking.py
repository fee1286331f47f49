"""Parsed document → chunks: cut by structure, within a budget of tokens.

A chunk is the largest part of the heading tree that fits. A section that doesn't fit is cut between paragraphs where
that fills at least half a chunk, else between sentences, lines, words, and inside a word as the last resort. Where a
section is cut depends on that section alone: an edit leaves the chunks of the others as they are.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate

from minirag_pipelines.core.providers.models import Tokenizer
from minirag_pipelines.core.records import ChunkDraft, ChunkerSettings, ParsedDocument, embedded_text, fingerprint
from minirag_pipelines.ingest.atoms import Atom, at_least, atoms_of, sections_of, whole_character

# Raised when the same document and settings give other chunks than before.
CHUNKER_NUMBER = 1

# A section under this share of a chunk is put together with its like beside it.
_SMALL = 1 / 4
# Tokens that a text may have more than its parts together.
_JOINS = 4
_MOST_SLACK = 12
# A chunk may end early, at a better place, when it is filled this far.
_FILLED = 1 / 2


def chunker_fingerprint(settings: ChunkerSettings, tokenizer_name: str) -> str:
    """The name of everything that decides where a document is cut."""
    return fingerprint("chunker", CHUNKER_NUMBER, settings.max_tokens, settings.overlap_tokens, tokenizer_name)


def chunk(document: ParsedDocument, settings: ChunkerSettings, tokenizer: Tokenizer) -> list[ChunkDraft]:
    """The document's chunks in reading order.

    No chunk's embedded text has more than `settings.max_tokens` tokens, and together the spans cover the text but for
    white space. A section's first chunk holds the title in its text, the later ones in their headings, so that it is
    embedded once. A text of white space gives no chunks.
    """
    if not document.text.strip():
        return []
    return _Cutter(document, settings, tokenizer).drafts()


@dataclass(frozen=True, slots=True)
class _Cut:
    """A chunk to be: the span [start, end) behind `header`. `atom` is the first that no chunk before it holds."""

    start: int
    end: int
    atom: Atom
    headings: tuple[str, ...]
    header: str


@dataclass(frozen=True, slots=True)
class _Lead:
    """What a chunk begins with, before its own atoms: heading path, table header, overlap."""

    headings: tuple[str, ...]
    header: str
    start: int
    tokens: int


class _Cutter:
    def __init__(self, document: ParsedDocument, settings: ChunkerSettings, tokenizer: Tokenizer) -> None:
        self._text = document.text
        self._most = settings.max_tokens
        self._overlap = settings.overlap_tokens
        self._tokenizer = tokenizer
        self._paths: dict[tuple[str, ...], tuple[tuple[str, ...], int]] = {(): ((), 0)}
        self._headers: dict[int, tuple[str, int]] = {}
        self._sections = sections_of(document)
        limits = [self._most - self._path(section.path)[1] - _JOINS for section in self._sections]
        self._atoms = atoms_of(self._text, self._sections, tokenizer, limits)
        self._sums = [0, *accumulate(atom.tokens for atom in self._atoms)]
        # The number of each section's first atom; atoms are in the order of their sections.
        owners = [atom.section for atom in self._atoms]
        self._first = [bisect_left(owners, number) for number in range(len(self._sections) + 1)]

    def drafts(self) -> list[ChunkDraft]:
        units = self._units()
        cuts = {unit: list(self._cuts(unit, 0)) for unit in units}
        tokens = self._exact(cuts)
        # A sum of tokens is a few off the tokens of the whole, where the tokenizer joins across a seam.
        for slack in range(1, _MOST_SLACK):
            long = [unit for unit in units if max(tokens[unit]) > self._most]
            if not long:
                break
            redone = {unit: list(self._cuts(unit, slack)) for unit in long}
            cuts |= redone
            tokens |= self._exact(redone)
        return [
            ChunkDraft(ordinal, cut.start, cut.end, cut.headings, cut.atom.element.page, self._cut_text(cut), count)
            for ordinal, (cut, count) in enumerate(
                pair for unit in units for pair in zip(cuts[unit], tokens[unit], strict=True)
            )
        ]

    def _exact(self, cuts: dict[range, list[_Cut]]) -> dict[range, list[int]]:
        texts = [embedded_text(cut.headings, self._cut_text(cut)) for group in cuts.values() for cut in group]
        counts = iter(self._tokenizer.counts(texts))
        return {unit: [next(counts) for _ in group] for unit, group in cuts.items()}

    def _cut_text(self, cut: _Cut) -> str:
        return cut.header + self._text[cut.start : cut.end]

    def _units(self) -> list[range]:
        """Runs of atoms that are cut on their own, in order. A title without a body joins what follows it."""
        units: list[range] = []
        open_from: int | None = None
        for first, last in self._parts(0, len(self._sections), root=True):
            start = self._first[first] if open_from is None else open_from
            unit = range(start, self._first[last])
            has_body = any(section.has_body for section in self._sections[first:last])
            if unit and (has_body or last == len(self._sections)):
                units.append(unit)
                open_from = None
            elif unit:
                open_from = start
        return units

    def _parts(self, first: int, last: int, *, root: bool = False) -> Iterator[tuple[int, int]]:
        """Sections [first, last) as runs: the whole if it fits, else its own text and each subtree by itself."""
        if last - first == 1 or self._fits(first, last):
            yield first, last
            return
        parts = [] if root else [(first, first + 1)]
        start = first if root else first + 1
        while start < last:
            depth = self._sections[start].depth
            ends = (number for number in range(start + 1, last) if self._sections[number].depth <= depth)
            end = next(ends, last)
            parts.append((start, end))
            start = end
        for part in self._grouped(parts):
            yield from self._parts(*part)

    def _grouped(self, parts: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
        """Neighbours that are all small are put together while they fit; every other part stands alone."""
        open_part: tuple[int, int] | None = None
        for part in parts:
            small = self._tokens(*part) < self._most * _SMALL
            if open_part and small and self._fits(open_part[0], part[1]):
                open_part = (open_part[0], part[1])
                continue
            if open_part:
                yield open_part
            open_part = part if small else None
            if not small:
                yield part
        if open_part:
            yield open_part

    def _tokens(self, first: int, last: int) -> int:
        return self._sums[self._first[last]] - self._sums[self._first[first]]

    def _fits(self, first: int, last: int) -> bool:
        return self._tokens(first, last) <= self._most - self._path(self._sections[first].above)[1]

    def _cuts(self, unit: range, slack: int) -> Iterator[_Cut]:
        start = unit.start
        while start < unit.stop:
            lead = self._lead(unit, start, slack)
            end = self._end(start, unit.stop, self._most - slack - lead.tokens)
            yield _Cut(lead.start, self._atoms[end - 1].end, self._atoms[start], lead.headings, lead.header)
            start = end

    def _lead(self, unit: range, number: int, slack: int) -> _Lead:
        atom = self._atoms[number]
        section = self._sections[atom.section]
        opens = number == 0 or self._atoms[number - 1].section != atom.section
        headings, tokens = self._path(section.above if atom.is_title and opens else section.path)
        header, header_tokens = self._header(atom)
        if tokens + header_tokens + atom.tokens > self._most - slack:
            header, header_tokens = "", 0
        room = self._most - slack - tokens - header_tokens - atom.tokens
        start, overlap_tokens = self._overlapped(number, room) if number > unit.start else (atom.start, 0)
        return _Lead(headings, header, start, tokens + header_tokens + overlap_tokens)

    def _end(self, start: int, stop: int, room: int) -> int:
        """The atom behind a chunk's last: the best seam in reach, and of equals the one that fills the chunk most."""
        furthest = max(bisect_right(self._sums, self._sums[start] + room) - 1, start + 1)
        if furthest >= stop:
            return stop
        rest = self._sums[stop] - self._sums[start]
        # The last two chunks share what is left, so that no section ends in a scrap.
        last_two = rest <= room * (1 + _FILLED)
        least = max(rest - room, room * _SMALL) if last_two else room * _FILLED
        best, best_rank = furthest, (9, 0.0)
        for end in range(furthest, start, -1):
            filled = self._sums[end] - self._sums[start]
            if filled < least:
                break
            seam = 8 if self._atoms[end - 1].is_title else int(self._atoms[end].seam)
            rank = (seam, abs(filled - rest / 2) if last_two else 0.0)
            if rank < best_rank:
                best, best_rank = end, rank
        return best

    def _path(self, path: tuple[str, ...]) -> tuple[tuple[str, ...], int]:
        """The innermost headings of the path that take a quarter of a chunk at most, and their tokens."""
        if path not in self._paths:
            kept = [path[number:] for number in range(len(path) + 1)]
            texts = [embedded_text(headings, "") for headings in kept]
            counts = map(at_least, self._tokenizer.counts(texts), map(len, texts))
            fitting = (pair for pair in zip(kept, counts, strict=True) if pair[1] <= self._most // 4)
            self._paths[path] = next(fitting)
        return self._paths[path]

    def _header(self, atom: Atom) -> tuple[str, int]:
        """The header rows that are repeated before this atom of a split table, and their tokens."""
        table = atom.element
        if table.kind != "table" or table.header_end is None or atom.start < max(table.header_end, table.start + 1):
            return "", 0
        if table.start not in self._headers:
            header = self._text[table.start : table.header_end].rstrip() + "\n"
            count = at_least(self._tokenizer.count(header), len(header))
            self._headers[table.start] = (header, count) if count <= self._most // 2 else ("", 0)
        return self._headers[table.start]

    def _overlapped(self, number: int, room: int) -> tuple[int, int]:
        """Where a chunk whose own first atom is `number` starts when it repeats what precedes, and its tokens."""
        own, most = self._atoms[number], min(self._overlap, room)
        first = number
        while first > 0 and self._repeatable(own, self._atoms[first - 1]):
            if self._sums[number] - self._sums[first - 1] > most:
                break
            first -= 1
        if first < number or most <= 0 or number == 0 or not self._repeatable(own, self._atoms[number - 1]):
            return self._atoms[first].start, self._sums[number] - self._sums[first]
        return self._last_words(self._atoms[number - 1], own, most)

    def _repeatable(self, own: Atom, before: Atom) -> bool:
        kinds = ("text", "list_item")
        return before.section == own.section and before.element.kind in kinds and own.element.kind in kinds

    def _last_words(self, before: Atom, own: Atom, most: int) -> tuple[int, int]:
        text = self._text[before.start : before.end]
        spans = self._tokenizer.spans(text)
        if len(spans) <= most:
            return own.start, 0
        at = spans[-most][0]
        space = next((place for place in range(at, len(text)) if text[place].isspace()), None)
        # Without white space, as in Chinese, any character is a place to start.
        start = before.start + (space + 1 if space is not None else whole_character(text, at, 0))
        return start, self._tokenizer.count(self._text[start : own.start])
