"""Parsed document → sections and atoms: what a chunk is put together from, and where it may be cut."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum

from minirag_pipelines.core.providers.models import Tokenizer
from minirag_pipelines.core.providers.tokenizers import sentences, trimmed_span
from minirag_pipelines.core.records import Element, ParsedDocument

# A tokenizer may call any number of characters one token, or none: what is unreadable to it still takes room.
CHARACTERS_A_TOKEN = 64
_UNKNOWN_DEPTH = 1_000

_LINE = re.compile(r"[^\r\n]+")
_WORD = re.compile(r"\S+")


class Seam(IntEnum):
    """What begins at a place: the lower, the better to cut there."""

    SECTION = 0
    BLOCK = 1
    LIST_ITEM = 2
    SENTENCE = 3
    LINE = 4
    WORD = 5
    INSIDE = 6


@dataclass(frozen=True, slots=True)
class Section:
    """A title and the elements up to the next title. `above` are the titles that it stands under."""

    depth: int
    above: tuple[str, ...]
    path: tuple[str, ...]
    elements: tuple[Element, ...]

    @property
    def has_body(self) -> bool:
        return any(element.kind != "title" for element in self.elements)


@dataclass(frozen=True, slots=True)
class Atom:
    """A piece that is not cut: the span [start, end), and its tokens with the white space before it."""

    start: int
    end: int
    seam: Seam
    tokens: int
    element: Element
    section: int

    @property
    def is_title(self) -> bool:
        return self.element.kind == "title"


@dataclass(frozen=True, slots=True)
class _Piece:
    start: int
    end: int
    seam: Seam
    element: Element
    section: int


def sections_of(document: ParsedDocument) -> list[Section]:
    """The document's sections in order; what precedes the first title is one without a title."""
    elements = document.elements or (Element("text", 0, len(document.text)),)
    sections: list[Section] = []
    titles: list[tuple[int, str]] = []
    body: list[Element] = []
    for element in elements:
        if element.kind == "title":
            if body:
                sections.append(_section(titles, body))
            # A title whose depth nobody knows stands under the innermost that has one.
            depth = element.level if element.level is not None else _UNKNOWN_DEPTH
            titles = [title for title in titles if title[0] < depth]
            titles.append((depth, " ".join(document.text[element.start : element.end].split())))
            body = [element]
        else:
            body.append(element)
    return [*sections, _section(titles, body)] if body else sections


def _section(titles: list[tuple[int, str]], elements: list[Element]) -> Section:
    path = tuple(title for _, title in titles if title)
    own = titles[-1][1] if titles else ""
    return Section(titles[-1][0] if titles else 0, path[:-1] if own else path, path, tuple(elements))


def atoms_of(text: str, sections: list[Section], tokenizer: Tokenizer, limits: list[int]) -> list[Atom]:
    """The atoms of all sections in order; those of section i have at most about limits[i] tokens.

    Tokens are counted in one batch for each way of cutting, and only what is too long is cut in the next way.
    """
    pieces = [piece for number, section in enumerate(sections) for piece in _first_pieces(text, number, section)]
    tokens = _reckoned(text, pieces, tokenizer)
    for seam, cut in _ways(tokenizer, limits):
        finer: list[_Piece] = []
        known: dict[int, int] = {}
        for piece, count in zip(pieces, tokens, strict=True):
            if count <= limits[piece.section]:
                known[len(finer)] = count
                finer.append(piece)
            else:
                finer += _recut(piece, seam, cut(text, piece))
        new = [number for number in range(len(finer)) if number not in known]
        counts = _reckoned(text, finer, tokenizer, only=new)
        known |= dict(zip(new, counts, strict=True))
        pieces, tokens = finer, [known[number] for number in range(len(finer))]
    return [
        Atom(piece.start, piece.end, piece.seam, count, piece.element, piece.section)
        for piece, count in zip(pieces, tokens, strict=True)
    ]


def whole_character(text: str, position: int, lowest: int) -> int:
    """The position, or the nearest before it that parts no accent, joiner or variation sign from its character.

    Where there is none above `lowest`, the position itself.
    """
    found = position
    while lowest < found < len(text) and (_continues(text[found]) or text[found - 1] == "\u200d"):
        found -= 1
    return found if found > lowest else position


def _continues(character: str) -> bool:
    return unicodedata.category(character) in ("Mn", "Mc", "Me") or character == "\u200d" or "🏻" <= character <= "🏿"


def _first_pieces(text: str, number: int, section: Section) -> Iterator[_Piece]:
    for position, element in enumerate(section.elements):
        seam = Seam.LIST_ITEM if element.kind == "list_item" else Seam.BLOCK
        if position == 0:
            seam = Seam.SECTION
        if element.kind in ("text", "list_item"):
            offset = element.start
            spans = [(offset + a, offset + b) for a, b in sentences(text[element.start : element.end])]
        else:
            span = trimmed_span(text, element.start, element.end)
            spans = [span] if span else []
        for start, end in spans:
            yield _Piece(start, end, seam, element, number)
            seam = Seam.SENTENCE


def _ways(
    tokenizer: Tokenizer, limits: list[int]
) -> Iterable[tuple[Seam, Callable[[str, _Piece], list[tuple[int, int]]]]]:
    """The ways to cut what is too long, the best first."""

    def lines(text: str, piece: _Piece) -> list[tuple[int, int]]:
        found = (trimmed_span(text, *match.span()) for match in _LINE.finditer(text, piece.start, piece.end))
        return [span for span in found if span]

    def words(text: str, piece: _Piece) -> list[tuple[int, int]]:
        return [match.span() for match in _WORD.finditer(text, piece.start, piece.end)]

    def inside(text: str, piece: _Piece) -> list[tuple[int, int]]:
        # Half the limit, because the halves of a word may have more tokens than the word.
        return list(_inside(text, piece, tokenizer, max(limits[piece.section] // 2, 1)))

    # Again, because a part of a word that the tokenizer did not read may be readable, and then have many tokens.
    return ((Seam.LINE, lines), (Seam.WORD, words), *[(Seam.INSIDE, inside)] * 3)


def _inside(text: str, piece: _Piece, tokenizer: Tokenizer, tokens: int) -> Iterator[tuple[int, int]]:
    start, taken = piece.start, 0
    for first, last in tokenizer.spans(text[piece.start : piece.end]):
        taken += 1
        token_start, token_end = piece.start + first, piece.start + last
        if taken > tokens and token_start > start:
            position = whole_character(text, token_start, start)
            yield start, position
            start, taken = position, 1
        while token_end - start > tokens * CHARACTERS_A_TOKEN:
            position = whole_character(text, start + tokens * CHARACTERS_A_TOKEN, start)
            yield start, position
            start, taken = position, 1
    while piece.end - start > tokens * CHARACTERS_A_TOKEN:
        yield start, start + tokens * CHARACTERS_A_TOKEN
        start += tokens * CHARACTERS_A_TOKEN
    if start < piece.end:
        yield start, piece.end


def _recut(piece: _Piece, seam: Seam, spans: list[tuple[int, int]]) -> Iterator[_Piece]:
    for number, (start, end) in enumerate(spans):
        yield _Piece(start, end, seam if number else piece.seam, piece.element, piece.section)


def _reckoned(text: str, pieces: list[_Piece], tokenizer: Tokenizer, only: list[int] | None = None) -> list[int]:
    """Tokens of each piece with the white space that precedes it, as the chunk will have it."""
    numbers = range(len(pieces)) if only is None else only
    spans = [(pieces[number - 1].end if number else 0, pieces[number].end) for number in numbers]
    counts = tokenizer.counts([text[start:end] for start, end in spans])
    return [at_least(count, end - start) for count, (start, end) in zip(counts, spans, strict=True)]


def at_least(tokens: int, characters: int) -> int:
    """What so many tokens are reckoned as, when they are so many characters."""
    return max(tokens, -(-characters // CHARACTERS_A_TOKEN))
